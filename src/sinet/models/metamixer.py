"""FFNet: a network of FFNified attention, where everything mixes by convolution and GELU.

"MetaMixer Is All You Need" (later "FFNet: MetaMixer-based Efficient Convolutional Mixer Design"),
arXiv 2406.02021. Origin: ysj9909/FFNet, Apache-2.0; written anew here.

Reported, ImageNet-1K (merged parameters, merged MACs, top-1, distilled): FFNet-1 13.7 M, 2.9 G at
256 px, 81.3, 82.1; FFNet-2 26.9 M, 6.0 G at 256 px, 82.9, 83.7; FFNet-3 48.3 M, 10.1 G at 256 px,
83.9, 84.5; FFNet-4 79.2 M, 43.1 G at 384 px, 85.3. The training form has about 1% more parameters.

What differs: merging works in the network's own precision (the origin's makes float32 layers). The
paper's networks for super-resolution, `FFNetSR`, are built by `sinet.models.create_network`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead, ConvMlp, DropPath, LayerScale2d, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F

from sinet.layers import ConvNorm
from sinet.layers.ffnified_attention import FFNifiedAttention, RepDepthwise
from sinet.models._base import StagedNet, build, default_cfg
from sinet.models._networks import register_for

__all__ = ["FFNet", "FFNetSR"]


class NormConvSkip(nn.Module):
    """`x + conv(BN(x))`, a pointwise convolution without bias; `fuse()` takes the sum in, too.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(dim)
        self.conv = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the mixed channels."""
        out: torch.Tensor = x + self.conv(self.bn(x))
        return out

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The same function as one convolution with bias."""
        bn, weight = self.bn, self.conv.weight
        assert bn.running_mean is not None
        assert bn.running_var is not None
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        shift = bn.bias - bn.running_mean * scale
        out = nn.Conv2d(weight.shape[1], weight.shape[0], 1).to(weight)
        assert out.bias is not None
        eye = torch.eye(len(weight), device=weight.device, dtype=weight.dtype)
        out.weight.copy_(weight * scale[:, None, None] + eye[:, :, None, None])
        out.bias.copy_(weight.flatten(1) @ shift)
        return out


