"""Images with their boxes, decoded once, and what training makes of them.

Every change of shape is a cut of an image, resized into a rectangle of the canvas: scale jitter,
shift, mirror, and the mosaic of four images (as in YOLOv4, arXiv:2004.10934). So each is one
resizing of the pixels that are seen, boxes follow their pixels by one scale and shift an axis, and
masks, where there are any, are resized as the pixels are.
All random numbers come from the generator that is given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Generator, Tensor

from sinet.data.boxes import Boxes
from sinet.data.dataset import Split
from sinet.data.memory import available_bytes
from sinet.data.preprocess import GREY, Preprocess

MEMORY_SHARE = 0.4  # of the available memory; the rest is for training itself
SPARE = 1.6  # training images are kept this much larger than the network sees them
LEAST_SEEN, LEAST_SIDE = 0.2, 2.0  # share of a box, and pixels, that must be left of it
MOSAIC_SCALE = 0.7  # images of a mosaic are this much smaller than others, so that more is seen
ASPECT = 1.15  # widths are changed by up to this factor against heights

Floats = npt.NDArray[np.float32]
Scene = tuple[Image.Image, Boxes]


@dataclass(frozen=True)
class Jitter:
    """How training images are changed.

    Attributes:
        mosaic: share of the images that are put together from four.
        mixup: alpha of the Beta distribution that blends two images; 0 = off.
        mix_prob: share of the images that are blended.
        scale: greatest factor by which objects are enlarged or made smaller.
        shift: greatest shift as a share of the canvas, where scale does not say it.
        flip: whether half of the images are mirrored.
        colour: strength of the changes of brightness, contrast and saturation, 0..1.
    """

    mosaic: float = 0.0
    mixup: float = 0.0
    mix_prob: float = 1.0
    scale: float = 1.0
    shift: float = 0.0
    flip: bool = False
    colour: float = 0.0


@dataclass(frozen=True)
class Cut:
    """A part of an image on its way into a rectangle of the canvas; both as x1, y1, x2, y2.

    Attributes:
        source: pixels of the image, fractions allowed, inside of it.
        place: whole pixels of the canvas.
        mirrored: left and right change sides.
    """

    source: tuple[float, float, float, float]
    place: tuple[int, int, int, int]
    mirrored: bool = False

    def part(self, image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
        """The pixels as they will be on the canvas, and their left and top there."""
        left, top, right, bottom = self.place
        size = (right - left, bottom - top)
        part = image.resize(size, Image.Resampling.BILINEAR, box=self.source)
        if self.mirrored:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return part, (left, top)

    def move(self, boxes: Boxes, canvas: tuple[int, int]) -> Boxes:
        """Bring the boxes over, and masks if they have some.

        Those of which too little is left are left behind.

        Args:
            boxes: of the image.
            canvas: height and width, pixels.
        """
        low, high = np.array(self.place[:2]), np.array(self.place[2:])
        start, end = np.array(self.source[:2]), np.array(self.source[2:])
        factor = (high - low) / (end - start)
        pairs = (boxes.corners.reshape(-1, 2, 2) - start) * factor + low
        if self.mirrored:
            pairs[..., 0] = (low[0] + high[0] - pairs[..., 0])[:, ::-1]
        seen = pairs.clip(low, high)
        sides, whole = seen[:, 1] - seen[:, 0], pairs[:, 1] - pairs[:, 0]
        kept = (sides >= LEAST_SIDE).all(1) & (sides.prod(1) >= LEAST_SEEN * whole.prod(1))
        corners = seen.reshape(-1, 4).astype(np.float32)
        return boxes.select(kept).moved(corners[kept], self.part, canvas)


class Scenes:
    """Images and boxes of a split, with their masks where these are `Instances`.

    Args:
        split: with targets that `read()` gives `Boxes` of.
        preprocess: of the network, with `fit="pad"`.
        spare: how much larger than the network sees them images are kept; never enlarged.
    """

    def __init__(self, split: Split, preprocess: Preprocess, spare: float = 1.0) -> None:
        self.split, self.preprocess, self.spare = split, preprocess, spare
        height, width = preprocess.shape
        per_pixel = 4 if preprocess.channels == 3 else 1  # as Pillow keeps them
        need = len(split) * math.ceil(height * width * spare**2) * per_pixel
        self._pool: ThreadPoolExecutor | None = None
        fits = need <= MEMORY_SHARE * available_bytes()
        self.store = list(self.pool.map(self._read, range(len(split)))) if fits else None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> Scene:
        return self._read(i) if self.store is None else self.store[i]

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Threads that decode and resize, made when first needed."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(os.cpu_count())
        return self._pool

    def _read(self, i: int) -> Scene:
        image = self.split.image(i, self.preprocess.channels)
        boxes: Boxes = self.split.targets[i].read()
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        height, width = self.preprocess.resized(*image.shape[:2])
        high, wide = math.ceil(height * self.spare), math.ceil(width * self.spare)
        if high >= picture.height or wide >= picture.width:
            return picture, boxes
        boxes = boxes.scaled(wide / picture.width, high / picture.height)
        return picture.resize((wide, high), Image.Resampling.BILINEAR), boxes

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[Boxes]]:
        """Images as the network sees them, uint8 (N, C, h, w), and their boxes there."""
        scenes = [self[i] for i in indices]
        jobs = [([(scene, self._whole(scene[0]))], None, 1.0) for scene in scenes]
        return self._painted(jobs)

    def jittered(
        self, indices: Sequence[int], jitter: Jitter, generator: Generator
    ) -> tuple[Tensor, list[Boxes]]:
        """Images and boxes as training changes them.

        Args:
            indices: which images; those of mosaics and blends are joined by others at random.
            jitter: how.
            generator: of the random numbers.
        """
        draws = _Draws(generator)
        jobs = []
        for index in indices:
            parts = self._parts(index, jitter, draws)
            other, share = None, 1.0
            if jitter.mixup and draws.uniform() < jitter.mix_prob:
                other = self._parts(draws.whole(len(self)), jitter, draws)
                share = draws.beta(jitter.mixup)
            jobs.append((parts, other, share))
        images, boxes = self._painted(jobs)
        if jitter.colour:
            images = recoloured(images, jitter.colour, draws)
        return images, boxes

    def _parts(self, index: int, jitter: Jitter, draws: _Draws) -> list[tuple[Scene, Cut]]:
        """What is put onto one canvas."""
        if draws.uniform() < jitter.mosaic:
            others = [draws.whole(len(self)) for _ in range(3)]
            return self._mosaic([self[i] for i in (index, *others)], jitter, draws)
        return [self._single(self[index], jitter, draws)]

    def _factors(self, image: Image.Image, by: float, draws: _Draws, even: bool) -> list[float]:
        """Canvas pixels for a pixel of the image, horizontally and vertically."""
        high, wide = self.preprocess.resized(image.height, image.width)
        stretch = 1.0 if even else math.sqrt(draws.power(ASPECT))
        return [wide / image.width * by * stretch, high / image.height * by / stretch]

    def _whole(self, image: Image.Image) -> Cut:
        height, width = self.preprocess.resized(image.height, image.width)
        return Cut((0, 0, image.width, image.height), (0, 0, width, height))

    def _single(self, scene: Scene, jitter: Jitter, draws: _Draws) -> tuple[Scene, Cut]:
        """One image, larger or smaller, somewhere on the canvas."""
        image, _ = scene
        plain = jitter.scale == 1.0
        factors = self._factors(image, draws.power(jitter.scale), draws, even=plain)
        starts, ends, sides = [], [], self.preprocess.shape[::-1]
        for side, box, factor in zip(image.size, sides, factors, strict=True):
            spare = box - side * factor
            reach = jitter.shift * box
            # anywhere where as little as possible is lost, or near the corner that padding keeps
            low, high = (min(0.0, spare), max(0.0, spare)) if not plain else (-reach, reach)
            starts.append(low + draws.uniform() * (high - low))
            ends.append(starts[-1] + side * factor)
        mirrored = jitter.flip and draws.uniform() < 0.5
        return scene, _cut(image, starts, ends, (0, 0, *sides), mirrored)

    def _mosaic(
        self, scenes: Sequence[Scene], jitter: Jitter, draws: _Draws
    ) -> list[tuple[Scene, Cut]]:
        """Four images around a point, each cut at random where it is larger than its quarter."""
        high, wide = self.preprocess.shape
        x, y = (round(side * (0.3 + 0.4 * draws.uniform())) for side in (wide, high))
        quarters = [(0, 0, x, y), (x, 0, wide, y), (0, y, x, high), (x, y, wide, high)]
        parts = []
        for scene, quarter in zip(scenes, quarters, strict=True):
            by = MOSAIC_SCALE * draws.power(jitter.scale)
            factors = self._factors(scene[0], by, draws, even=jitter.scale == 1.0)
            starts, ends = [], []
            for axis, (side, factor) in enumerate(zip(scene[0].size, factors, strict=True)):
                near, far = quarter[axis], quarter[axis + 2]
                spare = far - near - side * factor
                # a smaller image touches the middle, so that grey stays outside
                place = near == 0 if spare > 0 else draws.uniform()
                starts.append(near + spare * place)
                ends.append(starts[-1] + side * factor)
            mirrored = jitter.flip and draws.uniform() < 0.5
            parts.append((scene, _cut(scene[0], starts, ends, quarter, mirrored)))
        return parts

    def _painted(
        self,
        jobs: Sequence[tuple[list[tuple[Scene, Cut]], list[tuple[Scene, Cut]] | None, float]],
    ) -> tuple[Tensor, list[Boxes]]:
        def paint(
            job: tuple[list[tuple[Scene, Cut]], list[tuple[Scene, Cut]] | None, float],
        ) -> tuple[Tensor, Boxes]:
            parts, others, share = job
            canvas, boxes = self._canvas(parts), self._moved(parts)
            if others is not None:
                canvas = Image.blend(self._canvas(others), canvas, share)
                boxes = boxes.together([self._moved(others)])
            pixels = np.array(canvas).reshape(canvas.height, canvas.width, -1)
            return torch.from_numpy(pixels).permute(2, 0, 1), boxes

        painted = list(self.pool.map(paint, jobs))
        images = torch.stack([image for image, _ in painted])
        return images, [boxes for _, boxes in painted]

    def _canvas(self, parts: Sequence[tuple[Scene, Cut]]) -> Image.Image:
        high, wide = self.preprocess.shape
        grey = int(GREY)
        colour = self.preprocess.channels == 3
        canvas = Image.new("RGB", (wide, high), (grey,) * 3) if colour else None
        canvas = canvas or Image.new("L", (wide, high), grey)
        for (image, _), cut in parts:
            canvas.paste(*cut.part(image))
        return canvas

    def _moved(self, parts: Sequence[tuple[Scene, Cut]]) -> Boxes:
        first, *others = (cut.move(boxes, self.preprocess.shape) for (_, boxes), cut in parts)
        return first.together(others) if others else first

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pool": None}


class _Draws:
    """Random numbers one by one, from a generator of torch, a block at a time."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.block: list[float] = []

    def uniform(self) -> float:
        """0..1."""
        if not self.block:
            self.block = torch.rand(256, generator=self.generator, dtype=torch.float64).tolist()
        return self.block.pop()

    def whole(self, count: int) -> int:
        """0 ... count - 1."""
        return min(int(self.uniform() * count), count - 1)

    def power(self, greatest: float) -> float:
        """A factor between 1 / greatest and greatest, even on the logarithmic scale."""
        return float(greatest ** (2 * self.uniform() - 1))

    def beta(self, alpha: float) -> float:
        """Of the Beta distribution (alpha, alpha), by the generator's own seed."""
        return float(np.random.default_rng(int(self.uniform() * 2**53)).beta(alpha, alpha))


