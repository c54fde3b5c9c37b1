"""SiNetPyramid: merges the maps of a backbone top-down, then bottom-up, at little cost.

The two passes are those of PANet (arXiv:1803.01534); each merge is one depthwise-separable
convolution on a sum, so the neck costs a few percent of a backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import create_act_layer
from timm.models import FeatureInfo
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.heads._base import Neck
from sinet.heads._necks import register_neck
from sinet.layers import ConvNorm


def _resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bring a map to the height and width of another, whatever the backbone's rounding."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


class Merge(nn.Sequential):
    """Depthwise 3 x 3, activation, pointwise, activation.

    Shape: (B, width, H, W) -> (B, width, H, W)
    """

    def __init__(self, width: int, act_layer: str) -> None:
        super().__init__(
            ConvNorm(width, width, 3, groups=width),
            create_act_layer(act_layer, inplace=True),
            ConvNorm(width, width),
            create_act_layer(act_layer, inplace=True),
        )


class SiNetPyramid(Neck):
    """A light neck over the `features_only` outputs of any timm backbone.

        backbone = timm.create_model("sinet_small", features_only=True)
        neck = SiNetPyramid(backbone)
        maps = neck(backbone(images))

    Shapes: [(B, C_i, H_i, W_i)] finest first -> [(B, width, H_i, W_i)]

    Attributes:
        reductions: input pixels per output position, level by level.
    """

    def __init__(
        self, backbone: nn.Module | FeatureInfo, width: int = 128, act_layer: str = "relu"
    ) -> None:
        """Build the neck.

        Args:
            backbone: made with `features_only=True`, or the `feature_info` of one; only this
                description is read.
            width: channels of every output.
            act_layer: any timm activation.

        Raises:
            UsageError: the backbone was not made with `features_only=True`.
        """
        info = getattr(backbone, "feature_info", backbone)
        if not isinstance(info, FeatureInfo):
            raise UsageError(
                f"SiNetPyramid needs a backbone that gives several maps, {type(backbone).__name__} "
                "does not; build it with timm.create_model(NAME, features_only=True)"
            )
        channels = info.channels()
        super().__init__(channels, width, len(channels))
        self.reductions: list[int] = info.reduction()
        # Swin and its kind give (B, H, W, C)
        self.channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
        levels = range(len(channels) - 1)
        self.lateral = nn.ModuleList(ConvNorm(c, width) for c in channels)
        self.top_down = nn.ModuleList(Merge(width, act_layer) for _ in levels)
        self.down = nn.ModuleList(
            ConvNorm(width, width, 3, self.reductions[i + 1] // self.reductions[i], groups=width)
            for i in levels
        )
        self.bottom_up = nn.ModuleList(Merge(width, act_layer) for _ in levels)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Merge the maps; finest first, in and out."""
        if self.channels_last:
            features = [x.permute(0, 3, 1, 2) for x in features]
        self.check(features)
        maps = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        for i in reversed(range(len(maps) - 1)):
            maps[i] = self.top_down[i](maps[i] + _resize(maps[i + 1], maps[i]))
        for i, (down, merge) in enumerate(zip(self.down, self.bottom_up, strict=True)):
            maps[i + 1] = merge(maps[i + 1] + _resize(down(maps[i]), maps[i + 1]))
        return maps


@register_neck
def sinet_pyramid(
    in_channels: Sequence[int],
    out_channels: int = 128,
    reductions: Sequence[int] | None = None,
    act_layer: str = "relu",
) -> SiNetPyramid:
    """The library's own light neck; unless said otherwise, maps halve from a quarter on."""
    reductions = reductions or [4 * 2**i for i in range(len(in_channels))]
    if len(reductions) != len(in_channels):
        raise UsageError(
            f"reductions are {list(reductions)} for maps of {list(in_channels)} channels; give one "
            "for each map, as backbone.feature_info.reduction() does"
        )
    levels = [
        {"num_chs": chs, "reduction": reduction, "module": str(i)}
        for i, (chs, reduction) in enumerate(zip(in_channels, reductions, strict=True))
    ]
    return SiNetPyramid(FeatureInfo(levels, tuple(range(len(levels)))), out_channels, act_layer)
