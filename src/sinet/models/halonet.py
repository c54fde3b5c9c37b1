"""HaloNet: Scaling Local Self-Attention for Parameter Efficient Visual Backbones.

Vaswani et al., CVPR 2021, arXiv 2103.12731. The authors published no code; this follows the
paper's table of variants with the names and conventions of timm's `HaloAttn` and `ByobNet`
(Apache-2.0), whose weights load. A ResNet of bottlenecks

    y = norm(conv1x1(act(norm(halo_attention(act(norm(conv1x1(x))))))));  x = act(shortcut(x) + y)

What differs from timm: any image size (blocks at the border are filled up with zeros), the value
and output widths of all variants, four heads in the first stage as the counts of parameters in
the paper suggest, norms that fold into convolutions. timm registers a `halonet_h1` of its own with
eight heads there, which is left alone: the paper's is `halonet_h1_paper`.

Reported (input size, parameters, top-1): h0 256 px 5.5 M 77.9, h1 256 8.1 79.9, h2 256 9.4 80.4,
h3 320 11.8 81.9, h4 384 19.1 83.3, h5 448 30.7 84.0, h6 512 43.4 84.4, h7 600 67.4 84.9.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import (
    ClassifierHead,
    DropPath,
    calculate_drop_path_rates,
    create_act_layer,
    get_act_layer,
)
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.layers import ConvNorm
from sinet.layers.halo_attention import HaloAttention
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["HaloNet"]


class HaloBlock(nn.Module):
    """A bottleneck around halo attention.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_chs: int,
        width: int,
        value_chs: int,
        out_chs: int,
        attention: nn.Module,
        stride: int = 1,
        drop_path: float = 0.0,
        act_layer: type[nn.Module] = nn.ReLU,
    ) -> None:
        """Build the block.

        Args:
            in_chs: input channels.
            width: channels that `attention` reads.
            value_chs: channels that it gives.
            out_chs: output channels.
            attention: the mixer of positions, of the same stride.
            stride: 1 or 2.
            drop_path: stochastic depth.
            act_layer: activation.
        """
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_chs != out_chs:
            self.shortcut = ConvNorm(in_chs, out_chs, 1, stride)
        self.conv1_1x1 = ConvNorm(in_chs, width)
        self.self_attn = attention
        self.post_attn = nn.BatchNorm2d(value_chs)
        self.conv3_1x1 = ConvNorm(value_chs, out_chs, zero_init=True)
        self.act = create_act_layer(act_layer, inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Narrow, attend, widen."""
        y = self.self_attn(self.act(self.conv1_1x1(x)))
        y = self.conv3_1x1(self.act(self.post_attn(y)))
        x = self.shortcut(x) + self.drop_path(y)
        return self.act(x)  # type: ignore[no-any-return]


class HaloNet(StagedNet):
    """The network: a stem at stride 4, four stages, an optional wide layer, head.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        block_size: int,
        halo_size: int,
        value_ratio: float,
        output_ratio: float,
        depths: Sequence[int],
        final_width: int = 0,
        widths: Sequence[int] = (64, 128, 256, 512),
        heads: Sequence[int] = (4, 8, 8, 8),
        act_layer: str | type[nn.Module] = "relu",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            block_size: b, side of the blocks.
            halo_size: h, width of the ring around them.
            value_ratio: r_v, channels of the values in units of the stage's width.
            output_ratio: r_b, output channels of a block in units of the stage's width.
            depths: blocks of each stage.
            final_width: d_f, channels of a 1x1 convolution before pooling; 0 = none.
            widths: w of each stage, the channels of queries and keys.
            heads: of the attention in each stage.
            act_layer: any timm activation; which one the paper took is not known.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        act = get_act_layer(act_layer)
        stem = OrderedDict[str, nn.Module](
            conv1=ConvNorm(in_chans, 64, 7, 2),
            act=create_act_layer(act, inplace=True),
            pool=nn.MaxPool2d(3, 2, 1),
        )
        self.stem = nn.Sequential(stem)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages: list[nn.Module] = []
        in_chs = 64
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            values, out_chs = round(width * value_ratio), round(width * output_ratio)
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                attention = HaloAttention(
                    width, values, heads[i], width // heads[i], block_size, halo_size, stride
                )
                blocks.append(
                    HaloBlock(in_chs, width, values, out_chs, attention, stride, rates[i][j], act)
                )
                in_chs = out_chs
            stages.append(nn.Sequential(*blocks))
            info = {"num_chs": out_chs, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        self.final_conv = nn.Sequential()
        if final_width:
            self.final_conv = ConvNorm(in_chs, final_width)
            in_chs = final_width
        self.final_act = create_act_layer(act, inplace=True) if final_width else nn.Identity()
        self.set_head(in_chs, ClassifierHead(in_chs, num_classes, global_pool, drop_rate))

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates."""
        matcher: dict[str, Any] = super().group_matcher(coarse)
        matcher["blocks"].append((r"^final_conv", (99999,)))
        return matcher

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """The tables of relative positions."""
        return {name for name, _ in self.named_parameters() if ".pos_embed." in name}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last map of `num_features` channels."""
        x = super().forward_features(x)
        return self.final_act(self.final_conv(x))  # type: ignore[no-any-return]


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of timm's layers -> ours: the names are the same."""
    return state_dict


_VARIANTS: dict[str, dict[str, Any]] = {
    "halonet_test": {
        "block_size": 4, "halo_size": 1, "value_ratio": 2.0, "output_ratio": 0.5,
        "depths": (1, 1, 2, 1), "final_width": 96, "widths": (16, 32, 64, 64),
        "heads": (1, 2, 2, 2),
    },
    "halonet_h0": {
        "block_size": 8, "halo_size": 3, "value_ratio": 1.0, "output_ratio": 0.5,
        "depths": (3, 3, 7, 3),
    },
    "halonet_h1_paper": {
        "block_size": 8, "halo_size": 3, "value_ratio": 1.0, "output_ratio": 1.0,
        "depths": (3, 3, 10, 3),
    },
    "halonet_h2": {
        "block_size": 8, "halo_size": 3, "value_ratio": 1.0, "output_ratio": 1.25,
        "depths": (3, 3, 11, 3),
    },
    "halonet_h3": {
        "block_size": 10, "halo_size": 3, "value_ratio": 1.0, "output_ratio": 1.5,
        "depths": (3, 3, 12, 3), "final_width": 1024,
    },
    "halonet_h4": {
        "block_size": 12, "halo_size": 2, "value_ratio": 1.0, "output_ratio": 3.0,
        "depths": (3, 3, 12, 3), "final_width": 1280,
    },
    "halonet_h5": {
        "block_size": 14, "halo_size": 2, "value_ratio": 2.5, "output_ratio": 2.0,
        "depths": (3, 3, 23, 3), "final_width": 1536,
    },
    "halonet_h6": {
        "block_size": 8, "halo_size": 4, "value_ratio": 3.0, "output_ratio": 2.75,
        "depths": (3, 3, 24, 3), "final_width": 1536,
    },
    "halonet_h7": {
        "block_size": 10, "halo_size": 3, "value_ratio": 4.0, "output_ratio": 3.5,
        "depths": (3, 3, 26, 3), "final_width": 2048,
    },
}  # fmt: skip
_SIZES = {"h3": 320, "h4": 384, "h5": 448, "h6": 512, "h7": 600}


def _cfg(name: str) -> dict[str, Any]:
    size = _SIZES.get(name[-2:], 256)
    side = -(-size // 32)
    return default_cfg(
        input_size=(3, size, size), pool_size=(side, side), first_conv="stem.conv1.conv"
    )


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(HaloNet, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def halonet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.1 M parameters."""
    return _create("halonet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def halonet_h0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HaloNet-H0, about EfficientNet-B0's parameters."""
    return _create("halonet_h0", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def halonet_h1_paper(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HaloNet-H1 with the paper's heads; timm's `halonet_h1` has eight in every stage."""
    return _create("halonet_h1_paper", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def halonet_h2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HaloNet-H2."""
    return _create("halonet_h2", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def halonet_h3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HaloNet-H3."""
    return _create("halonet_h3", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def halonet_h4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HaloNet-H4."""
    return _create("halonet_h4", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def halonet_h5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HaloNet-H5."""
    return _create("halonet_h5", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def halonet_h6(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HaloNet-H6."""
    return _create("halonet_h6", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def halonet_h7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HaloNet-H7, about EfficientNet-B7's parameters."""
    return _create("halonet_h7", pretrained, **kwargs)
