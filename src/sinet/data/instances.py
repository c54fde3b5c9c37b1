"""Objects of one image with their pixels, and how these are read, moved along and drawn.

All of them are `Boxes` too, so whatever asks for boxes and classes only can take them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sinet.data.boxes import Boxes, Carry, draw_boxes
from sinet.data.image import ImageError
from sinet.data.masks import palette, raw_pixels
from sinet.data.regions import Region, Size, filled, from_rle

_STRENGTH = 0.5  # of the colour that is laid over an object


@dataclass(frozen=True, eq=False, repr=False)
class Instances(Boxes):
    """Objects of one image and their pixels; boxes are those around the pixels."""

    regions: tuple[Region, ...] = ()
    """One an object."""
    size: Size = (0, 0)
    """Height and width of the image, pixels."""

    @classmethod
    def found(
        cls,
        name: str,
        regions: Iterable[Region],
        labels: npt.NDArray[np.int64],
        crowd: npt.NDArray[np.bool_],
        size: Size,
    ) -> Instances:
        """From regions; what has no pixel is left out."""
        every = list(regions)
        kept = np.array([region.area > 0 for region in every], bool)
        held = tuple(region for region, there in zip(every, kept, strict=True) if there)
        corners = np.array([region.corners for region in held], np.float32).reshape(-1, 4)
        numbers = np.asarray(labels, np.int64).reshape(-1)[kept]
        return cls(
            name, corners, numbers, np.asarray(crowd, bool).reshape(-1)[kept], (), held, size
        )

    def read(self) -> Instances:
        """Themselves."""
        return self

    def masks(self) -> npt.NDArray[np.bool_]:
        """(n, H, W)."""
        whole = [region.full(self.size) for region in self.regions]
        return np.stack(whole) if whole else np.zeros((0, *self.size), bool)

    def select(self, chosen: npt.NDArray[Any]) -> Instances:
        """Those at these places, or where a mask is true."""
        places = np.arange(len(self))[chosen]
        return replace(super().select(places), regions=tuple(self.regions[i] for i in places))

    def scaled(self, wide: float, high: float) -> Instances:
        """In an image that is so many times wider and higher."""
        size = round(self.size[0] * high), round(self.size[1] * wide)
        regions = [region.resized(self.size, size) for region in self.regions]
        return Instances.found(self.name, regions, self.labels, self.crowd, size)

    def moved(self, corners: npt.NDArray[np.float32], carry: Carry, size: Size) -> Instances:
        """On a canvas of this size, each mask brought there as the image's pixels were."""
        regions = []
        for region in self.regions:
            whole = Image.fromarray(region.full(self.size).astype(np.uint8) * 255)
            part, (left, top) = carry(whole)
            regions.append(Region.of(np.asarray(part) >= 128, top, left))
        return Instances.found(self.name, regions, self.labels, self.crowd, size)

    def together(self, others: Sequence[Boxes]) -> Instances:
        """These and others of the same canvas."""
        more = (region for part in others if isinstance(part, Instances) for region in part.regions)
        return replace(super().together(others), regions=(*self.regions, *more))


Outline = Mapping[str, Any] | Sequence[Sequence[float]]
"""COCO's run lengths, or polygons."""


@dataclass(frozen=True, eq=False, repr=False)
class Outlined(Boxes):
    """Objects whose pixels a file tells by outlines or run lengths; filled when they are needed."""

    outlines: tuple[Outline, ...] = ()
    """One an object: polygons in pixels of the image, or run lengths of any size."""
    size: Size = (0, 0)
    """Height and width of the image, pixels."""

    def select(self, chosen: npt.NDArray[Any]) -> Outlined:
        """Those at these places, or where a mask is true."""
        places = np.arange(len(self))[chosen]
        return replace(super().select(places), outlines=tuple(self.outlines[i] for i in places))

    def read(self) -> Instances:
        """Fill the outlines.

        Raises:
            ImageError: run lengths that are none.
        """
        try:
            regions = [region_of(outline, self.size) for outline in self.outlines]
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(self.name, f"a mask cannot be read: {error}") from error
        return Instances.found(self.name, regions, self.labels, self.crowd, self.size)

    def __repr__(self) -> str:
        digest = hashlib.blake2b(repr(self.outlines).encode(), digest_size=8).hexdigest()
        return f"{super().__repr__()} {digest}"


def region_of(outline: Outline, size: Size) -> Region:
    """The pixels that COCO's `segmentation` stands for, in an image of this height and width."""
    if not isinstance(outline, Mapping):
        return filled(outline, size)
    mask = from_rle(outline)
    region = Region.of(mask)
    return region if mask.shape == size else region.resized((mask.shape[0], mask.shape[1]), size)


@dataclass(frozen=True, eq=False, repr=False)
class Numbered(Boxes):
    """Objects told apart by the numbers of a mask's pixels; several masks where they overlap."""

    sources: tuple[tuple[Path, int], ...] = ()
    """A mask's file and a pixel value, one an object."""
    size: Size = (0, 0)
    """Height and width of the image, pixels."""

    def select(self, chosen: npt.NDArray[Any]) -> Numbered:
        """Those at these places, or where a mask is true."""
        places = np.arange(len(self))[chosen]
        return replace(super().select(places), sources=tuple(self.sources[i] for i in places))

    def read(self) -> Instances:
        """Decode the masks.

        Raises:
            ImageError: one cannot be read.
        """
        pixels: dict[Path, npt.NDArray[np.int64]] = {}
        for path, _ in self.sources:
            if path not in pixels:
                try:
                    pixels[path] = raw_pixels(path, False)
                except (OSError, ValueError, SyntaxError) as error:
                    raise ImageError(path.name, str(error)) from error
        regions = [Region.of(pixels[path] == value) for path, value in self.sources]
        return Instances.found(self.name, regions, self.labels, self.crowd, self.size)


def draw_instances(
    image: npt.NDArray[np.uint8],
    corners: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    regions: Sequence[Region],
    classes: Sequence[str],
    scores: npt.NDArray[Any] | None = None,
) -> Image.Image:
    """The image, uint8 (H, W, 1 or 3): objects in colours of their own, boxes in their class's."""
    base = np.array(np.broadcast_to(image, (*image.shape[:2], 3)), np.float32)
    for region, colour in zip(regions, palette(len(regions)), strict=True):
        inside = region.full((image.shape[0], image.shape[1]))
        base[inside] += _STRENGTH * (colour - base[inside])
    return draw_boxes(base.round().astype(np.uint8), corners, labels, classes, scores)
