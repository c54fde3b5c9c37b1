"""Pictures that are not shown as they are stored: a part of them, or a smaller version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from sinet.data.bicubic import shrink
from sinet.data.dataset import Split
from sinet.data.image import ImageError, Pixels

View = Callable[[Pixels], Pixels]


@dataclass(eq=False)
class ViewedSplit(Split):
    """A split that shows `views[i]` of the picture it holds."""

    views: Sequence[View] = ()
    """From stored pixels (H, W, C) to those shown, one a sample."""

    def image(self, i: int, channels: int | None = None, at_least: int | None = None) -> Pixels:
        """Decode sample `i` in full and show its view.

        Raises:
            ImageError: it cannot be read, or shown so.
        """
        whole = super().image(i, channels)
        try:
            return self.views[i](whole)
        except ImageError as error:
            raise ImageError(self.names[i], error.reason) from error

    def subset(self, indices: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> ViewedSplit:
        """The samples at these positions (or where a mask is true), in this order."""
        views = [self.views[i] for i in np.arange(len(self))[indices]]
        return replace(cast(ViewedSplit, super().subset(indices)), views=views)


@dataclass(frozen=True)
class Smaller:
    """So many times smaller, by antialiased bicubic interpolation."""

    scale: int

    def __call__(self, pixels: Pixels) -> Pixels:
        """Shrink."""
        return shrink(pixels, self.scale)


@dataclass(frozen=True)
class Part:
    """A part of the picture, or what of it lies inside."""

    top: int
    left: int
    bottom: int
    right: int

    def __call__(self, pixels: Pixels) -> Pixels:
        """Cut it out."""
        top, left, bottom, right = (
            max(0, edge) for edge in (self.top, self.left, self.bottom, self.right)
        )
        part = pixels[top:bottom, left:right]
        if 0 in part.shape:
            raise ImageError("", "the part that is to be shown lies outside of the picture")
        return part
