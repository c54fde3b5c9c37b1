"""Photographs for super-resolution: the large picture of a sample, and windows of both sizes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from sinet.data.bicubic import cropped
from sinet.data.dataset import Split
from sinet.data.image import ImageError, Pixels, read_image
from sinet.data.memory import available_bytes

MEMORY_SHARE = 0.4  # of the available memory; the rest is for training itself
SAMPLE = 16

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Photo:
    """The large picture of a sample; the split itself shows the small one."""

    name: str
    source: Path | bytes = field(repr=False)
    scale: int

    def read(self, channels: int = 3) -> Pixels:
        """uint8 (H, W, channels), sides multiples of `scale`.

        Raises:
            ImageError: it cannot be read.
        """
        try:
            return cropped(read_image(self.source, channels), self.scale)
        except ImageError as error:
            raise ImageError(self.name, error.reason) from error


class PhotoPairs:
    """Small and large pictures of a split, decoded once where they fit into memory.

    Args:
        split: with `Photo` targets.
        channels: 1 or 3.
    """

    def __init__(self, split: Split, channels: int) -> None:
        self.split, self.channels = split, channels
        self.scale = int(split.targets[0].scale)
        some = np.unique(np.linspace(0, len(split) - 1, SAMPLE).astype(int))
        size = np.mean([sum(part.size for part in self._read(int(i))) for i in some])
        fits = size * len(split) <= MEMORY_SHARE * available_bytes()
        self.store: list[tuple[Pixels, Pixels]] | None = None
        if fits:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                self.store = list(pool.map(self._read, range(len(split))))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> tuple[Pixels, Pixels]:
        return self._read(i) if self.store is None else self.store[i]

    def _read(self, i: int) -> tuple[Pixels, Pixels]:
        return self.split.image(i, self.channels), self.split.targets[i].read(self.channels)

    def random(self, indices: Sequence[int], side: int, count: int, generator: Generator) -> Pair:
        """`count` random windows of each picture: uint8 (N, C, side, side) and `scale` times that.

        Args:
            indices: which pictures.
            side: of the small windows, pixels.
            count: windows of each picture.
            generator: of the random numbers.
        """
        windows = []
        for i in indices:
            pair = self[i]
            for high, wide in torch.rand(count, 2, generator=generator).tolist():
                free = (max(0, s - side) + 1 for s in pair[0].shape[:2])
                top, left = (int(share * n) for share, n in zip((high, wide), free, strict=True))
                windows.append(self._window(pair, top, left, side))
        return _stacked(windows)

    def middle(self, indices: Sequence[int], side: int) -> Pair:
        """The window in the middle of each picture."""
        windows = []
        for i in indices:
            pair = self[i]
            top, left = (max(0, s - side) // 2 for s in pair[0].shape[:2])
            windows.append(self._window(pair, top, left, side))
        return _stacked(windows)

    def _window(
        self, pair: tuple[Pixels, Pixels], top: int, left: int, side: int
    ) -> tuple[Pixels, Pixels]:
        small, large = pair
        scale, (high, wide) = self.scale, small.shape[:2]
        if min(high, wide) < side:  # mirrored, alike in both sizes
            down, right = max(0, side - high), max(0, side - wide)
            small = np.pad(small, ((0, down), (0, right), (0, 0)), mode="symmetric")
            more = ((0, scale * down), (0, scale * right), (0, 0))
            large = np.pad(large, more, mode="symmetric")
        large = large[scale * top : scale * (top + side), scale * left : scale * (left + side)]
        return small[top : top + side, left : left + side], large


def _stacked(windows: Sequence[tuple[Pixels, Pixels]]) -> Pair:
    small, large = (
        torch.from_numpy(np.ascontiguousarray(np.stack(part).transpose(0, 3, 1, 2)))
        for part in zip(*windows, strict=True)
    )
    return small, large
