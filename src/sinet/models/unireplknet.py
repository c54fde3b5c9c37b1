"""UniRepLKNet: few very large depthwise kernels, small ones between them, merged for inference.

"UniRepLKNet: A Universal Perception Large-Kernel ConvNet for Audio, Video, Point Cloud,
Time-Series and Image Recognition", arXiv 2311.15599; journal form "Scaling Up Your Kernels: Large
Kernel Design in ConvNets towards Universal Representations", arXiv 2410.08049. Origin:
AILab-CVC/UniRepLKNet, Apache-2.0; written anew here.

From the second stage on some blocks have a 13 x 13 depthwise convolution that trains together with
smaller, dilated ones; all of them are linear, so they merge into the one large kernel. Between
the large ones, 3 x 3 blocks add depth. Squeeze-excite is in every block.

Reported, ImageNet-1K at 224 px (merged parameters, merged MACs, top-1): A 4.4 M, 0.6 G, 77.0;
F 6.2 M, 0.9 G, 78.6; P 10.7 M, 1.6 G, 80.2; N 18.3 M, 2.8 G, 81.6; T 31 M, 4.9 G, 83.2;
S 56 M, 9.1 G, 83.9; B, L, XL 98, 218, 386 M (pretrained on 22K, at 384 px: 87.4, 87.9, 88.0).
The training form has about 1-5% more parameters.

What differs: the merge is one module's `fuse()` (`timm.utils.reparameterize_model`) and exact in
the network's own precision; there is no custom CUDA kernel.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import (
    DropPath,
    LayerNorm2d,
    NormMlpClassifierHead,
    SqueezeExcite,
    calculate_drop_path_rates,
)
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.errors import UsageError
from sinet.layers import ConvNorm
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["DilatedReparam", "UniRepLKNet"]

BRANCHES: dict[int, tuple[tuple[int, int], ...]] = {
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 2), (3, 3)),
}
"""Large kernel -> (kernel, dilation) of the convolutions that train beside it."""


class DilatedBranch(ConvNorm):
    """A depthwise convolution with holes, then a BatchNorm.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, kernel_size: int, dilation: int) -> None:
        super().__init__(dim, dim, kernel_size, groups=dim)
        reach = dilation * (kernel_size - 1) // 2
        self.conv.padding, self.conv.dilation = (reach, reach), (dilation, dilation)


class DilatedReparam(nn.Module):
    """A large depthwise kernel that trains beside smaller, dilated ones.

    `BN0(DW_K(x)) + sum_i BN_i(DW_{k_i, dilation r_i}(x))`; `fuse()` folds the norms, spreads each
    small kernel to the places it reaches and adds it to the centre of the large one.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        """Build it.

        Args:
            dim: channels.
            kernel_size: one of `BRANCHES`.

        Raises:
            UsageError: a kernel size without branches.
        """
        super().__init__()
        if kernel_size not in BRANCHES:
            raise UsageError(f"kernel size {kernel_size} has no branches; use {sorted(BRANCHES)}")
        self.origin = ConvNorm(dim, dim, kernel_size, groups=dim)
        self.branches = nn.ModuleDict(
            {f"k{k}_{r}": DilatedBranch(dim, k, r) for k, r in BRANCHES[kernel_size]}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of all branches."""
        out: torch.Tensor = self.origin(x)
        for branch in self.branches.values():
            out = out + branch(x)
        return out

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The same function as one convolution with bias."""
        merged = self.origin.fuse()
        assert isinstance(merged, nn.Conv2d)
        assert merged.bias is not None
        size = merged.kernel_size[0]
        for branch in self.branches.values():
            conv: Any = branch.fuse()  # type: ignore[operator]
            step, reach = conv.dilation[0], conv.padding[0]
            places = slice(size // 2 - reach, size // 2 + reach + 1, step)
            merged.weight[:, :, places, places] += conv.weight
            merged.bias += conv.bias
        return merged


class ResponseNorm(nn.Module):
    """Global response normalization: `y + bias + weight * y * |y| / (mean over C of |y| + 1e-6)`.

    |y| is the L2 norm of a channel over the map. As timm's `GlobalResponseNorm`, but its bias can
    be taken away, as merging does.

    Shape: (B, H, W, dim) -> (B, H, W, dim)
    """

    bias: nn.Parameter | None

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale each channel by its share of the response."""
        norm = x.norm(p=2, dim=(1, 2), keepdim=True)
        scaled: torch.Tensor = x * (
            self.weight * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)) + 1
        )
        return scaled if self.bias is None else scaled + self.bias


