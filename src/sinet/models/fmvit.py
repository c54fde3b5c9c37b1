"""FMViT: a reconstruction. Attention for low frequencies, convolutions for two bands above it.

After "FMViT: A multiple-frequency mixing Vision Transformer", arXiv 2311.05707. Its repository
(github.com/tany0699/FMViT, Apache-2.0) never held code, and only the abstract was at hand: the
names and roles of the parts are the paper's, every number and detail here is ours. The paper's
accuracies are not this network's, and none are quoted.

    CFB   x = x + mhc(x);  x = x + gmlp(x)                    convolutional fusion block
    FMB   x = x + attend(x)                                   low frequencies, 3/4 of the width
          z1, z2 = BN(pw(x));  z1 = z1 + mhc(z1)              highest band, 3 x 3 seen
          z2 = z2 + mhc(mhc(z2))                              middle band, 5 x 5 seen
          x = [x, z1, z2];  x = x + gmlp(x)

Every 1x1 convolution of these (`GroupsConv`) trains as a sum of grouped ones, each with BatchNorm,
and becomes one dense convolution (`timm.utils.reparameterize_model`). Four stages in the layout
of Next-ViT. Our sizes, merged, at 224: tiny 2.9 M 0.8 G, small 7.0 M 2.0 G, base 31.8 M 5.8 G,
large 57.9 M 10.7 G, the products of the attention not counted. Stochastic depth in training: 0.1,
base and large 0.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath, NormMlpClassifierHead, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.layers import ConvNorm
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["FMViT"]

HEAD_DIM = 32
GROUPS = (1, 2, 4, 8)
LOW_SHARE = 0.75
POOLS = (8, 4, 2, 1)
EVERY = 5


class GroupsConv(nn.Module):
    """1x1 convolution that trains as a sum of grouped ones: multi-group re-parameterization.

        sum over g in 1, 2, 4, 8 of BN_g(conv1x1 in g groups(x)), + BN_0(x) where widths agree

    Shape: (B, in_chs, H, W) -> (B, out_chs, H, W)
    """

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        self.in_chs, self.out_chs = in_chs, out_chs
        self.branches = nn.ModuleList(
            ConvNorm(in_chs, out_chs, groups=g)
            for g in GROUPS
            if in_chs % g == 0 and out_chs % g == 0
        )
        self.identity = nn.BatchNorm2d(in_chs) if in_chs == out_chs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum the branches."""
        first, *others = self.branches
        out: torch.Tensor = first(x)
        for branch in others:
            out = out + branch(x)
        return out if self.identity is None else out + self.identity(x)

    def fuse(self) -> nn.Module:
        """The same function as one dense 1x1 convolution."""
        first, *others = (branch.fuse() for branch in self.branches)  # type: ignore[operator]
        with torch.no_grad():
            for branch in others:
                # a grouped kernel is a block diagonal of the dense one
                blocks = branch.weight.flatten(1).chunk(branch.groups)
                dense = torch.block_diag(*blocks)
                first.weight += dense[..., None, None]
                first.bias += branch.bias
            if (norm := self.identity) is not None:
                assert norm.running_mean is not None
                assert norm.running_var is not None
                scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
                first.weight += torch.diag(scale)[..., None, None]
                first.bias += norm.bias - norm.running_mean * scale
        return first  # type: ignore[no-any-return]


