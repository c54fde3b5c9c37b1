"""Which pixels belong to an object: as a piece of a mask, as COCO's run lengths, as outlines.

COCO reads a mask column by column; runs of 0 and of 1 take turns, beginning with 0. Its files hold
the lengths of the runs, as a list or as text: from the fourth on each as the difference to the last
but one, in groups of five bits, the least first. Text and filled outlines are those of pycocotools
(a test holds them together); written from the format, without its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Size = tuple[int, int]
Outlines = Sequence[Sequence[float]]
"""x1, y1, x2, y2 ... in pixels, for every part of an object."""

_FINE = 5  # steps a pixel in which COCO walks along an outline


@dataclass(frozen=True, eq=False)
class Region:
    """The pixels of one object: a rectangle of its image, and which of its pixels it has."""

    top: int
    """Row of the rectangle's first pixel."""
    left: int
    """Column of the rectangle's first pixel."""
    pixels: Mask = field(repr=False)
    """(h, w), no row or column at its sides without a pixel; (0, 0) for nothing at all."""

    @classmethod
    def of(cls, pixels: npt.NDArray[Any], top: int = 0, left: int = 0) -> Region:
        """From a mask of any kind, or from a part of one that begins at `top`, `left`."""
        held = np.asarray(pixels, dtype=bool)
        rows, columns = np.flatnonzero(held.any(1)), np.flatnonzero(held.any(0))
        if not len(rows):
            return cls(top, left, np.zeros((0, 0), bool))
        part = held[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(top + int(rows[0]), left + int(columns[0]), np.ascontiguousarray(part))

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.pixels))

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of the box around it."""
        high, wide = self.pixels.shape
        return self.left, self.top, self.left + wide, self.top + high

    def full(self, size: Size) -> Mask:
        """The mask of an image of this height and width, (H, W); what reaches out is cut."""
        whole = np.zeros(size, bool)
        high, wide = self.pixels.shape
        top, left = max(0, -self.top), max(0, -self.left)
        seen = self.pixels[top:, left:]
        part = whole[max(0, self.top) : self.top + high, max(0, self.left) : self.left + wide]
        part[...] = seen[: part.shape[0], : part.shape[1]]
        return whole

    def resized(self, size: Size, wanted: Size) -> Region:
        """In its image of `size` (height, width) after that was resized to `wanted`."""
        picture = Image.fromarray(self.full(size).astype(np.uint8) * 255)
        return Region.of(np.asarray(picture.resize(wanted[::-1], _SMOOTH)) >= 128)

    def rle(self, size: Size) -> dict[str, Any]:
        """COCO's compressed form, for an image of this height and width that holds all of it."""
        return {"size": list(size), "counts": to_text(self._runs(*size))}

    def _runs(self, height: int, width: int) -> Ints:
        high, wide = self.pixels.shape
        framed = np.zeros((wide, high + 2), np.int8)
        framed[:, 1:-1] = self.pixels.T
        columns, rows = np.nonzero(np.diff(framed))  # where runs begin, and behind their ends
        places = (columns + self.left) * height + rows + self.top
        # a run to the foot of a column and one from the head of the next are one run
        same = np.zeros(len(places) + 1, bool)
        same[1:-1] = places[1:] == places[:-1]
        runs: Ints = np.diff(places[~(same[1:] | same[:-1])], prepend=0, append=height * width)
        return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs


_SMOOTH = Image.Resampling.BILINEAR


def to_text(runs: Ints) -> str:
    """Run lengths as COCO's text."""
    letters = []
    for i, run in enumerate(runs.tolist()):
        value = run - int(runs[i - 2]) if i > 2 else run
        more = True
        while more:
            low, value = value & 31, value >> 5
            more = value != (-1 if low & 16 else 0)
            letters.append(chr(48 + low + 32 * more))
    return "".join(letters)


def from_text(text: str | bytes) -> Ints:
    """The inverse of `to_text`."""
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode() if isinstance(text, str) else text:
        part = letter - 48
        value |= (part & 31) << shift
        shift += 5
        if part & 32:
            continue
        if part & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return np.array(runs, np.int64)