def _cut(
    image: Image.Image,
    starts: Sequence[float],
    ends: Sequence[float],
    window: tuple[int, int, int, int],
    mirrored: bool,
) -> Cut:
    """The part of an image, spread from `starts` to `ends`, that a window of the canvas shows.

    The rectangle has whole pixels, and the source is what belongs to exactly these.
    """
    source, place = [], []
    for axis, side in enumerate(image.size):
        start, end = starts[axis], ends[axis]
        low = min(max(math.ceil(start - 1e-6), window[axis]), window[axis + 2] - 1)
        high = max(min(math.floor(end + 1e-6), window[axis + 2]), low + 1)
        factor = side / (end - start)
        first = min(max((low - start) * factor, 0.0), side - 1e-3)
        last = min(max((high - start) * factor, first + 1e-3), float(side))
        source.append((first, last))
        place.append((low, high))
    (x1, x2), (y1, y2) = source
    (left, right), (top, bottom) = place
    return Cut((x1, y1, x2, y2), (left, top, right, bottom), mirrored)


def recoloured(images: Tensor, strength: float, draws: _Draws) -> Tensor:
    """Brightness, contrast and saturation of each image changed by up to `strength`.

    All three are linear in the colours, so one matrix an image does them at once.
    """
    count, channels = images.shape[:2]
    matrices, offsets = [], []
    luma = torch.tensor([[0.299, 0.587, 0.114]]) if channels == 3 else torch.ones(1, 1)
    means = images.float().mean((2, 3))
    for i in range(count):
        bright, contrast, saturation = (1 + strength * (2 * draws.uniform() - 1) for _ in range(3))
        grey = luma.expand(channels, -1)
        colours = saturation * torch.eye(channels) + (1 - saturation) * grey
        matrix = bright * colours
        matrices.append(contrast * matrix)
        offsets.append((1 - contrast) * (grey @ matrix @ means[i]))
    mixed = torch.einsum("ncd,ndhw->nchw", torch.stack(matrices), images.float())
    mixed += torch.stack(offsets)[:, :, None, None]
    return mixed.clamp_(0, 255).round_().to(torch.uint8)
