"""Large pictures go through a file piece by piece."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from sinet.tasks.signatures.base import Array, Run


def tiled(
    run: Run,
    images: Array,
    names: Sequence[str],
    axes: Mapping[str, tuple[int, int]],
    tile: tuple[int, int],
    overlap: int,
    step: int = 1,
) -> dict[str, Array]:
    """Run a file on overlapping pieces, so that memory does not grow with the picture.

    Of what two pieces show, the half that is nearer to each one's middle is taken: a network that
    looks no further than half the overlap gives what it gives to the whole.

    Args:
        run: one call of a file, for whatever height and width up to `tile`.
        images: uint8 (N, H, W, C).
        names: of outputs.
        axes: of each output, which of its axes are height and width.
        tile: height and width of a piece; a side that is no longer is not divided.
        overlap: pixels that neighbouring pieces share at least.
        step: pieces begin and are cut at multiples of this, as outputs smaller than their input
            need it; height, width and tile must be multiples of it where they are divided.
    """
    height, width = images.shape[1:3]
    if height <= tile[0] and width <= tile[1]:
        return run(images, names)
    rows = []
    for top, high, above, below in pieces(height, tile[0], overlap, step):
        row: list[dict[str, Array]] = []
        for left, wide, before, after in pieces(width, tile[1], overlap, step):
            part = np.ascontiguousarray(images[:, top : top + high, left : left + wide])
            kept = (above - top, below - top), (before - left, after - left)
            found = run(part, names)
            row.append({n: _kept(found[n], axes[n], (high, wide), kept) for n in names})
        rows.append({n: np.concatenate([p[n] for p in row], axes[n][1]) for n in names})
    return {n: np.concatenate([row[n] for row in rows], axes[n][0]) for n in names}


def _kept(
    output: Array, axes: tuple[int, int], given: tuple[int, int], kept: tuple[tuple[int, int], ...]
) -> Array:
    """Of a piece's output what is taken, told in pixels of the piece, (first, end) of each side."""
    place = [slice(None)] * output.ndim
    for axis, side, (first, end) in zip(axes, given, kept, strict=True):
        length = output.shape[axis]
        place[axis] = slice(first * length // side, end * length // side)
    return output[tuple(place)]


def pieces(side: int, tile: int, overlap: int, step: int = 1) -> list[tuple[int, int, int, int]]:
    """(start, length, first kept, end of kept) of equally long pieces that cover a side."""
    if side <= tile:
        return [(0, side, 0, side)]
    count = math.ceil((side - overlap) / (tile - overlap))
    starts = [round(i * (side - tile) / (count - 1) / step) * step for i in range(count)]
    cuts = [(a + tile + b) // 2 // step * step for a, b in itertools.pairwise(starts)]
    edges = [0, *cuts, side]
    return [(s, tile, a, b) for s, a, b in zip(starts, edges, edges[1:], strict=False)]
