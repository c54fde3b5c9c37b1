"""Masks: pictures whose pixels are classes, by number or by colour."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sinet.data.image import ImageError, opened
from sinet.data.remarks import Corners

VOID = 255
"""The class index of pixels that count for nothing."""
Mapped = npt.NDArray[np.uint8]


class UnknownClass(ValueError):
    """Pixels of a mask have no class; `box` is around them.

    Args:
        said: which values.
        where: (H, W), true where these pixels are.
    """

    def __init__(self, said: str, where: npt.NDArray[np.bool_]) -> None:
        super().__init__(said)
        ys, xs = (axis.astype(float) for axis in np.nonzero(where))
        self.box: Corners = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@dataclass(frozen=True)
class MaskFormat:
    """How the pixels of a data set's masks become class indices.

    Attributes:
        colours: whether pixels are colours, packed as 65536 R + 256 G + B, instead of numbers.
        values: the pixel values that are known, ascending.
        classes: the class index of each of `values`; `VOID` for those that count for nothing.
    """

    colours: bool
    values: tuple[int, ...]
    classes: tuple[int, ...]

    def apply(self, pixels: npt.NDArray[np.int64]) -> Mapped:
        """Class indices of pixel values, (H, W) -> uint8 (H, W).

        Raises:
            UnknownClass: a value that is not known.
        """
        values = np.array(self.values)
        place = np.searchsorted(values, pixels).clip(max=len(values) - 1)
        strange = values[place] != pixels
        if strange.any():
            shown = ", ".join(self.shown(int(v)) for v in np.unique(pixels[strange])[:5])
            raise UnknownClass(f"pixels of unknown class {shown}", strange)
        classes: Mapped = np.array(self.classes, dtype=np.uint8)
        return np.asarray(classes[place])

    def shown(self, value: int) -> str:
        """A pixel value as a person would write it."""
        return f"#{value:06x}" if self.colours else str(value)


@dataclass(frozen=True)
class Mask:
    """The mask of one image; read when it is needed."""

    name: str
    source: Path | bytes = field(repr=False)
    format: MaskFormat = field(repr=False)

    def read(self) -> Mapped:
        """Class indices, uint8 (H, W).

        Raises:
            ImageError: it cannot be read, or has pixels of an unknown class.
        """
        try:
            return self.format.apply(raw_pixels(self.source, self.format.colours))
        except UnknownClass as error:
            raise ImageError(self.name, str(error), error.box) from error
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(self.name, str(error)) from error


def raw_pixels(source: Path | bytes, colours: bool) -> npt.NDArray[np.int64]:
    """The values of a mask's pixels, (H, W): numbers as stored, or packed colours.

    A palette picture holds numbers; a grey one too.
    """
    image = opened(source)
    if colours:
        red, green, blue = np.asarray(image.convert("RGB")).astype(np.int64).transpose(2, 0, 1)
        packed: npt.NDArray[np.int64] = 65536 * red + 256 * green + blue
        return packed
    if image.mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image).astype(np.int64)
    return pixels if pixels.ndim == 2 else pixels[..., 0]


def is_coloured(source: Path | bytes) -> bool:
    """Whether a mask's pixels are colours: three channels that differ somewhere."""
    image = opened(source)
    if image.mode not in ("RGB", "RGBA"):
        return False
    pixels = np.asarray(image.convert("RGB"))
    return bool((pixels != pixels[..., :1]).any())


def draw_mask(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.integer],
    classes: Sequence[str],
    strength: float = 0.55,
) -> Image.Image:
    """The image, uint8 (H, W, 1 or 3), with its classes as colours.

    Void stays as it is, and so does a class that is called background.
    """
    base = np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.float32)
    tint = palette(len(classes))[mask.clip(max=len(classes) - 1)].astype(np.float32)
    plain = [i for i, name in enumerate(classes) if name.lower() == "background"]
    shown = ~np.isin(mask, [VOID, *plain])[..., None]
    mixed = np.where(shown, base * (1 - strength) + tint * strength, base)
    return Image.fromarray(mixed.round().astype(np.uint8))


def palette(count: int) -> Mapped:
    """Colours that neighbours in the list of classes can be told apart by, (count, 3)."""
    golden = 0.61803398875  # steps of the golden ratio never come close to an earlier hue
    colours = [
        colorsys.hsv_to_rgb(i * golden % 1, (0.85, 0.6, 0.95)[i % 3], (0.95, 1.0, 0.7)[i % 3])
        for i in range(count)
    ]
    return (np.array(colours).reshape(count, 3) * 255).round().astype(np.uint8)


def presence(masks: Sequence[Mapped], classes: int) -> npt.NDArray[np.float32]:
    """Which classes occur in each mask, (N, classes) of 0 and 1."""
    found = np.zeros((len(masks), classes), dtype=np.float32)
    for row, mask in zip(found, masks, strict=True):
        seen = np.unique(mask)
        row[seen[seen < classes]] = 1
    return found
