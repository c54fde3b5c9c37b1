"""From pixels of any size to what a network sees: four rules, and their twin in torch.

The exported file holds the same steps as ONNX nodes: Resize (opset 18, linear, half-pixel,
antialiased), centre crop or padding, scale and shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.errors import DataError

MAX_ASPECT = 100  # a longer strip would need gigabytes once its short side is enlarged
GREY = 114.0  # what `pad` fills with, on the 0..255 scale; detectors' custom since YOLOv3
FITS = ("crop", "stretch", "pad", "none")


class AnyShape(tuple[int, int]):
    """Height and width of an example: the network takes images of any others too."""

    __slots__ = ()


@dataclass(frozen=True)
class Preprocess:
    """Bring an image to the network's size and normalise it.

    `crop` resizes the short side and cuts the centre; `stretch` resizes both sides, each as it
    needs; `pad` resizes until the image fits in and fills what is left, below and to the right;
    `none` leaves every image the size that it has.
    """

    size: int
    """Height of the network's input in pixels, and its width unless `width` is given."""
    channels: int
    """1 (luminance) or 3 (RGB)."""
    mean: tuple[float, ...]
    """Subtracted per channel, on the 0..1 scale."""
    std: tuple[float, ...]
    """Divided by per channel, on the 0..1 scale."""
    crop_pct: float = 1.0
    """`crop`: the short side is resized to `round(size / crop_pct)` before the centre is cut."""
    width: int = 0
    """Width of the network's input in pixels; 0 = as its height. Not for `crop`."""
    fit: str = "crop"
    """`crop`, `stretch`, `pad`, or `none`: then size and width are those of a typical image."""
    multiple: int = 1
    """`none`: the sides grow to multiples of this; the edge is repeated below and to the right."""
    window: bool = False
    """`stretch`: images are large, and looked at piece by piece in their own resolution."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.channels not in (1, 3) or not 0 < self.crop_pct <= 1:
            raise ValueError(f"size >= 1, channels 1 or 3, 0 < crop_pct <= 1 expected: {self}")
        if self.fit not in FITS or (self.fit == "crop" and self.width not in (0, self.size)):
            raise ValueError(f"fit one of {', '.join(FITS)}, square for crop, expected: {self}")
        if self.multiple < 1 or (self.multiple > 1 and self.fit != "none"):
            raise ValueError(f"multiple >= 1, and 1 unless fit is none, expected: {self}")
        if self.window and self.fit != "stretch":
            raise ValueError(f"windows only where fit is stretch, expected: {self}")
        if len(self.mean) != self.channels or len(self.std) != self.channels or 0 in self.std:
            raise ValueError(f"one mean and one std (not 0) for each channel expected: {self}")

    @property
    def still(self) -> Preprocess:
        """What happens to a single picture: all of it, unless a sample is several pictures."""
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's input; an `AnyShape` where others do as well."""
        shape = self.size, self.width or self.size
        return AnyShape(self.grown(*shape)) if self.fit == "none" else shape

    def grown(self, h: int, w: int) -> tuple[int, int]:
        """Height and width as the next multiples of `multiple`."""
        return -(-h // self.multiple) * self.multiple, -(-w // self.multiple) * self.multiple

    @property
    def short_side(self) -> int:
        """Length of the short side after resizing, before the crop."""
        return math.floor(self.size / self.crop_pct + 0.5)

    @property
    def least(self) -> int:
        """Shortest side after resizing: padded strips keep two pixels.

        ONNX Runtime 1.31 resizes to a width of one pixel wrongly (off by up to 45 of 255).
        """
        return 2 if self.fit == "pad" else 1

    def resized(self, h: int, w: int) -> tuple[int, int]:
        """Size after resizing, before crop or padding: one rounding rule, in double precision.

        Raises:
            DataError: a side of zero, or a strip more than `MAX_ASPECT` times longer than wide.
        """
        if self.fit == "none" and min(h, w) > 0:
            return h, w
        if min(h, w) < 1 or max(h, w) > MAX_ASPECT * min(h, w):
            raise DataError(
                f"an image of {w} x {h} pixels (width x height) cannot be used: neither side may "
                f"be 0 or more than {MAX_ASPECT} times the other; cut it to the part that matters"
            )
        if self.fit == "stretch":
            return self.shape
        high, wide = self.shape
        scale = self.short_side / min(h, w) if self.fit == "crop" else min(high / h, wide / w)
        new_h, new_w = math.floor(h * scale + 0.5), math.floor(w * scale + 0.5)
        return max(self.least, new_h), max(self.least, new_w)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`."""
        tuples = {key: tuple(float(v) for v in values[key]) for key in ("mean", "std")}
        return cls(**{**values, **tuples})


class PreprocessModule(nn.Module):
    """`Preprocess` in torch, for batches of images of one size.

    Shape: uint8 (N, H, W, C) -> float32 (N, C, *preprocess.shape); with fit "none" any shape.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise."""
        if images.ndim != 4 or images.shape[-1] != self.preprocess.channels:
            raise DataError(
                f"images of shape {tuple(images.shape)} given; (N, H, W, "
                f"{self.preprocess.channels}) expected: read them with `read_image(..., "
                f"channels={self.preprocess.channels})`"
            )
        return self.normalise(self.fit(images.permute(0, 3, 1, 2)))

    def fit(self, planes: Tensor) -> Tensor:
        """Resize, then crop or pad: (N, C, H, W) -> float32 (N, C, *shape), 0..255."""
        high, wide = self.preprocess.shape
        h, w = self.preprocess.resized(*planes.shape[-2:])
        planes = planes.float()
        if self.preprocess.fit == "none":
            high, wide = self.preprocess.grown(h, w)
            return F.pad(planes, (0, wide - w, 0, high - h), mode="replicate")
        if (h, w) != planes.shape[-2:]:
            planes = F.interpolate(planes, (h, w), mode="bilinear", antialias=True)
        if self.preprocess.fit == "pad":
            return F.pad(planes, (0, wide - w, 0, high - h), value=GREY)
        top, left = (h - high) // 2, (w - wide) // 2
        return planes[..., top : top + high, left : left + wide]

    def normalise(self, planes: Tensor) -> Tensor:
        """(x / 255 - mean) / std, per channel."""
        scale, shift = self.get_buffer("scale"), self.get_buffer("shift")
        return torch.addcmul(shift, planes.float(), scale)