class ChannelMixer(nn.Module):
    """`fc2(GELU(fc1(DW(x))))`, as a block of ConvNeXt with BatchNorm.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.dw: nn.Module
        if kernel_size == 7:
            self.dw = RepDepthwise(dim, dim, kernel_size)
        else:
            self.dw = ConvNorm(dim, dim, kernel_size, groups=dim)
        self.mlp = ConvMlp(dim, 3 * dim, act_layer=nn.GELU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look around, then mix channels."""
        return self.mlp(self.dw(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """`x = x + ls1 * FFNifiedAttention(x); x = x + ls2 * ChannelMixer(x)`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self, dim: int, token_kernel: int, channel_kernel: int, layer_scale: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.mixer: nn.Module = FFNifiedAttention(dim, token_kernel)
        self.ls1 = LayerScale2d(dim, 1e-6) if layer_scale else nn.Identity()
        self.mlp = ChannelMixer(dim, channel_kernel)
        self.ls2 = LayerScale2d(dim, 1e-6) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions, then channels."""
        x = x + self.drop_path(self.ls1(self.mixer(x)))
        x = x + self.drop_path(self.ls2(self.mlp(x)))
        return x


class FFNet(StagedNet):
    """The network: a stem of stride 4, four stages, BatchNorm, pooling and a linear layer.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        token_kernels: Sequence[int] = (3, 3, 7, 7),
        channel_kernel: int = 7,
        layer_scale: bool = False,
        stem_width: int = 64,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        """Build the network in its training form.

        Args:
            dims: channels of each stage.
            depths: blocks of each stage.
            token_kernels: of keys and values in each stage.
            channel_kernel: depthwise kernel of the channel mixers.
            layer_scale: learned scales of the residual branches, which start at 1e-6.
            stem_width: channels between the stem's convolutions.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        self.stem = nn.Sequential(
            ConvNorm(in_chans, stem_width, 3, 2), nn.GELU(), ConvNorm(stem_width, dims[0], 3, 2)
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            layers: list[nn.Module] = []
            if i > 0:
                down = RepDepthwise(dims[i - 1], dim, 7, 2)
                layers.append(nn.Sequential(down, NormConvSkip(dim)))
            block = (dim, token_kernels[i], channel_kernel, layer_scale)
            layers += [Block(*block, rate) for rate in rates[i]]
            stages.append(nn.Sequential(*layers))
            info = {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.norm = nn.BatchNorm2d(dims[-1])
        head = ClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.set_head(dims[-1], head)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last map, normed."""
        out: torch.Tensor = self.norm(super().forward_features(x))
        return out


class SRBlock(nn.Module):
    """The block without norms: `x = x + attention(x); x = x + mlp(dw(x))`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, expansion: float) -> None:
        super().__init__()
        self.mixer = FFNifiedAttention(dim, 3, norm_layer=None)
        self.dw = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)
        self.mlp = ConvMlp(dim, int(dim * expansion), act_layer=nn.GELU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions, then channels."""
        x = x + self.mixer(x)
        x = x + self.mlp(self.dw(x))
        return x


class FFNetSR(nn.Module):
    """Super-resolution: what the blocks find is added to the image, each pixel repeated.

    Shape: (B, in_chans, H, W) -> (B, in_chans, scale * H, scale * W), values from 0 to 1.
    """

    def __init__(
        self,
        scale: int = 2,
        dim: int = 96,
        depth: int = 36,
        expansion: float = 2,
        in_chans: int = 3,
    ) -> None:
        """Build the network.

        Args:
            scale: how many times larger the image becomes.
            dim: channels.
            depth: blocks.
            expansion: width of the channel mixers, in channels.
            in_chans: image channels.
        """
        super().__init__()
        self.scale, self.in_chans = scale, in_chans
        self.stem = nn.Conv2d(in_chans, dim, 3, 1, 1)
        self.body = nn.Sequential(*(SRBlock(dim, expansion) for _ in range(depth)))
        self.head = nn.Conv2d(dim, in_chans * scale**2, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the larger image."""
        detail = self.head(self.body(self.stem(x)))
        return F.pixel_shuffle(detail + x.repeat_interleave(self.scale**2, dim=1), self.scale)


_RENAMES = (
    (r"\.c\.weight$", ".conv.weight"),
    (r"^patch_embed\.", "stem."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"^(stages\.\d\.0)\.proj\.0\.", r"\1.0."),
    (r"^(stages\.\d\.0)\.proj\.1\.(?:conv\.)?", r"\1.1."),
    (r"\.token_mixer\.0\.layer_scale$", ".ls1.gamma"),
    (r"\.channel_mixer\.layer_scale$", ".ls2.gamma"),
    (r"\.token_mixer\.0\.main\.fc\.", ".mixer.query."),
    (r"\.token_mixer\.0\.main\.conv1\.", ".mixer.keys."),
    (r"\.token_mixer\.0\.main\.conv2\.", ".mixer.values."),
    (r"\.channel_mixer\.main\.conv\.", ".mlp.dw."),
    (r"\.channel_mixer\.main\.(fc[12])\.", r".mlp.mlp.\1."),
    (r"\.conv\.(?=(?:conv|bn)\.)", ".large."),
    (r"\.conv1\.(?=(?:conv|bn)\.)", ".small."),
)
_SR_RENAMES = (
    (r"^proj\.", "stem."),
    (r"^conv_bef_up\.", "head."),
    (r"\.token_mixer\.0\.", ".mixer.query."),
    (r"\.token_mixer\.1\.", ".mixer.keys."),
    (r"\.token_mixer\.3\.", ".mixer.values."),
    (r"\.channel_mixer\.0\.", ".dw."),
    (r"\.channel_mixer\.1\.", ".mlp.fc1."),
    (r"\.channel_mixer\.3\.", ".mlp.fc2."),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming, merged or not, of either network -> ours."""
    renames = _SR_RENAMES if "conv_bef_up.weight" in state_dict else _RENAMES
    theirs = ("conv_bef_up.weight", "patch_embed.0.c.weight", "patch_embed.0.weight")
    if not any(name in state_dict for name in theirs):
        return state_dict
    out = {}
    for name, value in state_dict.items():
        for pattern, new in renames:
            name = re.sub(pattern, new, name)
        out[name] = value.reshape(-1) if ".ls" in name else value
    return out


_VARIANTS: dict[str, dict[str, Any]] = {
    "ffnet_test": {
        "dims": (16, 32, 64, 128), "depths": (1, 1, 2, 1), "layer_scale": True, "stem_width": 16,
    },
    "ffnet_1": {"dims": (80, 160, 320, 640), "depths": (2, 2, 8, 2), "channel_kernel": 3},
    "ffnet_2": {"dims": (88, 176, 352, 704), "depths": (3, 3, 15, 3)},
    "ffnet_3": {"dims": (96, 192, 384, 768), "depths": (4, 4, 22, 5), "layer_scale": True},
    "ffnet_4": {"dims": (128, 256, 512, 1024), "depths": (4, 4, 27, 3), "layer_scale": True},
}  # fmt: skip
_AT_256 = {"input_size": (3, 256, 256), "pool_size": (8, 8)}
_AT_384 = {"input_size": (3, 384, 384), "pool_size": (12, 12)}
default_cfgs = generate_default_cfgs(
    {
        "ffnet_test": default_cfg(crop_pct=0.9, **_AT_256),
        "ffnet_1": default_cfg(crop_pct=0.9, **_AT_256),
        "ffnet_2": default_cfg(crop_pct=0.9, **_AT_256),
        "ffnet_3": default_cfg(crop_pct=0.95, **_AT_256),
        "ffnet_4": default_cfg(crop_pct=0.95, **_AT_384),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(FFNet, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def ffnet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.2 M parameters."""
    return _create("ffnet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def ffnet_1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """13.7 M parameters merged, 2.9 GMACs at 256 px."""
    return _create("ffnet_1", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def ffnet_2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """26.9 M parameters merged, 6.0 GMACs at 256 px."""
    return _create("ffnet_2", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def ffnet_3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """48.3 M parameters merged, 10.1 GMACs at 256 px."""
    return _create("ffnet_3", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def ffnet_4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """79.2 M parameters merged, 43.1 GMACs at 384 px."""
    return _create("ffnet_4", pretrained, **kwargs)


_SR_VARIANTS: dict[str, dict[str, Any]] = {
    "ffnet_sr_test": {"scale": 2, "dim": 16, "depth": 2},
    "ffnet_sr_light_x2": {"scale": 2, "dim": 96, "depth": 36},
    "ffnet_sr_x2": {"scale": 2, "dim": 96, "depth": 48},
}


@register_for("superres")
def ffnet_sr_test(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """For tests: twice as large, 6 k parameters."""
    return FFNetSR(**{**_SR_VARIANTS["ffnet_sr_test"], **kwargs})


@register_for("superres")
def ffnet_sr_light_x2(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """Twice as large: 36 blocks, 1.79 M parameters."""
    return FFNetSR(**{**_SR_VARIANTS["ffnet_sr_light_x2"], **kwargs})


@register_for("superres")
def ffnet_sr_x2(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """Twice as large: 48 blocks, 2.38 M parameters."""
    return FFNetSR(**{**_SR_VARIANTS["ffnet_sr_x2"], **kwargs})