class Block(nn.Module):
    """Look around, weigh the channels, mix them.

    `x + gamma * BN(fc2(GRN(GELU(fc1(SE(BN(DW(x))))))))`, DW the dilated reparam block from kernel
    size 7 on, a plain depthwise convolution below. `fuse()` gives the same block without
    BatchNorm, branches, gamma and the bias of GRN.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    gamma: nn.Parameter | None

    def __init__(self, dim: int, kernel_size: int, drop_path: float) -> None:
        super().__init__()
        self.dw: nn.Module
        if kernel_size >= 7:
            self.dw = DilatedReparam(dim, kernel_size)
        else:
            padding = kernel_size // 2
            self.dw = nn.Conv2d(dim, dim, kernel_size, 1, padding, groups=dim, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(dim)
        self.se = SqueezeExcite(dim, rd_channels=dim // 4)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.grn = ResponseNorm(4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the residual."""
        y = self.se(self.norm(self.dw(x)))
        y = self.fc2(self.grn(self.act(self.fc1(y.permute(0, 2, 3, 1)))))
        y = self.bn(y.permute(0, 3, 1, 2))
        if self.gamma is not None:
            y = y * self.gamma.reshape(1, -1, 1, 1)
        return x + self.drop_path(y)  # type: ignore[no-any-return]

    @torch.no_grad()
    def fuse(self) -> Block:
        """A merged copy; itself if it is merged already."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return self
        block = copy.deepcopy(self)
        conv = self.dw.fuse() if isinstance(self.dw, DilatedReparam) else self.dw
        block.dw, block.norm = _folded(conv, self.norm), nn.Identity()
        scale, shift = _scale_and_shift(self.bn)
        assert self.gamma is not None
        assert self.grn.bias is not None
        weight = self.fc2.weight
        block.fc2 = nn.Linear(weight.shape[1], weight.shape[0]).to(weight)
        block.fc2.weight.copy_((self.gamma * scale)[:, None] * weight)
        block.fc2.bias.copy_(self.gamma * (scale * (weight @ self.grn.bias) + shift))
        block.bn, block.gamma, block.grn.bias = nn.Identity(), None, None
        return block


def _scale_and_shift(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A BatchNorm in evaluation is `scale * x + shift`."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _folded(conv: Any, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with bias that does what a depthwise one and a norm after it do."""
    scale, shift = _scale_and_shift(norm)
    dim, size = conv.out_channels, conv.kernel_size[0]
    out = nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim).to(conv.weight)
    assert out.bias is not None
    out.weight.copy_(conv.weight * scale[:, None, None, None])
    out.bias.copy_(shift if conv.bias is None else shift + conv.bias * scale)
    return out


