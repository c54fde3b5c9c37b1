"""LSNet: see large, focus small. A light network that mixes positions by LS convolution.

"LSNet: See Large, Focus Small", arXiv 2503.23135 (CVPR 2025). Origin: github.com/jameslahm/lsnet,
which states no licence; this was written from the paper and from recorded outputs, not from it.

    even blocks    z = se(dw3x3(x) + dw1x1(x) + x)          each depthwise with BatchNorm
    odd blocks     z = LSConv(x), in the last stage z = x + attention(x)
    every block    z + ffn(z)

The stem ends at stride 8; every map after it is small, and the last is attended with one learnt
bias for each distance, which binds a network to the image size that it was built for. Differences
from the origin: bias tables are indexed at each call instead of cached (theirs ignores weights
that are loaded after `eval()`), and oblong sizes may be built.

Reported, ImageNet-1K at 224 (in brackets distilled from RegNetY-160): T 74.9 (76.1) 11.4 M 0.3 G,
S 77.8 (79.0) 16.1 M 0.5 G, B 80.3 (81.6) 23.2 M 1.3 G. Ours as built for training: 11.41, 16.15
and 23.31 M parameters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import (
    DropPath,
    NormMlpClassifierHead,
    SqueezeExcite,
    calculate_drop_path_rates,
    to_2tuple,
)
from timm.models import generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.layers.conv import ConvNorm
from sinet.layers.ls_conv import LSConv
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["LSNet"]

KEY_DIM, HEADS = 16, 4


class RepDepthwise(nn.Module):
    """Depthwise mixer of three branches that fold into one: `dw3x3(x) + dw1x1(x) + x`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = ConvNorm(dim, dim, 3, groups=dim)
        self.conv1 = ConvNorm(dim, dim, 1, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum the branches."""
        out: torch.Tensor = self.conv(x) + self.conv1(x) + x
        return out

    def fuse(self) -> nn.Module:
        """The same function as one depthwise convolution."""
        conv, point = self.conv.fuse(), self.conv1.fuse()
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(point, nn.Conv2d)
        assert conv.bias is not None
        assert point.bias is not None
        with torch.no_grad():
            conv.weight += F.pad(point.weight + 1, (1, 1, 1, 1))  # + 1: the identity
            conv.bias += point.bias
        return conv


class FeedForward(nn.Module):
    """`x + project(relu(expand(x)))`, twice as wide inside.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.pw1 = ConvNorm(dim, 2 * dim)
        self.act = nn.ReLU()
        self.pw2 = ConvNorm(2 * dim, dim, zero_init=True)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Widen, narrow, add."""
        return x + self.drop_path(self.pw2(self.act(self.pw1(x))))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention of a whole map, its queries widened by a depthwise convolution.

        x + proj(relu(v softmax(q^T k / sqrt(16) + bias[|dy|, |dx|])^T))

    with q, k of 16 channels a head, v of dim / heads, and one learnt bias a head and distance.

    Shape: (B, dim, H, W) -> (B, dim, H, W), H and W being `grid`
    """

    index: torch.Tensor

    def __init__(self, dim: int, grid: tuple[int, int], img_size: tuple[int, int]) -> None:
        super().__init__()
        self.dim, self.grid, self.img_size = dim, grid, img_size
        self.qkv = ConvNorm(dim, 2 * HEADS * KEY_DIM + dim)
        self.dw = ConvNorm(HEADS * KEY_DIM, HEADS * KEY_DIM, 3, groups=HEADS * KEY_DIM)
        self.act = nn.ReLU()
        self.proj = ConvNorm(dim, dim, zero_init=True)
        self.attention_biases = nn.Parameter(torch.zeros(HEADS, grid[0] * grid[1]))
        self.register_buffer("index", _distances(*grid), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what each position reads from the others."""
        height, width = x.shape[-2:]
        if (height, width) != self.grid:
            raise UsageError(
                f"a last map of {height} x {width} cannot be attended: this network was built for "
                f"images of {self.img_size[0]} x {self.img_size[1]} (a map of {self.grid[0]} x "
                f"{self.grid[1]}); resize them, or build it with another img_size"
            )
        q, k, v = self.qkv(x).split([HEADS * KEY_DIM, HEADS * KEY_DIM, self.dim], dim=1)
        q, k, v = (t.flatten(2).unflatten(1, (HEADS, -1)) for t in (self.dw(q), k, v))
        weights = q.transpose(-2, -1) @ k * KEY_DIM**-0.5 + self.attention_biases[:, self.index]
        y = v @ weights.softmax(dim=-1).transpose(-2, -1)
        y = y.flatten(1, 2).unflatten(2, (height, width))
        return x + self.proj(self.act(y))  # type: ignore[no-any-return]


def _distances(height: int, width: int) -> torch.Tensor:
    """|dy| * width + |dx| between all pairs of positions, row-major: (H * W, H * W)."""
    rows, cols = torch.arange(height), torch.arange(width)
    dy = (rows[:, None] - rows[None]).abs()
    dx = (cols[:, None] - cols[None]).abs()
    return (dy[:, None, :, None] * width + dx[None, :, None, :]).reshape(height * width, -1)


class Block(nn.Module):
    """Mix positions, reweigh channels where the mixer does not, mix channels.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.mixer = mixer
        static = isinstance(mixer, RepDepthwise)
        self.se = SqueezeExcite(dim, rd_ratio=0.25) if static else nn.Identity()
        self.ffn = FeedForward(dim, drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mixer, squeeze-excite, feed-forward; each holds its own shortcut."""
        return self.ffn(self.se(self.mixer(x)))  # type: ignore[no-any-return]


class BatchNormHead(NormMlpClassifierHead):  # type: ignore[misc]
    """Pool, BatchNorm, linear; the norm folds into the linear.

    Shape: (B, dim, H, W) -> (B, num_classes)
    """

    norm: nn.Module

    def __init__(self, dim: int, num_classes: int, global_pool: str, drop_rate: float) -> None:
        options = (num_classes, None, global_pool, drop_rate)
        super().__init__(dim, *options, norm_layer=nn.BatchNorm2d)
        if num_classes > 0:
            nn.init.trunc_normal_(self.fc.weight, std=0.02)
            nn.init.zeros_(self.fc.bias)

    def fuse(self) -> nn.Module:
        """Itself without the norm; unchanged if there is no classifier to take it in."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d) or isinstance(self.fc, nn.Identity):
            return self
        weight: torch.Tensor = self.fc.weight
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        with torch.no_grad():
            self.fc.bias += weight.flatten(1) @ shift
            weight *= scale.view(-1, *[1] * (weight.ndim - 2))
        self.norm = nn.Identity()
        return self


class LSNet(StagedNet):
    """The network: a stem of stride 8, four stages, one head or two, with timm's methods.

    Shape: (B, in_chans, H, W) -> (B, num_classes), H and W being `img_size`
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        distilled: bool = False,
        img_size: int | tuple[int, int] = 224,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            dims: channels of each stage, multiples of 8.
            depths: blocks of each stage; the first may have none.
            distilled: a second head learns from a teacher; logits are the mean of both, except
                while training after `set_distilled_training()`.
            img_size: height and width of the images, or one number for both, pixels.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        self.distilled_training = False
        size = to_2tuple(img_size)
        self.stem = nn.Sequential(
            ConvNorm(in_chans, dims[0] // 4, 3, 2), nn.ReLU(),
            ConvNorm(dims[0] // 4, dims[0] // 2, 3, 2), nn.ReLU(),
            ConvNorm(dims[0] // 2, dims[0], 3, 2),
        )  # fmt: skip
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages: list[nn.Module] = []
        for i, dim in enumerate(dims):
            reduction = 8 << i
            grid = (-(-size[0] // reduction), -(-size[1] // reduction))
            layers: list[nn.Module] = []
            if i > 0:
                layers += [ConvNorm(dims[i - 1], dims[i - 1], 3, 2, groups=dims[i - 1])]
                layers += [ConvNorm(dims[i - 1], dim)]
            for j, rate in enumerate(rates[i]):
                mixer: nn.Module = RepDepthwise(dim)
                if j % 2:
                    last = i == len(dims) - 1
                    mixer = Attention(dim, grid, size) if last else LSConv(dim)
                layers.append(Block(dim, mixer, rate))
            # a stage without blocks still needs a module whose output is its map
            stages.append(nn.Sequential(*layers or [nn.Identity()]))
            info = {"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()  # the origin keeps PyTorch's own initialisation
        head = (dims[-1], num_classes, global_pool, drop_rate)
        self.set_head(dims[-1], BatchNormHead(*head))
        self.head_dist = BatchNormHead(*head) if distilled else None

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """The position biases."""
        return {name for name, _ in self.named_parameters() if name.endswith("attention_biases")}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_distilled_training(self, enable: bool = True) -> None:
        """Return both heads' logits while training, for a distillation loss."""
        self.distilled_training = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def get_classifier(self) -> Any:
        """The last linear layer; both of them if distilled."""
        return self.head.fc if self.head_dist is None else (self.head.fc, self.head_dist.fc)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layers, and the pooling if given."""
        super().reset_classifier(num_classes, global_pool)
        if self.head_dist is not None:
            self.head_dist.reset(num_classes, global_pool)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> Any:
        """Pool and classify; `pre_logits` stops at (B, head_hidden_size)."""
        out = self.head(x, pre_logits=pre_logits)
        if self.head_dist is None:
            return out
        other = self.head_dist(x, pre_logits=pre_logits)
        if self.distilled_training and self.training and not pre_logits:
            return out, other
        return (out + other) / 2


_RENAMES = (
    (r"^patch_embed\.", "stem."),
    (r"\.c\.", ".conv."),
    (r"\.ffn\.m\.", ".ffn."),
    (r"\.mixer\.m\.", ".mixer."),
    (r"\.proj\.1\.", ".proj."),
    (r"^(head|head_dist)\.l\.", r"\1.fc."),
    (r"^(head|head_dist)\.bn\.", r"\1.norm."),
    (r"^(head|head_dist)\.(weight|bias)$", r"\1.fc.\2"),  # of a fused network
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in their authors' naming -> ours, of the training form and of the fused form."""
    out = {}
    for name, tensor in state_dict.items():
        if name.endswith("attention_bias_idxs"):
            continue  # follows from the image size
        name = re.sub(r"^blocks(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.", name)
        for pattern, ours in _RENAMES:
            name = re.sub(pattern, ours, name)
        out[name] = tensor
    return out


_VARIANTS: dict[str, dict[str, Any]] = {
    "lsnet_test": {"dims": (16, 32, 48, 64), "depths": (0, 2, 2, 2)},
    "lsnet_t": {"dims": (64, 128, 256, 384), "depths": (0, 2, 8, 10)},
    "lsnet_s": {"dims": (96, 192, 320, 448), "depths": (1, 2, 8, 10)},
    "lsnet_b": {"dims": (128, 256, 384, 512), "depths": (4, 6, 8, 10)},
}
_DISTILLED = {f"{name}_distill": {**_VARIANTS[name], "distilled": True}
              for name in ("lsnet_t", "lsnet_s", "lsnet_b")}  # fmt: skip
_VARIANTS |= _DISTILLED


def _cfg(name: str) -> dict[str, Any]:
    classifier = ("head.fc", "head_dist.fc") if name in _DISTILLED else "head.fc"
    return default_cfg(fixed_input_size=True, pool_size=(4, 4), crop_pct=0.9, classifier=classifier)


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(LSNet, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def lsnet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.1 M parameters."""
    return _create("lsnet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def lsnet_t(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LSNet-T: 74.9 % on ImageNet-1K in 0.3 GMACs, as reported."""
    return _create("lsnet_t", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def lsnet_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LSNet-S: 77.8 % on ImageNet-1K in 0.5 GMACs, as reported."""
    return _create("lsnet_s", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def lsnet_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LSNet-B: 80.3 % on ImageNet-1K in 1.3 GMACs, as reported."""
    return _create("lsnet_b", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def lsnet_t_distill(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LSNet-T with a second head for a teacher: 76.1 %, as reported."""
    return _create("lsnet_t_distill", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def lsnet_s_distill(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LSNet-S with a second head for a teacher: 79.0 %, as reported."""
    return _create("lsnet_s_distill", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def lsnet_b_distill(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LSNet-B with a second head for a teacher: 81.6 %, as reported."""
    return _create("lsnet_b_distill", pretrained, **kwargs)
