"""Our light detector: any backbone, a `SiNetPyramid`, and a decoupled head without anchor boxes.

At every position of three levels one branch scores the classes and another gives the distances to
the four sides of a box, each as a distribution over `BINS` whole strides whose mean is taken
(distribution focal loss, arXiv:2006.04388). All convolutions are followed by ReLU, which INT8 takes
into the convolution at no cost; a branch is depthwise-separable, so the head adds about as much as
a stage of a small backbone.

What INT8 sees ends with the last convolutions: the mean of the distribution and the corners are
computed by the module named `decode`, in float, since one step of 8 bits over an image of 416
pixels is 1.6 pixels, but over a distribution's logits much less than a tenth of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from sinet.heads.pyramid import Merge, SiNetPyramid
from sinet.models._backbone import create_backbone
from sinet.models._networks import register_for

BINS = 16
"""Whole strides 0 ... 15 that a distance is a mixture of."""
_PRIOR = 0.01  # share of the positions that see an object, at first


class Dense(NamedTuple):
    """What a one-stage detector gives in training, position by position."""

    logits: torch.Tensor
    """(B, A, classes)."""
    bins: torch.Tensor
    """(B, A, 4, BINS): logits of the distances to the left, top, right and bottom side."""
    points: torch.Tensor
    """(A, 2): x and y of the positions, pixels."""
    strides: torch.Tensor
    """(A,): pixels from one to the next."""


class Branch(nn.Sequential):
    """Depthwise-separable blocks, then one 1 x 1 convolution.

    Shape: (B, width, H, W) -> (B, outputs, H, W)
    """

    def __init__(self, width: int, outputs: int, blocks: int, bias: float) -> None:
        super().__init__(
            *(Merge(width, "relu") for _ in range(blocks)), nn.Conv2d(width, outputs, 1)
        )
        last = self[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.normal_(last.weight, 0.0, 0.01)
        assert last.bias is not None
        nn.init.constant_(last.bias, bias)


class Decode(nn.Module):
    """Distributions of distances -> corners in pixels: point -+ stride x sum_k k softmax(bins)_k.

    Shapes: (B, A, 4, BINS), (A, 2), (A,) -> (B, A, 4)
    """

    def forward(
        self, bins: torch.Tensor, points: torch.Tensor, strides: torch.Tensor
    ) -> torch.Tensor:
        """Corners x1, y1, x2, y2."""
        steps = torch.arange(BINS, dtype=bins.dtype, device=bins.device)
        distances = (bins.softmax(-1) * steps).sum(-1) * strides[:, None]
        before, after = distances.split(2, -1)
        return torch.cat([points - before, points + after], -1)


class LightDetector(nn.Module):
    """Backbone, neck, two branches a level.

    Shapes: (B, in_chans, H, W) -> logits (B, A, classes), corners (B, A, 4) in pixels; in training
    a `Dense`. A counts the positions of all levels, H W / 64 + H W / 256 + H W / 1024.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, width: int = 96, blocks: int = 2
    ) -> None:
        """Build the head on a backbone.

        Args:
            backbone: of `create_backbone`.
            num_classes: scores a position.
            width: channels of the neck and the branches.
            blocks: depthwise-separable blocks a branch.
        """
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.neck = SiNetPyramid(backbone, width)
        self.strides: list[int] = self.neck.reductions
        prior = -math.log((1 - _PRIOR) / _PRIOR)
        self.classify = nn.ModuleList(
            Branch(width, num_classes, blocks, prior) for _ in self.strides
        )
        self.measure = nn.ModuleList(Branch(width, 4 * BINS, blocks, 0.0) for _ in self.strides)
        self.decode = Decode()

    def forward(self, x: torch.Tensor) -> Dense | tuple[torch.Tensor, torch.Tensor]:
        """Scores and boxes of every position, finest level first."""
        maps = self.neck(self.backbone(x))
        logits = torch.cat([_flat(part(m)) for part, m in zip(self.classify, maps, strict=True)], 1)
        bins = torch.cat([_flat(part(m)) for part, m in zip(self.measure, maps, strict=True)], 1)
        bins = bins.unflatten(-1, (4, BINS))
        points, strides = positions([m.shape[-2:] for m in maps], self.strides, x)
        if self.training:
            return Dense(logits, bins, points, strides)
        return logits, self.decode(bins, points, strides)


def _flat(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def positions(
    shapes: Sequence[Sequence[int]], strides: Sequence[int], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (A, 2) and strides (A,) of the positions of all levels, row by row."""
    points, steps = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        # `int` makes them constants of an exported file, whose input size is fixed
        rows, columns = (
            (torch.arange(int(n), dtype=like.dtype, device=like.device) + 0.5) * stride
            for n in (height, width)
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        points.append(torch.stack([x, y], -1).flatten(0, 1))
        steps.append(torch.full_like(points[-1][:, 0], stride))
    return torch.cat(points), torch.cat(steps)


@register_for("detect")
def light_detect(
    backbone: str = "sinet_small",
    num_classes: int = 80,
    in_chans: int = 3,
    width: int = 96,
    blocks: int = 2,
    weights: str | None = None,
    strides: Sequence[int] = (8, 16, 32),
    **options: Any,
) -> LightDetector:
    """Our light detector."""
    body = create_backbone(backbone, in_chans, weights, strides, **options)
    return LightDetector(body, num_classes, width, blocks)