class UniRepLKNet(StagedNet):
    """The network: a stem of stride 4, four stages, pooling, norm and a linear layer.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        feature_norms: bool = False,
    ) -> None:
        """Build the network in its training form.

        Args:
            dims: channels of each stage.
            depths: blocks of each stage.
            kernel_sizes: of each stage, repeated over its blocks.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            global_pool: any timm pooling that keeps the width, "" for none.
            feature_norms: the maps of `features_only` each pass a norm of their own, as in the
                origin's networks for dense prediction; its classifiers have no weights for them.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, dims[0] // 2, 3, 2, 1),
            LayerNorm2d(dims[0] // 2),
            nn.GELU(),
            nn.Conv2d(dims[0] // 2, dims[0], 3, 2, 1),
            LayerNorm2d(dims[0]),
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            layers: list[nn.Module] = []
            if i > 0:  # here the norm comes after the convolution, in ConvNeXt before
                down = nn.Conv2d(dims[i - 1], dim, 3, 2, 1)
                layers.append(nn.Sequential(down, LayerNorm2d(dim)))
            sizes = kernel_sizes[i]
            layers += [Block(dim, sizes[j % len(sizes)], rates[i][j]) for j in range(depths[i])]
            stages.append(nn.Sequential(*layers))
            info = {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        self.norms = nn.ModuleList(map(LayerNorm2d, dims)) if feature_norms else None
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        head = NormMlpClassifierHead(
            dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate
        )
        self.set_head(dims[-1], head)

    def forward_intermediates(
        self, x: torch.Tensor, indices: Sequence[int], norm: bool, **_: object
    ) -> list[torch.Tensor]:
        """The maps of these stages, which timm asks for where `features_only` has norms."""
        maps = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = self.forward_stage(stage, x)
            if i in indices:
                maps.append(self.norms[i](x) if norm and self.norms is not None else x)
        return maps

    def prune_intermediate_layers(self, indices: Sequence[int], **_: object) -> list[int]:
        """Leave out the head, and the stages and norms behind which no map is taken.

        Raises:
            IndexError: an index of no stage.
        """
        kept = [range(len(self.stages))[i] for i in indices]
        self.head = nn.Identity()
        self.stages = self.stages[: max(kept) + 1]
        for i in range(len(self.feature_info)):
            if i not in kept and self.norms is not None:
                self.norms[i] = nn.Identity()
        return kept


_RENAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.0."),
    (r"^norm\.", "head.norm."),
    (r"^norm(\d)\.", r"norms.\1."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"\.dwconv\.dil_conv_(k\d+_\d+)\.", r".dw.branches.\1.conv."),
    (r"\.dwconv\.dil_bn_(k\d+_\d+)\.", r".dw.branches.\1.bn."),
    (r"\.dwconv\.origin_bn\.", ".dw.origin.bn."),
    (r"\.dwconv\.", ".dw."),
    (r"\.se\.down\.", ".se.fc1."),
    (r"\.se\.up\.", ".se.fc2."),
    (r"\.pwconv1\.1\.", ".fc1."),
    (r"\.pwconv2\.0\.", ".fc2."),
    (r"\.pwconv2\.2\.", ".bn."),
    (r"\.act\.1\.gamma$", ".grn.weight"),
    (r"\.act\.1\.beta$", ".grn.bias"),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming, merged or not, -> ours."""
    if "downsample_layers.0.0.weight" not in state_dict:
        return state_dict
    merged = any(name.endswith("lk_origin.bias") for name in state_dict)
    large = ".dw." if merged else ".dw.origin.conv."
    out = {}
    for name, value in state_dict.items():
        # the first place of stages 2-4 is the downsampling here
        name = re.sub(r"^stages\.([1-3])\.(\d+)", _one_later, name)
        name = name.replace(".dwconv.lk_origin.", large)
        for pattern, new in _RENAMES:
            name = re.sub(pattern, new, name)
        out[name] = value.reshape(-1) if ".grn." in name else value
    return out


def _one_later(found: re.Match[str]) -> str:
    return f"stages.{found[1]}.{int(found[2]) + 1}"


_FEW = ((3,), (13,), (13,), (13,))
_TINY = ((3,), (13,), (13, 3), (13,))
_SMALL = ((3,), (13,), (13, 3, 3), (13,))
_VARIANTS: dict[str, dict[str, Any]] = {
    "unireplknet_test": {
        "dims": (16, 24, 32, 48), "depths": (1, 1, 2, 1), "kernel_sizes": _TINY,
    },
    "unireplknet_a": {
        "dims": (40, 80, 160, 320), "depths": (2, 2, 6, 2), "kernel_sizes": _FEW,
    },
    "unireplknet_f": {
        "dims": (48, 96, 192, 384), "depths": (2, 2, 6, 2), "kernel_sizes": _FEW,
    },
    "unireplknet_p": {
        "dims": (64, 128, 256, 512), "depths": (2, 2, 6, 2), "kernel_sizes": _FEW,
    },
    "unireplknet_n": {
        "dims": (80, 160, 320, 640), "depths": (2, 2, 8, 2), "kernel_sizes": _FEW,
    },
    "unireplknet_t": {
        "dims": (80, 160, 320, 640), "depths": (3, 3, 18, 3), "kernel_sizes": _TINY,
    },
    "unireplknet_s": {
        "dims": (96, 192, 384, 768), "depths": (3, 3, 27, 3), "kernel_sizes": _SMALL,
    },
    "unireplknet_b": {
        "dims": (128, 256, 512, 1024), "depths": (3, 3, 27, 3), "kernel_sizes": _SMALL,
    },
    "unireplknet_l": {
        "dims": (192, 384, 768, 1536), "depths": (3, 3, 27, 3), "kernel_sizes": _SMALL,
    },
    "unireplknet_xl": {
        "dims": (256, 512, 1024, 2048), "depths": (3, 3, 27, 3), "kernel_sizes": _SMALL,
    },
}  # fmt: skip
default_cfgs = generate_default_cfgs(
    {name: default_cfg(first_conv="stem.0", crop_pct=0.875) for name in _VARIANTS}
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    levels: dict[str, Any] = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
    if kwargs.get("feature_norms"):
        levels |= {"feature_cls": "getter", "norm": True}
    return build(
        UniRepLKNet, variant, pretrained, feature_cfg=levels, **{**_VARIANTS[variant], **kwargs}
    )


@register_model  # type: ignore[untyped-decorator]
def unireplknet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.1 M parameters."""
    return _create("unireplknet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def unireplknet_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Atto: 4.4 M parameters merged."""
    return _create("unireplknet_a", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def unireplknet_f(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Femto: 6.2 M parameters merged."""
    return _create("unireplknet_f", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def unireplknet_p(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Pico: 10.7 M parameters merged."""
    return _create("unireplknet_p", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def unireplknet_n(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Nano: 18.3 M parameters merged."""
    return _create("unireplknet_n", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def unireplknet_t(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Tiny: 31 M parameters merged."""
    return _create("unireplknet_t", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def unireplknet_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Small: 56 M parameters merged."""
    return _create("unireplknet_s", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def unireplknet_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Base: 98 M parameters merged."""
    return _create("unireplknet_b", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def unireplknet_l(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Large: 218 M parameters merged."""
    return _create("unireplknet_l", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def unireplknet_xl(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Extra large: 386 M parameters merged."""
    return _create("unireplknet_xl", pretrained, **kwargs)