def from_rle(rle: Mapping[str, Any]) -> Mask:
    """The mask (H, W) of COCO's form, compressed or not.

    Raises:
        ValueError: its runs do not fill the mask.
    """
    counts = rle["counts"]
    runs = np.array(counts, np.int64) if isinstance(counts, list) else from_text(counts)
    height, width = (int(side) for side in rle["size"])
    if runs.sum() != height * width or (runs < 0).any():
        raise ValueError(f"runs of {runs.sum()} pixels for a mask of {width} x {height}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def filled(outlines: Outlines, size: Size) -> Region:
    """The pixels inside of outlines in an image of this height and width, as COCO counts them."""
    found = [(c, r) for c, r in (_toggles(part, size) for part in outlines) if len(c)]
    if not found:
        return Region.of(np.zeros((0, 0)))
    left, top = (min(int(part[axis].min()) for part in found) for axis in (0, 1))
    right, bottom = (max(int(part[axis].max()) for part in found) for axis in (0, 1))
    wide, high = right + 1 - left, max(1, bottom - top)
    whole = np.zeros(wide * high, bool)
    for columns, rows in found:
        turns = np.bincount((columns - left) * high + rows - top, minlength=wide * high + 1)
        whole |= np.cumsum(turns[: wide * high]) % 2 == 1
    return Region.of(whole.reshape(wide, high).T, top, left)


def _toggles(outline: Sequence[float], size: Size) -> tuple[Ints, Ints]:
    """Columns and rows at which, going down a column, one passes an outline."""
    height, width = size
    points = np.trunc(_FINE * np.reshape(np.asarray(outline, np.float64), (-1, 2)) + 0.5)
    found = list(_crossings(points.astype(np.int64)))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    x, y = np.concatenate(found, 1)
    # the middle of column k lies _FINE k + 2 fine steps to the right
    columns, inside = (x - 2) // _FINE, (x - 2) % _FINE == 0
    inside &= (columns >= 0) & (columns < width)
    rows = ((y + 2) // _FINE).clip(0, height)
    return columns[inside], rows[inside]


def _crossings(points: Ints) -> Iterator[Ints]:
    """For each side of a polygon its fine steps to another column: (2, steps), x and y."""
    for start, end in zip(points, np.roll(points, -1, 0), strict=True):
        reach = np.abs(end - start)
        if not reach[0]:
            continue
        main = 0 if reach[0] >= reach[1] else 1
        turned = start[main] > end[main]  # every line is drawn in the direction of its long axis
        low, high = (end, start) if turned else (start, end)
        along = np.arange(reach[main] + 1)
        slope = (high[1 - main] - low[1 - main]) / reach[main]
        line = np.empty((2, len(along)), np.int64)
        line[main] = along + low[main]
        line[1 - main] = np.trunc(low[1 - main] + slope * along + 0.5)
        steps = np.flatnonzero(np.diff(line[0]))
        yield np.minimum(line[:, steps], line[:, steps + 1])


def overlap(one: Region, other: Region) -> int:
    """Pixels that two regions share."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom = min(region.top + region.pixels.shape[0] for region in (one, other))
    right = min(region.left + region.pixels.shape[1] for region in (one, other))
    if bottom <= top or right <= left:
        return 0
    parts = [
        region.pixels[
            top - region.top : bottom - region.top, left - region.left : right - region.left
        ]
        for region in (one, other)
    ]
    return int(np.count_nonzero(parts[0] & parts[1]))


def region_iou(
    one: Sequence[Region], other: Sequence[Region], crowd: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Intersection over union of all pairs, (n, m); over the first's own area for a crowd."""
    areas = [[region.area for region in part] for part in (one, other)]
    found = np.zeros((len(one), len(other)))
    for i, region in enumerate(one):
        for j, target in enumerate(other):
            both = overlap(region, target)
            if both:
                rest = 0 if crowd[j] else areas[1][j] - both
                found[i, j] = both / (areas[0][i] + rest)
    return found
