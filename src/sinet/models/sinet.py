"""SiNet: a small, dense, measured convolution-attention network. Ours; no paper, no reference.

Stem, four stages that each halve the resolution, global pooling and a compact MLP. One semantic
encoder block is

    y = pw(act(dw(x)));  y = y + attention(y) where the stage has it;  x = x + y
    x = x + project(act(expand(x)))

Widths, depths, kernels, activation and the place of attention were chosen by measuring in ONNX
Runtime (docs/decisions.md, benchmarks/sinet_search.py): pointwise convolutions with ReLU run near
the machine's peak in FP32 and three times faster in INT8, depthwise kernels are almost free, and
attention pays where maps are 14 x 14 or less. Every norm is a BatchNorm that folds into its
convolution (`timm.utils.reparameterize_model`).
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
    get_act_layer,
    get_norm_layer,
)
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.layers import ConvNorm, SmallAttention
from sinet.layers.conv import NormLayer
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["SiNet"]


class Block(nn.Module):
    """The semantic encoder block.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        expansion: float,
        attention: bool,
        drop_path: float,
        act_layer: type[nn.Module],
        norm_layer: NormLayer,
        window: int = 16,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        hidden = round(dim * expansion)
        self.dw = ConvNorm(dim, dim, kernel_size, groups=dim, norm_layer=norm_layer)
        self.act = create_act_layer(act_layer, inplace=True)
        self.pw = ConvNorm(dim, dim, norm_layer=norm_layer)
        self.attn: nn.Module = nn.Identity()
        if attention:
            self.attn = SmallAttention(dim, window=window, norm_layer=norm_layer, sparse=sparse)
        self.expand = ConvNorm(dim, hidden, norm_layer=norm_layer)
        self.project = ConvNorm(hidden, dim, norm_layer=norm_layer)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions, then channels."""
        x = x + self.drop_path(self.attn(self.pw(self.act(self.dw(x)))))
        x = x + self.drop_path(self.project(self.act(self.expand(x))))
        return x


class SiNet(StagedNet):
    """The network: stem, four stages, head, with timm's methods.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        attention: Sequence[int] = (0, 0, 0, 0),
        windows: Sequence[int] = (16, 16, 16, 16),
        sparse: Sequence[bool] = (False, False, False, False),
        kernel_sizes: Sequence[int] = (3, 3, 5, 5),
        expansions: Sequence[float] = (4, 4, 4, 4),
        stem_width: int = 16,
        head_width: int = 512,
        stem_stride: int = 2,
        strides: Sequence[int] = (2, 2, 2, 2),
        act_layer: str | type[nn.Module] = "relu",
        norm_layer: str | type[nn.Module] = "batchnorm2d",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            dims: channels of each stage.
            depths: blocks of each stage.
            attention: how many of a stage's last blocks have self-attention.
            windows: side of a stage's windows of attention; 0 for the whole map.
            sparse: whether a stage's windows are spread over the whole map.
            kernel_sizes: depthwise kernel of each stage.
            expansions: feed-forward width of each stage, in units of its channels.
            stem_width: channels after the stem.
            head_width: hidden width of the head's MLP.
            stem_stride: 2, or 1 for images of about 64 px and less.
            strides: step at each stage's entry; (1, 2, 2, 2) with `stem_stride=1` suits 32 px.
            act_layer: any timm activation; ReLU is the fastest and quantizes best.
            norm_layer: any timm 2D norm; only BatchNorm folds away.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        act, norm = get_act_layer(act_layer), get_norm_layer(norm_layer)
        stem = ConvNorm(in_chans, stem_width, 3, stem_stride, norm_layer=norm)
        self.stem = nn.Sequential(stem, create_act_layer(act, inplace=True))
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages: list[nn.Module] = []
        width, reduction = stem_width, stem_stride
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            down = ConvNorm(width, dim, 3, strides[i], norm_layer=norm)
            blocks = []
            for j in range(depth):
                attends = j >= depth - attention[i]
                block = (dim, kernel_sizes[i], expansions[i], attends, rates[i][j], act, norm)
                blocks.append(Block(*block, windows[i], sparse[i]))
            stages.append(nn.Sequential(down, *blocks))
            width, reduction = dim, reduction * strides[i]
            info = {"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        head = NormMlpClassifierHead(
            width, num_classes, head_width, global_pool, drop_rate, act_layer=act
        )
        self.set_head(width, head)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in their origin's naming -> ours; SiNet's origin is here."""
    return state_dict


_VARIANTS: dict[str, dict[str, Any]] = {
    "sinet_test": {
        "dims": (16, 24, 32, 64), "depths": (1, 1, 2, 1), "attention": (0, 0, 1, 1),
        "stem_width": 8, "head_width": 64,
    },
    "sinet_tiny": {
        "dims": (32, 64, 128, 256), "depths": (2, 2, 4, 2), "attention": (0, 0, 0, 1),
        "stem_width": 16, "head_width": 640,
    },
    "sinet_small": {
        "dims": (48, 96, 192, 384), "depths": (2, 2, 4, 2), "attention": (0, 0, 1, 1),
        "stem_width": 24, "head_width": 768,
    },
    "sinet_base": {
        "dims": (64, 128, 256, 512), "depths": (2, 3, 8, 2), "attention": (0, 0, 2, 2),
        "stem_width": 32, "head_width": 1024,
    },
    "sinet_large": {
        "dims": (96, 192, 384, 768), "depths": (3, 4, 14, 3), "attention": (0, 0, 6, 3),
        "stem_width": 48, "head_width": 1280,
    },
}  # fmt: skip
default_cfgs = generate_default_cfgs({name: default_cfg() for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(SiNet, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def sinet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.1 M parameters."""
    return _create("sinet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def sinet_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """About as fast as MobileNetV3-Large."""
    return _create("sinet_tiny", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def sinet_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """About as fast as MobileNetV4-Conv-Medium."""
    return _create("sinet_small", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def sinet_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """At most 0.6 of the time of ResNet-50."""
    return _create("sinet_base", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def sinet_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """At most half the time of ViT-Base."""
    return _create("sinet_large", pretrained, **kwargs)
