"""Images with their masks, decoded once where they fit into memory, and cropped alike.

Both are brought to the network's shape by `Preprocess` with `fit="stretch"`; for training they are
kept a little larger, so that random crops show new pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from sinet.data.crops import random_boxes
from sinet.data.dataset import Split
from sinet.data.memory import available_bytes
from sinet.data.preprocess import Preprocess, PreprocessModule

MEMORY_SHARE = 0.4  # of the available memory; the rest is for training itself
SPARE = 1.25  # training images are kept this much larger than the network's input

Pair = tuple[Tensor, Tensor]


class Pairs:
    """Images uint8 (C, H, W) and masks uint8 (H, W) of a split.

    Args:
        split: with `Mask` targets.
        preprocess: of the network.
        spare: how much larger than the network's shape they are kept; never enlarged.
    """

    def __init__(self, split: Split, preprocess: Preprocess, spare: float = 1.0) -> None:
        self.split, self.preprocess, self.spare = split, preprocess, spare
        self._pool: ThreadPoolExecutor | None = None
        fits = self.need() <= MEMORY_SHARE * available_bytes()
        self.store = list(self.pool.map(self._read, range(len(split)))) if fits else None

    def need(self) -> float:
        """Bytes of all images and masks."""
        height, width = self.preprocess.shape
        each = math.ceil(height * width * self.spare**2) * (self.preprocess.channels + 1)
        return len(self.split) * each

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> Pair:
        return self._read(i) if self.store is None else self.store[i]

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Threads that decode and crop, made when first needed."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(os.cpu_count())
        return self._pool

    def _read(self, i: int) -> Pair:
        image = self.split.image(i, self.preprocess.channels)
        mask = self.split.targets[i].read()
        height, width = image.shape[:2]
        limits = (side * self.spare for side in self.preprocess.shape)
        high, wide = (math.ceil(min(a, b)) for a, b in zip(limits, (height, width), strict=True))
        return resized(image, mask, (0, 0, height, width), (high, wide))

    def batch(self, indices: Sequence[int]) -> Pair:
        """Whole images and masks in the network's shape: uint8 (N, C, h, w) and int64 (N, h, w)."""
        return self._stacked([(*self[i], None) for i in indices])

    def crops(self, indices: Sequence[int], kind: str, scale: float, generator: Generator) -> Pair:
        """Random crops in the network's shape.

        Args:
            indices: which images.
            kind: `resized`, `pad` or `none`, as in a recipe.
            scale: smallest area that `resized` cuts, as a share of the image.
            generator: of the random numbers.
        """
        pairs = [self[i] for i in indices]
        sizes = torch.tensor([mask.shape for _, mask in pairs], dtype=torch.float32)
        boxes = self.boxes(kind, sizes[:, 0], sizes[:, 1], scale, generator)
        return self._stacked([(*p, box) for p, box in zip(pairs, boxes.tolist(), strict=True)])

    def boxes(
        self, kind: str, heights: Tensor, widths: Tensor, scale: float, generator: Generator
    ) -> Tensor:
        """What `crops` cuts: (N, 4) top, left, height, width in pixels of the images."""
        return random_boxes(kind, heights, widths, scale, False, generator)

    def _stacked(self, jobs: Sequence[tuple[Tensor, Tensor, list[float] | None]]) -> Pair:
        shape = self.preprocess.shape

        def fit(job: tuple[Tensor, Tensor, list[float] | None]) -> Pair:
            image, mask, box = job
            pixels, height, width = image.permute(1, 2, 0).numpy(), *mask.shape
            top, left, high, wide = box or (0, 0, height, width)
            inside = (
                max(0, round(top)),
                max(0, round(left)),
                min(height, max(round(top + high), round(top) + 1)),
                min(width, max(round(left + wide), round(left) + 1)),
            )
            return resized(pixels, mask.numpy(), inside, shape)

        fitted = list(self.pool.map(fit, jobs))
        images, masks = zip(*fitted, strict=True)
        return torch.stack(images), torch.stack(masks).long()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pool": None}


def resized(
    image: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], shape: tuple[int, int]
) -> Pair:
    """A part of an image (H, W, C) and its mask in another shape: bilinear and nearest.

    Args:
        image: uint8.
        mask: uint8 (H, W).
        box: top, left, bottom, right.
        shape: height and width of the result.
    """
    top, left, bottom, right = box
    image, mask = image[top:bottom, left:right], mask[top:bottom, left:right]
    if mask.shape != shape:
        size = shape[::-1]
        flat = image[..., 0] if image.shape[2] == 1 else image
        picture = Image.fromarray(np.ascontiguousarray(flat))
        image = np.array(picture.resize(size, Image.Resampling.BILINEAR)).reshape(*shape, -1)
        classes = Image.fromarray(np.ascontiguousarray(mask))
        mask = np.array(classes.resize(size, Image.Resampling.NEAREST))
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return planes, torch.from_numpy(np.ascontiguousarray(mask))


def as_seen(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Network inputs of uint8 images in the network's shape: (N, C, h, w) -> float32."""
    return PreprocessModule(preprocess).to(images.device).normalise(images)
