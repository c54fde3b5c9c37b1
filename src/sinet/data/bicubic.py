"""Bicubic resizing as MATLAB's `imresize` does it, which is how super-resolution is measured.

Keys' kernel with a = -0.5; when an image shrinks, the kernel is stretched by the same factor, so
that nothing aliases; beyond the border the image is mirrored. Pillow's and torch's antialiased
bicubic are the same but for the border, where they shorten the kernel. As in BasicSR, nothing is
rounded between the two passes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.image import ImageError, Pixels

Values = npt.NDArray[np.float64]


def resize(image: npt.NDArray[Any], height: int, width: int) -> Values:
    """Another size, unrounded: (H, W, ...) -> float64 (height, width, ...)."""
    rows = _along(np.asarray(image, dtype=np.float64), height)
    return np.ascontiguousarray(_along(rows.swapaxes(0, 1), width).swapaxes(0, 1))


def shrink(pixels: Pixels, scale: int) -> Pixels:
    """`scale` times smaller; what is too much for a whole number of pixels is cut off first.

    Raises:
        ImageError: nothing would be left.
    """
    whole = cropped(pixels, scale)
    if 0 in whole.shape:
        height, width = pixels.shape[:2]
        raise ImageError("", f"{width} x {height} pixels are too few to be made {scale} times less")
    return _rounded(resize(whole, whole.shape[0] // scale, whole.shape[1] // scale))


def enlarge(pixels: Pixels, scale: int) -> Pixels:
    """`scale` times larger: what every network has to beat."""
    return _rounded(resize(pixels, pixels.shape[0] * scale, pixels.shape[1] * scale))


def cropped(pixels: Pixels, scale: int) -> Pixels:
    """The upper left part whose sides are multiples of `scale`."""
    height, width = (side // scale * scale for side in pixels.shape[:2])
    return pixels[:height, :width]


def _rounded(values: Values) -> Pixels:
    return np.floor(values + 0.5).clip(0, 255).astype(np.uint8)


def _along(image: Values, target: int) -> Values:
    """Resize the first axis: a weighted sum of as many rows as the kernel is long."""
    weights, places = _taps(image.shape[0], target)
    out = np.zeros((target, *image.shape[1:]))
    shape = (target, *(1,) * (image.ndim - 1))
    for weight, place in zip(weights.T, places.T, strict=True):
        out += weight.reshape(shape) * image[place]
    return out


@lru_cache(maxsize=256)
def _taps(side: int, target: int) -> tuple[Values, npt.NDArray[np.int64]]:
    """For each row of the result the rows that it is made of, and their weights (target, taps)."""
    scale = target / side
    shrinking = min(scale, 1.0)
    reach = 2 / shrinking
    centres = (np.arange(target) + 0.5) / scale - 0.5
    first = np.floor(centres - reach).astype(np.int64)
    places = first[:, None] + np.arange(math.ceil(2 * reach) + 2)
    weights = _cubic(shrinking * (centres[:, None] - places))
    weights /= weights.sum(1, keepdims=True)
    used = weights.any(0)
    mirrored = places[:, used] % (2 * side)
    return weights[:, used], np.minimum(mirrored, 2 * side - 1 - mirrored)


def _cubic(x: Values) -> Values:
    """Keys 1981, a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
