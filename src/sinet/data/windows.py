"""Pieces of large images with their masks, in the images' own resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sinet.data.crops import random_areas
from sinet.data.dataset import Split
from sinet.data.masks import VOID
from sinet.data.pairs import Pair, Pairs
from sinet.data.preprocess import Preprocess


class Windows(Pairs):
    """Like `Pairs`, but pieces of the network's shape take the place of whole images.

    Where the images do not fit into memory, every piece costs the reading of its image.

    Args:
        split: with `Mask` targets.
        preprocess: of the network.
    """

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        super().__init__(split, preprocess, math.inf)
        sizes = self.pool.map(lambda i: tuple(self[i][1].shape), range(len(split)))
        self.cells = [(i, *place) for i, size in enumerate(sizes) for place in self._grid(*size)]

    def need(self) -> float:
        """Bytes of all images, judged by the first."""
        height, width = self.split.image(0, self.preprocess.channels).shape[:2]
        return float(len(self.split) * height * width * (self.preprocess.channels + 1))

    def _grid(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of pieces side by side that cover an image; the last ones lie further in."""
        rows, columns = (
            [min(i * step, max(0, side - step)) for i in range(math.ceil(side / step))]
            for side, step in zip((height, width), self.preprocess.shape, strict=True)
        )
        return [(top, left) for top in rows for left in columns]

    def batch(self, indices: Sequence[int]) -> Pair:
        """Pieces by their place in `cells`: uint8 (N, C, h, w) and int64 (N, h, w).

        What an image lacks to a piece is black and void, and so is what an earlier piece showed.
        """
        parts = [self._cell(*self.cells[i]) for i in indices]
        images, masks = zip(*parts, strict=True)
        return torch.stack(images), torch.stack(masks).long()

    def _cell(self, i: int, top: int, left: int) -> Pair:
        image, mask = self[i]
        high, wide = self.preprocess.shape
        image, mask = image[:, top : top + high, left : left + wide], mask[top : top + high]
        mask = mask[:, left : left + wide].clone()
        mask[: -top % high if top else 0] = VOID
        mask[:, : -left % wide if left else 0] = VOID
        below, right = high - mask.shape[0], wide - mask.shape[1]
        pad = torch.nn.functional.pad
        return pad(image, (0, right, 0, below)), pad(mask, (0, right, 0, below), value=VOID)

    def boxes(
        self, kind: str, heights: Tensor, widths: Tensor, scale: float, generator: Generator
    ) -> Tensor:
        """Random pieces: for `resized` between `scale` and 1 / `scale` of the network's area."""
        high, wide = self.preprocess.shape
        least = scale if kind == "resized" else 1.0
        share = high * wide / (heights * widths)
        aspect = (
            (3 / 4 * wide / high, 4 / 3 * wide / high) if kind == "resized" else (wide / high,) * 2
        )
        return random_areas(heights, widths, (share * least, share / least), aspect, generator)