class GroupsMlp(nn.Sequential):
    """`project(relu(expand(x)))` of multi-group convolutions: gMLP.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__(
            GroupsConv(dim, expansion * dim), nn.ReLU(), GroupsConv(expansion * dim, dim)
        )


class MultiHeadConv(nn.Sequential):
    """`pw(relu(BN(conv3x3(x))))` in groups of 32 channels.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int) -> None:
        groups = max(1, dim // HEAD_DIM)
        super().__init__(ConvNorm(dim, dim, 3, groups=groups), nn.ReLU(), GroupsConv(dim, dim))


class Down(nn.Sequential):
    """2 x 2 average pooling where it halves, then a 1x1 convolution where anything changes.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        layers: list[nn.Module] = [average_pool(2)] if stride == 2 else []
        if stride == 2 or in_chs != out_chs:
            layers.append(ConvNorm(in_chs, out_chs))
        super().__init__(*layers)


def average_pool(size: int) -> nn.Module:
    """Means of `size` x `size` pixels; of fewer at the borders of sizes that do not divide."""
    return nn.AvgPool2d(size, ceil_mode=True, count_include_pad=False)


class PooledAttention(nn.Module):
    """Self-attention whose keys and values come from a pooled map: RLMHSA.

        proj(softmax(q^T k / sqrt(32)) v),  q from x, k and v from average_pool(x)

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, pool: int) -> None:
        super().__init__()
        self.heads = dim // HEAD_DIM
        self.pool = average_pool(pool) if pool > 1 else nn.Identity()
        self.q = GroupsConv(dim, dim)
        self.k = GroupsConv(dim, dim)
        self.v = GroupsConv(dim, dim)
        self.proj = GroupsConv(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Read from the whole map."""
        batch, dim, height, width = x.shape
        y = self.pool(x)
        q, k, v = (
            t.reshape(batch, self.heads, HEAD_DIM, -1) for t in (self.q(x), self.k(y), self.v(y))
        )
        weights = (q.transpose(-2, -1) @ k * HEAD_DIM**-0.5).softmax(dim=-1)
        out = (v @ weights.transpose(-2, -1)).reshape(batch, dim, height, width)
        return self.proj(out)  # type: ignore[no-any-return]


class FusionBlock(nn.Module):
    """Convolutional fusion block (CFB): mix near positions, mix channels.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.down = Down(in_chs, out_chs, stride)
        self.mhc = MultiHeadConv(out_chs)
        self.mlp = GroupsMlp(out_chs, 3)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two residual branches."""
        x = self.down(x)
        x = x + self.drop_path(self.mhc(x))
        return x + self.drop_path(self.mlp(x))  # type: ignore[no-any-return]


class FrequencyBlock(nn.Module):
    """Multi-frequency mixing block (FMB): attention and two convolutional bands, concatenated.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, pool: int, drop_path: float) -> None:
        super().__init__()
        low = HEAD_DIM * int(LOW_SHARE * out_chs / HEAD_DIM)
        middle = (out_chs - low) // 2
        self.widths = (out_chs - low - middle, middle)
        self.down = Down(in_chs, low, stride)
        self.attn = PooledAttention(low, pool)
        self.split = ConvNorm(low, out_chs - low)
        self.high = MultiHeadConv(self.widths[0])
        self.middle = nn.Sequential(MultiHeadConv(middle), MultiHeadConv(middle))
        self.mlp = GroupsMlp(out_chs, 2)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend, filter two bands of what was attended, join, mix channels."""
        x = self.down(x)
        x = x + self.drop_path(self.attn(x))
        high, middle = self.split(x).split(self.widths, dim=1)
        high = high + self.drop_path(self.high(high))
        middle = middle + self.drop_path(self.middle(middle))
        x = torch.cat([x, high, middle], dim=1)
        return x + self.drop_path(self.mlp(x))  # type: ignore[no-any-return]


class FMViT(StagedNet):
    """The network: a stem of four convolutions, four stages, a head, with timm's methods.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        stem_dims: Sequence[int],
        dims: Sequence[int],
        mixed_dims: Sequence[int],
        depths: Sequence[int],
        stem_strides: Sequence[int] = (2, 1, 1, 2),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            stem_dims: channels of the stem's convolutions.
            dims: channels of the convolutional blocks of each stage.
            mixed_dims: channels of the frequency blocks of each stage, of which one ends every
                stage but the first and, in the third, comes every fifth block; at least 43.
            depths: blocks of each stage.
            stem_strides: steps of the stem's convolutions; (1, 1, 1, 2) suits 32 px.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        layers: list[nn.Module] = []
        width, reduction = in_chans, 1
        for dim, stride in zip(stem_dims, stem_strides, strict=True):
            layers += [ConvNorm(width, dim, 3, stride), nn.ReLU()]
            width, reduction = dim, reduction * stride
        self.stem = nn.Sequential(*layers)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages: list[nn.Module] = []
        for i, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for j, rate in enumerate(rates[i]):
                stride = 2 if i > 0 and j == 0 else 1
                mixes = i > 0 and (j == depth - 1 or (i == 2 and j % EVERY == EVERY - 1))
                if mixes:
                    blocks.append(FrequencyBlock(width, mixed_dims[i], stride, POOLS[i], rate))
                else:
                    blocks.append(FusionBlock(width, dims[i], stride, rate))
                width = mixed_dims[i] if mixes else dims[i]
            stages.append(nn.Sequential(*blocks))
            reduction *= 2 if i > 0 else 1
            info = {"num_chs": width, "reduction": reduction, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
        self.norm = nn.BatchNorm2d(width)
        head = (num_classes, None, global_pool, drop_rate)
        self.set_head(width, NormMlpClassifierHead(width, *head, norm_layer=nn.Identity))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last map of `num_features` channels, normalised."""
        return self.norm(super().forward_features(x))  # type: ignore[no-any-return]


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in their origin's naming -> ours; there are no authors' weights."""
    return state_dict


_VARIANTS: dict[str, dict[str, Any]] = {
    "fmvit_test": {
        "stem_dims": (8, 8, 8, 8), "dims": (16, 24, 32, 48), "mixed_dims": (16, 44, 48, 64),
        "depths": (1, 1, 2, 1),
    },
    "fmvit_tiny": {
        "stem_dims": (32, 16, 32, 32), "dims": (48, 96, 160, 256),
        "mixed_dims": (48, 128, 192, 320), "depths": (2, 2, 4, 2),
    },
    "fmvit_small": {
        "stem_dims": (64, 32, 64, 64), "dims": (64, 128, 224, 384),
        "mixed_dims": (64, 160, 256, 448), "depths": (2, 3, 7, 2),
    },
    "fmvit_base": {
        "stem_dims": (64, 32, 64, 64), "dims": (96, 192, 384, 768),
        "mixed_dims": (96, 256, 512, 1024), "depths": (3, 4, 10, 3),
    },
    "fmvit_large": {
        "stem_dims": (64, 32, 64, 64), "dims": (96, 192, 384, 768),
        "mixed_dims": (96, 256, 512, 1024), "depths": (3, 4, 30, 3),
    },
}  # fmt: skip
default_cfgs = generate_default_cfgs(dict.fromkeys(_VARIANTS, default_cfg()))


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(FMViT, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def fmvit_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.2 M parameters."""
    return _create("fmvit_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fmvit_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.8 GMACs; a reconstruction, the size is ours."""
    return _create("fmvit_tiny", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fmvit_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """2.0 GMACs; a reconstruction, the size is ours."""
    return _create("fmvit_small", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fmvit_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """5.8 GMACs, as timm's nextvit_small; a reconstruction, the size is ours."""
    return _create("fmvit_base", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fmvit_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As timm's nextvit_large in size; a reconstruction, the size is ours."""
    return _create("fmvit_large", pretrained, **kwargs)
