"""MINSPNET: small modular blocks of depthwise and pointwise convolutions with channel attention.

Described in "MINSPNET: A Beginner's Guide to the Architecture and Applications"; there is no code
of its authors. `minspnet_minimal` is the article's "example minimal architecture" layer by layer:

    stem     Conv3x3 s2 - BN - ReLU
    A x 3    DWConv3x3 -> PWConv1x1 (expansion) -> SE -> residual
    B x 4    DWConv5x5 s2 -> PWConv1x1 -> residual
    head     global average pool -> FC(256) -> ReLU -> FC(classes)

The article gives no widths; these are ours: each pointwise convolution widens, and the residual is
projected wherever width or size changes. `minspnet_small / _medium / _large` follow its "core
components": expansion bottlenecks with squeeze-excite or channel-and-spatial attention, and
multi-scale fusion by concatenation across depths (see `Fusion`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import (
    DropPath,
    NormMlpClassifierHead,
    calculate_drop_path_rates,
    create_act_layer,
    create_attn,
    get_act_layer,
    to_ntuple,
)
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.layers import ConvNorm
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["Minspnet", "MinspnetMinimal"]

Act = type[nn.Module]


def _attention(attn: str, chs: int) -> nn.Module:
    """One of timm's light attentions, squeezed to 1/16 of the channels but not to nothing."""
    if not attn:  # not None: timm.create_model passes no option that is None
        return nn.Identity()
    return create_attn(attn, chs, rd_channels=max(8, chs // 16)) or nn.Identity()


class SeparableBlock(nn.Module):
    """Blocks A and B: depthwise -> pointwise -> attention, plus the (projected) input.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int, stride: int, attn: str, act: Act
    ) -> None:
        super().__init__()
        self.dw = ConvNorm(in_chs, in_chs, kernel_size, stride, groups=in_chs)
        self.pw = ConvNorm(in_chs, out_chs)
        self.act = create_act_layer(act, inplace=True)
        self.attn = _attention(attn, out_chs)
        self.shortcut = (
            nn.Identity()
            if in_chs == out_chs and stride == 1
            else ConvNorm(in_chs, out_chs, 1, stride)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Filter, mix, reweigh, add."""
        y = self.pw(self.act(self.dw(x)))
        y = self.attn(y) + self.shortcut(x)
        out: torch.Tensor = self.act(y)
        return out


class Bottleneck(nn.Module):
    """Expansion bottleneck: expand -> depthwise -> attention -> project, plus the input.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int,
        stride: int,
        expansion: float,
        attn: str,
        drop_path: float,
        act: Act,
    ) -> None:
        super().__init__()
        hidden = round(in_chs * expansion)
        self.residual = in_chs == out_chs and stride == 1
        self.expand = ConvNorm(in_chs, hidden)
        self.dw = ConvNorm(hidden, hidden, kernel_size, stride, groups=hidden)
        self.act = create_act_layer(act, inplace=True)
        self.attn = _attention(attn, hidden)
        self.project = ConvNorm(hidden, out_chs, zero_init=self.residual)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Widen, filter, reweigh, narrow, add."""
        y: torch.Tensor = self.act(self.dw(self.act(self.expand(x))))
        y = self.project(self.attn(y))
        if self.residual:  # elsewhere there is no way around the block
            y = x + self.drop_path(y)
        return y


class Fusion(nn.Module):
    """Multi-scale fusion: the map so far is halved, concatenated to the next stage's and mixed.

    Shapes: (B, in_chs, H, W), (B, skip_chs, ceil(H / 2), ceil(W / 2)) -> the latter with `out_chs`
    """

    def __init__(self, in_chs: int, skip_chs: int, out_chs: int, stride: int, act: Act) -> None:
        super().__init__()
        self.down = ConvNorm(in_chs, in_chs, 3, stride, groups=in_chs)
        self.mix = ConvNorm(in_chs + skip_chs, out_chs)
        self.act = create_act_layer(act, inplace=True)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Carry the shallow map down to the deep one."""
        x = torch.cat((self.down(x), skip), 1)
        out: torch.Tensor = self.act(self.mix(x))
        return out


class MinspnetMinimal(StagedNet):
    """The article's minimal architecture: three blocks A, four blocks B.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        stem_width: int,
        widths_a: Sequence[int],
        widths_b: Sequence[int],
        head_width: int = 256,
        stem_stride: int = 2,
        act_layer: str | Act = "relu",
        attn_layer: str = "se",
        drop_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            stem_width: channels after the stem.
            widths_a: channels after each block A, all at the stem's resolution.
            widths_b: channels after each block B, each halving the resolution.
            head_width: hidden width of the head.
            stem_stride: 2, or 1 for images of about 64 px and less.
            act_layer: any timm activation.
            attn_layer: any of timm's light attentions in block A: "se", "eca", "cbam"; "" for none.
            drop_rate: dropout before the classifier.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        act = get_act_layer(act_layer)
        self.stem = nn.Sequential(
            ConvNorm(in_chans, stem_width, 3, stem_stride), create_act_layer(act, inplace=True)
        )
        blocks_a, width = [], stem_width
        for out in widths_a:
            blocks_a.append(SeparableBlock(width, out, 3, 1, attn_layer, act))
            width = out
        stages = [nn.Sequential(*blocks_a)]
        self._add_info(width, stem_stride)
        for i, out in enumerate(widths_b):
            stages.append(nn.Sequential(SeparableBlock(width, out, 5, 2, "", act)))
            width = out
            self._add_info(width, stem_stride * 2 ** (i + 1))
        self.stages = nn.Sequential(*stages)
        head = NormMlpClassifierHead(
            width, num_classes, head_width, global_pool, drop_rate, nn.Identity, "relu"
        )
        self.set_head(width, head)

    def _add_info(self, width: int, reduction: int) -> None:
        module = f"stages.{len(self.feature_info)}"
        self.feature_info.append({"num_chs": width, "reduction": reduction, "module": module})


class Minspnet(StagedNet):
    """The scaled family: expansion bottlenecks in four stages, multi-scale fusion, dropout.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        kernel_sizes: Sequence[int] = (3, 3, 5, 5),
        expansion: float = 4,
        stem_width: int = 16,
        fusion_width: int = 256,
        head_width: int = 256,
        stem_stride: int = 2,
        strides: Sequence[int] = (2, 2, 2, 2),
        act_layer: str | Act = "relu",
        attn_layer: str | Sequence[str] = "se",
        drop_rate: float = 0.2,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            dims: channels of each stage.
            depths: blocks of each stage.
            kernel_sizes: depthwise kernel of each stage.
            expansion: hidden width of a block in units of its input.
            stem_width: channels after the stem.
            fusion_width: channels after the last fusion.
            head_width: hidden width of the head.
            stem_stride: 2, or 1 for images of about 64 px and less.
            strides: step at each stage's entry.
            act_layer: any timm activation; "relu" quantizes best, "swish" is smoother.
            attn_layer: any of timm's light attentions: "se", "eca", "cbam"; "" for none; or one
                a stage.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        act = get_act_layer(act_layer)
        self.stem = nn.Sequential(
            ConvNorm(in_chans, stem_width, 3, stem_stride), create_act_layer(act, inplace=True)
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        attns = to_ntuple(len(dims))(attn_layer)
        stages: list[nn.Module] = []
        width, reduction = stem_width, stem_stride
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            blocks = []
            for j in range(depth):
                step, rate = strides[i] if j == 0 else 1, rates[i][j]
                args = (kernel_sizes[i], step, expansion, attns[i], rate, act)
                blocks.append(Bottleneck(width, dim, *args))
                width = dim
            stages.append(nn.Sequential(*blocks))
            reduction *= strides[i]
            info = {"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        self.fusion = nn.ModuleList(
            [
                Fusion(dims[1], dims[2], dims[2], strides[2], act),
                Fusion(dims[2], dims[3], fusion_width, strides[3], act),
            ]
        )
        head = NormMlpClassifierHead(
            fusion_width, num_classes, head_width, global_pool, drop_rate, nn.Identity, "relu"
        )
        self.set_head(fusion_width, head)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the map that fuses the last three stages."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = self.forward_stage(stage, x)
            maps.append(x)
        fused: torch.Tensor = self.fusion[0](maps[1], maps[2])
        fused = self.fusion[1](fused, maps[3])
        return fused


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in their origin's naming -> ours; the article comes without code or weights."""
    return state_dict


_VARIANTS: dict[str, dict[str, Any]] = {
    "minspnet_minimal": {
        "stem_width": 24, "widths_a": (32, 40, 48), "widths_b": (64, 96, 160, 256),
    },
    "minspnet_test": {
        "dims": (16, 24, 32, 48), "depths": (1, 2, 1, 1), "stem_width": 8, "expansion": 2,
        "fusion_width": 64, "head_width": 32, "attn_layer": "cbam",
    },
    "minspnet_small": {
        "dims": (24, 40, 96, 160), "depths": (2, 2, 4, 2), "fusion_width": 320,
    },
    "minspnet_medium": {
        "dims": (32, 48, 112, 208), "depths": (2, 3, 6, 3), "stem_width": 24,
        "fusion_width": 512, "act_layer": "swish",
    },
    "minspnet_large": {
        "dims": (40, 80, 160, 288), "depths": (2, 4, 8, 4), "stem_width": 32,
        "fusion_width": 768, "drop_rate": 0.3, "act_layer": "swish",
        "attn_layer": ("se", "se", "se", "cbam"),
    },
}  # fmt: skip
default_cfgs = generate_default_cfgs({name: default_cfg() for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(Minspnet, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def minspnet_minimal(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The article's minimal architecture."""
    args = {**_VARIANTS["minspnet_minimal"], **kwargs}
    return build(MinspnetMinimal, "minspnet_minimal", pretrained, 5, **args)


@register_model  # type: ignore[untyped-decorator]
def minspnet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: under 0.1 M parameters, with channel-and-spatial attention."""
    return _create("minspnet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def minspnet_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ReLU and squeeze-excite."""
    return _create("minspnet_small", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def minspnet_medium(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Swish and squeeze-excite."""
    return _create("minspnet_medium", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def minspnet_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Swish, squeeze-excite, and channel-and-spatial attention in the last stage."""
    return _create("minspnet_large", pretrained, **kwargs)
