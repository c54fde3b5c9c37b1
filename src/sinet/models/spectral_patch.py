"""A classifier of hyperspectral patches: what patch-free networks are compared with.

The first two stages of FreeNet's encoder (arXiv 2011.05670, `sinet.models.freenet`), the mean over
the patch, the classes: the class of the pixel in the middle. It looks at every pixel's patch anew,
so that a scene costs about S x S / 2 times what a network of the same layers costs that sees it
whole. Written here; nobody's weights fit it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sinet.models._networks import register_for
from sinet.models.freenet import SpectralBlock

__all__ = ["SpectralPatch"]


class SpectralPatch(nn.Module):
    """Two resolutions of spectral attention and convolution, then the mean.

    Shape: (B, in_chans, S, S) -> (B, num_classes, 1, 1), any S from 3 on.
    """

    def __init__(
        self, in_chans: int = 103, num_classes: int = 9, width: int = 96, groups: int = 16
    ) -> None:
        """Build the network.

        Args:
            in_chans: spectral bands.
            num_classes: classes.
            width: channels of the first stage, a multiple of `groups`; the second has 4/3 of them.
            groups: of the norms.
        """
        super().__init__()
        wide = width * 4 // 3 // groups * groups
        self.in_chans, self.num_classes = in_chans, num_classes
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, 1, 1), nn.GroupNorm(groups, width), nn.ReLU()
        )
        self.first = SpectralBlock(width, groups)
        self.down = nn.Sequential(nn.Conv2d(width, wide, 3, 2, 1), nn.ReLU())
        self.second = SpectralBlock(wide, groups)
        self.head = nn.Conv2d(wide, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Patches to logits of their central pixels."""
        x = self.second(self.down(self.first(self.stem(x))))
        logits: torch.Tensor = self.head(x.mean((2, 3), keepdim=True))
        return logits


@register_for("hyperspectral")
def spectral_patch(**kwargs: Any) -> nn.Module:
    """The baseline at FreeNet's widths."""
    return SpectralPatch(**kwargs)


@register_for("hyperspectral")
def spectral_patch_test(**kwargs: Any) -> nn.Module:
    """For tests: narrow."""
    return SpectralPatch(**{"width": 12, "groups": 4, **kwargs})
