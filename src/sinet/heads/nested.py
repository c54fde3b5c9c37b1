"""UNet++'s nested skip connections as the neck of a detector: with Mask R-CNN, "Mask R-CNN++".

UNet++: Redesigning Skip Connections to Exploit Multiscale Features in Image Segmentation, Zhou et
al., IEEE TMI 2020, arXiv:1912.05074. The paper replaces the connections of the feature pyramid by
its nested dense ones, the maps of the backbone being the first column:

    X(i, 0) = lateral(C_i);   X(i, j) = H([X(i, 0), ..., X(i, j-1), up(X(i+1, j-1))])

No code of it is published (and nothing of the authors' was read). What the paper leaves open is
decided here: the first column is brought to one width by 1 x 1 convolutions; H is two 3 x 3
convolutions, each with a norm and ReLU; up is bilinear; a level's output is its last node, so that
the coarsest is its lateral map; there is no deep supervision, since the detector's losses reach
every level. It costs about ten times the multiply-adds of a plain FPN of the same width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from sinet.heads._base import Neck, conv_norm, resize
from sinet.heads._necks import register_neck


class Node(nn.Sequential):
    """H: two 3 x 3 convolutions, each with norm and ReLU.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H, W)
    """

    def __init__(self, in_chs: int, out_chs: int, norm_layer: str | None) -> None:
        super().__init__(
            conv_norm(in_chs, out_chs, 3, norm_layer=norm_layer),
            nn.ReLU(),
            conv_norm(out_chs, out_chs, 3, norm_layer=norm_layer),
            nn.ReLU(),
        )


class NestedPyramid(Neck):
    """The grid of nodes over the maps of a backbone.

    Shapes: [(B, C_i, H_i, W_i)] finest first -> [(B, out_channels, H_i, W_i)], `num_outs` of them
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int | None = None,
        norm_layer: str | None = "batchnorm",
    ) -> None:
        """Build the neck.

        Args:
            in_channels: channels of each map, finest first.
            out_channels: channels of every node.
            num_outs: levels; those beyond the inputs are every second position of the coarsest.
            norm_layer: any norm of timm's, or None.
        """
        super().__init__(in_channels, out_channels, num_outs or len(in_channels))
        levels = len(self.in_channels)
        self.lateral = nn.ModuleList(
            conv_norm(c, out_channels, norm_layer=norm_layer) for c in self.in_channels
        )
        self.columns = nn.ModuleList(
            nn.ModuleList(
                Node((j + 1) * out_channels, out_channels, norm_layer) for _ in range(levels - j)
            )
            for j in range(1, levels)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Merge the maps; finest first, in and out."""
        self.check(features)
        rows = [[conv(x)] for conv, x in zip(self.lateral, features, strict=True)]
        for column in self.columns:
            assert isinstance(column, nn.ModuleList)
            # the newest node of every row still is that of the column before
            below = [row[-1] for row in rows[1:]]
            for node, row, coarser in zip(column, rows, below, strict=False):
                row.append(node(torch.cat([*row, resize(coarser, row[0])], 1)))
        maps = [row[-1] for row in rows]
        while len(maps) < self.num_outs:
            maps.append(F.max_pool2d(maps[-1], 1, 2))
        return maps


@register_neck
def unetpp(
    in_channels: Sequence[int],
    out_channels: int = 256,
    num_outs: int | None = None,
    norm_layer: str | None = "batchnorm",
) -> NestedPyramid:
    """UNet++'s nested pyramid, the neck of Mask R-CNN++."""
    return NestedPyramid(in_channels, out_channels, num_outs, norm_layer)
