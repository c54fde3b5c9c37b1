"""Images ready for the network: decoded once into memory where they fit, else read on demand.

Both classes give batches by index, for training (`ImageCache`) and preprocessed for validation
(`EvalImages`). Decoding runs in threads: Pillow and torch release the interpreter lock.
Unreadable files that the opening check let through are left out when everything is decoded; when
images are read on demand, another image with the same label takes their place.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from sinet.data.crops import random_boxes
from sinet.data.dataset import Split, check_bad_share
from sinet.data.image import ImageError
from sinet.data.memory import available_bytes
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.errors import DataError

Progress = Callable[[int, int], None]
Fit = Callable[[Tensor], Tensor]

MEMORY_SHARE = 0.4  # of the available memory; the rest is for training itself
SPARE = 1.25  # images are kept this much larger than the network's input: room for crops
PROBED = 64  # images decoded to learn the sizes of all

log = logging.getLogger("sinet.data")


class _Images:
    """The images of a split as uint8 (C, H, W): one tensor, a list of tensors, or on demand."""

    def __init__(
        self,
        split: Split,
        channels: int,
        at_least: int | None,
        fit: Fit,
        max_bad_share: float,
        progress: Progress | None,
    ) -> None:
        self.split, self.channels = split, channels
        self.skipped: list[tuple[str, str]] = []
        self._at_least, self._fit = at_least, fit
        self._pool: ThreadPoolExecutor | None = None
        self.store: Tensor | list[Tensor] | None = self._as_they_are()
        if self.store is not None:
            return
        shapes = self._probe()
        need = len(split) * sum(math.prod(shape) for shape in shapes) / max(1, len(shapes))
        free = available_bytes()
        if need > MEMORY_SHARE * free:
            log.info("images need %.1f of %.1f GB: read on demand", need / 1e9, free / 1e9)
            return
        self._decode_all(shapes[0] if len(set(shapes)) == 1 else None, max_bad_share, progress)

    def _as_they_are(self) -> Tensor | None:
        """An array of the right channels needs no decoding; it is shared, not copied."""
        items = self.split.items
        if not isinstance(items, np.ndarray) or self._at_least is not None:
            return None
        if items.ndim == 3 and self.channels == 1:
            return torch.from_numpy(items)[:, None]
        if items.ndim == 4 and items.shape[-1] == self.channels:
            return torch.from_numpy(items).permute(0, 3, 1, 2)
        return None

    def _probe(self) -> list[tuple[int, ...]]:
        """Shapes of some images, evenly spaced."""
        shapes = []
        for i in np.unique(np.linspace(0, len(self.split) - 1, PROBED).astype(int)):
            try:
                shapes.append(tuple(self.decode(int(i)).shape))
            except ImageError:
                continue
        return shapes

    def _decode_all(
        self, shape: tuple[int, ...] | None, max_bad_share: float, progress: Progress | None
    ) -> None:
        total = len(self.split)
        block = torch.empty((total, *shape), dtype=torch.uint8) if shape else None
        images: list[Tensor] = []
        good = np.ones(total, dtype=bool)
        for i, image in enumerate(self.pool.map(self._try, range(total))):
            if isinstance(image, ImageError):
                good[i] = False
                self.skipped.append((self.split.names[i], image.reason))
            elif block is not None and image.shape == block.shape[1:]:
                block[len(images)] = image
                images.append(block[len(images)])
            else:
                block = None
                images.append(image)
            if progress and ((i + 1) % 256 == 0 or i + 1 == total):
                progress(i + 1, total)
        if self.skipped:
            check_bad_share(self.skipped, total, max_bad_share)
            log.warning("%d of %d images cannot be decoded", len(self.skipped), total)
            self.split = self.split.subset(good)
        self.store = images if block is None else block[: len(images)]

    def _try(self, i: int) -> Tensor | ImageError:
        try:
            return self.decode(i)
        except ImageError as error:
            return error

    def decode(self, i: int) -> Tensor:
        """Read image `i` from its file: uint8 (C, H, W), reduced as `fit` says."""
        pixels = self.split.image(i, self.channels, self._at_least)
        planes = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        try:
            return self._fit(planes.permute(2, 0, 1))
        except DataError as error:  # a strip, far too long for its width
            raise ImageError(self.split.names[i], str(error)) from error

    def __getitem__(self, i: int) -> Tensor:
        """Image `i`, or another of the same label where it cannot be read."""
        if self.store is not None:
            return self.store[i]
        labels = self.split.labels
        same = (labels == labels[i]).reshape(len(labels), -1).all(1)
        order = np.roll(np.flatnonzero(same), -int(same[:i].sum()))
        for stand_in in order[:16]:
            try:
                return self.decode(int(stand_in))
            except ImageError as error:
                failed = error
                log.warning("%s; another image of its class is used instead", error)
        raise failed

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Threads that decode, made when first needed so that a loader's workers get their own."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(os.cpu_count())
        return self._pool

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


class ImageCache:
    """The training images, for `BatchAugment`.

    Images of one size come whole, as uint8 (`uniform`), to be cropped by `BatchAugment` on the
    batch. Images of different sizes are cropped at random here, each from its own pixels, and come
    as float32: that is how `BatchAugment` knows.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        channels: int,
        *,
        crop: str = "resized",
        crop_scale: float = 0.35,
        max_bad_share: float = 0.05,
        progress: Progress | None = None,
    ) -> None:
        """Decode everything that fits into 40% of the available memory.

        Args:
            split: the samples.
            size: the network's input size; larger images are reduced to 1.25 times that.
            channels: 1 or 3.
            crop: `resized`, `pad` or `none`, as in a recipe; for images of different sizes.
            crop_scale: smallest area that `resized` cuts, as a share of the image.
            max_bad_share: greatest share of images that may turn out to be unreadable.
            progress: called with (done, total) now and then.

        Raises:
            DataError: more unreadable images than `max_bad_share`.
        """
        self.size, self.crop, self.crop_scale = size, crop, crop_scale
        self._side = math.ceil(size * SPARE)
        small_array = isinstance(split.items, np.ndarray) and min(split.items.shape[1:3]) <= (
            self._side
        )
        self._images = _Images(
            split,
            channels,
            None if small_array else self._side,
            self._reduce,
            max_bad_share,
            progress,
        )
        self.split = self._images.split
        self.skipped = self._images.skipped
        self.labels = torch.from_numpy(np.ascontiguousarray(self.split.labels))

    @property
    def uniform(self) -> bool:
        """Whether batches come uncropped, in the images' own common size."""
        return isinstance(self._images.store, Tensor)

    @property
    def in_memory(self) -> bool:
        """Whether all images are decoded."""
        return self._images.store is not None

    def __len__(self) -> int:
        return len(self.split)

    def batch(
        self,
        indices: Sequence[int] | Tensor,
        size: int | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Images at these positions.

        Args:
            indices: positions in `split`.
            size: of the result where images have different sizes; None = the network's.
            generator: of the random crops; None = torch's own state.

        Returns:
            uint8 (N, C, H, W) if `uniform`, else crops: float32 (N, C, size, size), 0..255.
        """
        store = self._images.store
        if isinstance(store, Tensor):
            return store[torch.as_tensor(indices)]
        images = list(self._images.pool.map(self._images.__getitem__, map(int, indices)))
        sizes = torch.tensor([image.shape[1:] for image in images], dtype=torch.float32)
        boxes = random_boxes(self.crop, sizes[:, 0], sizes[:, 1], self.crop_scale, False, generator)
        side = size or self.size
        pool = self._images.pool
        crops = list(pool.map(lambda i, box: _resized(i, box, side), images, boxes.tolist()))
        return torch.stack(crops).float()

    def _reduce(self, planes: Tensor) -> Tensor:
        """At most `side` pixels on the short side: what random crops of the network's size need."""
        h, w = planes.shape[1:]
        if min(h, w) <= self._side:
            return planes
        scale = self._side / min(h, w)
        return _interpolate(planes, round(h * scale), round(w * scale))


def _resized(planes: Tensor, box: list[float], size: int) -> Tensor:
    """The box (top, left, height, width) of a uint8 (C, H, W) image, resized to (C, size, size)."""
    top, left, bottom, right = (
        round(v) for v in (box[0], box[1], box[0] + box[2], box[1] + box[3])
    )
    part = planes[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    return _interpolate(part, size, size)


def _interpolate(planes: Tensor, h: int, w: int) -> Tensor:
    """Antialiased bilinear resize of a uint8 (C, H, W) image.

    Pillow, since this runs in the pool: torch's kernel is four times faster on idle cores, but
    each call starts a team of threads that wait for one another when the cores are busy.
    """
    if planes.shape[1:] == (h, w):
        return planes
    pixels = planes.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels if len(planes) == 3 else pixels[..., 0])
    resized = np.array(image.resize((w, h), Image.Resampling.BILINEAR))
    return torch.from_numpy(resized.reshape(h, w, -1)).permute(2, 0, 1)


class EvalImages:
    """Validation images exactly as `PreprocessModule` gives them, by index and in order.

    Images larger than the network's input are kept at that size, rounded to uint8: at most half a
    grey level off what the unrounded path gives. Smaller ones give the very same values.
    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        *,
        max_bad_share: float = 0.05,
        progress: Progress | None = None,
    ) -> None:
        """Decode everything that fits into 40% of the available memory.

        Args:
            split: the samples.
            preprocess: the network's preprocessing.
            max_bad_share: greatest share of images that may turn out to be unreadable.
            progress: called with (done, total) now and then.

        Raises:
            DataError: more unreadable images than `max_bad_share`.
        """
        self.module = PreprocessModule(preprocess)
        self._ready = not self._all_small(split, preprocess)
        fit = self._fit if self._ready else _as_it_is
        self._images = _Images(split, preprocess.channels, None, fit, max_bad_share, progress)
        if isinstance(split.items, np.ndarray):
            self._ready = False  # arrays are shared, not resized
        self.split = self._images.split
        self.skipped = self._images.skipped
        self.labels = torch.from_numpy(np.ascontiguousarray(self.split.labels))

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Preprocessed images at these positions: float32 (N, C, size, size)."""
        store = self._images.store
        if isinstance(store, Tensor):
            return self._finish(store[torch.as_tensor(indices)])
        images = list(self._images.pool.map(self._images.__getitem__, map(int, indices)))
        return torch.cat([self._finish(image[None]) for image in images])

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in order, as (images, labels)."""
        for start in range(0, len(self), batch_size):
            part = torch.arange(start, min(start + batch_size, len(self)))
            yield self.batch(part), self.labels[part]

    @staticmethod
    def _all_small(split: Split, preprocess: Preprocess) -> bool:
        """Whether the first image is no larger than the network's input: true for CIFAR's kind."""
        for i in range(min(len(split), PROBED)):
            try:
                h, w = split.image(i, preprocess.channels).shape[:2]
            except ImageError:
                continue
            return bool(h * w <= preprocess.size**2)
        return False

    def _fit(self, planes: Tensor) -> Tensor:
        return self.module.fit(planes[None])[0].round().to(torch.uint8)

    def _finish(self, planes: Tensor) -> Tensor:
        if self._ready:
            return self.module.normalise(planes)
        return self.module.normalise(self.module.fit(planes))


def _as_it_is(planes: Tensor) -> Tensor:
    return planes
