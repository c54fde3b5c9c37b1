"""Instance normalization for some channels, batch normalization for the others."""

from __future__ import annotations

import torch
from torch import nn


class IBN(nn.Module):
    """`[IN(x1), BN(x2)]`: what an image looks like is taken from x1, what it shows kept in x2.

    Instance normalization has no running statistics: it does the same in training and evaluation,
    and cannot be folded into a convolution. It needs maps of more than one position.

    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, channels: int, share: float = 0.5, instance_first: bool = True) -> None:
        """Build both norms.

        Args:
            channels: of the input.
            share: of the channels, that of the part that comes first, rounded down.
            instance_first: the first part is instance-normalized, else the second.
        """
        super().__init__()
        first = int(channels * share)
        self.parts = (first, channels - first)
        self.instance_first = instance_first
        instances, batches = self.parts if instance_first else self.parts[::-1]
        self.instance = nn.InstanceNorm2d(instances, affine=True)
        self.batch = nn.BatchNorm2d(batches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize each part in its way."""
        first, second = x.split(self.parts, dim=1)
        if self.instance_first:
            return torch.cat([self.instance(first), self.batch(second)], dim=1)
        return torch.cat([self.batch(first), self.instance(second)], dim=1)
