"""Super-resolution: a picture -> the same picture, several times larger.

Quality is counted as in the literature: on the luma of BT.601 (16..235), `scale` pixels cut off at
every border, PSNR in dB and SSIM, the mean over the pictures; and against bicubic interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.bicubic import enlarge
from sinet.data.dataset import Split
from sinet.data.image import Pixels
from sinet.files import atomic_path
from sinet.tasks.signatures._tiles import tiled
from sinet.tasks.signatures.base import Array, Result, Run, Scorer, Signature, bootstrap

BEST_PSNR = 100.0
"""What equal pictures get instead of infinity, dB."""
TILE, OVERLAP = 256, 32
"""Sides of the pieces of a large picture, and what they share with their neighbours, pixels."""
_SIDES = {"image": (2, 3), "pixels": (1, 2)}
"""The axes of each output that are height and width."""


@dataclass(frozen=True)
class Enlarged(Result):
    """A picture, larger."""

    source: str
    """Path of the file, or its place in the input such as `#3`."""
    pixels: Pixels
    """uint8 (H, W, C); empty where the picture could not be read."""
    error: str | None = None
    """Why the picture could not be read."""

    def rows(self, top: int = 1) -> list[dict[str, Any]]:
        """One row: width and height."""
        failed = self.error is not None
        height, width = self.pixels.shape[:2]
        return [{"width": "" if failed else width, "height": "" if failed else height}]

    def to_json(self) -> dict[str, Any]:
        """Height and width."""
        return {
            "source": self.source,
            "size": list(self.pixels.shape[:2]),
            "error": self.error,
        }

    def draw(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        """The larger picture; what is given does not matter."""
        grey = self.pixels.shape[-1] == 1
        return Image.fromarray(self.pixels[..., 0] if grey else self.pixels)

    def save(self, folder: Path) -> Path:
        """`NAME.png`, the larger picture."""
        file = folder / f"{Path(self.source).stem.strip('#') or 'picture'}.png"
        with atomic_path(file) as temporary:
            self.draw(self.pixels).save(temporary, format="PNG")
        return file


class Pair:
    """What an answer is held against: the large picture, and the small one that was enlarged."""

    def __init__(self, small: Pixels, large: Pixels) -> None:
        self.small, self.large = small, large
        self.scale = large.shape[0] // small.shape[0]

    def quality(self, pixels: Pixels) -> tuple[float, float]:
        """PSNR and SSIM of an answer."""
        found, truth = luma(pixels), luma(self.large)
        return psnr(found, truth, self.scale), ssim(found, truth, self.scale)

    @cached_property
    def bicubic(self) -> tuple[float, float]:
        """PSNR and SSIM of bicubic interpolation."""
        return self.quality(enlarge(self.small, self.scale))


class SuperRes(Signature):
    """`image` float (N, C, s H, s W), 0..1 -> `pixels` uint8 (N, s H, s W, C)."""

    raw = ("image",)
    names = ("pixels",)
    metric = "val/psnr"
    metric_name = "PSNR (luma)"
    scale = 1.0
    unit = "dB"
    hub_tag = "image-to-image"
    batched = False  # several whole photographs at once would only take memory
    maps = True

    @property
    def described(self) -> str:
        """The larger picture."""
        times, channels = self.facts.classes[0], self.facts.preprocess.channels
        return f"`pixels`, uint8 (N, larger height, larger width, {channels}), {times}; and `image`"

    def tail(self) -> nn.Module:
        """Rounded to whole numbers, channels last, without what was padded."""
        return _Rounded(self.facts.preprocess.multiple)

    def scorer(self) -> Scorer:
        """Mean PSNR, with SSIM and what bicubic interpolation reaches."""
        return QualityScorer()

    def result(self, source: str, outputs: Mapping[str, Array]) -> Enlarged:
        """The picture as it is."""
        return Enlarged(source, outputs["pixels"])

    def failed(self, source: str, reason: str) -> Enlarged:
        """A picture without pixels."""
        return Enlarged(source, np.zeros((0, 0, 3), np.uint8), reason)

    def truth(self, split: Split, i: int, order: Array | None = None) -> Pair:
        """The large picture and the small one."""
        channels = self.facts.preprocess.channels
        return Pair(split.image(i, channels), split.targets[i].read(channels))

    def truth_result(self, source: str, truth: Pair) -> Enlarged:
        """The large picture as an answer."""
        return Enlarged(source, truth.large)

    def through(self, run: Run, samples: Any, names: Sequence[str]) -> dict[str, Array]:
        """Large pictures go through the file in pieces."""
        return tiled(run, samples, names, _SIDES, (TILE, TILE), OVERLAP)


class _Rounded(nn.Module):
    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, images: Tensor, image: Tensor) -> tuple[Tensor]:
        if self.multiple > 1:
            height, width = images.shape[1], images.shape[2]
            grown = (width + self.multiple - 1) // self.multiple * self.multiple
            scale = image.shape[3] // grown
            image = image[:, :, : scale * height, : scale * width]
        return ((image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1),)


def luma(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(H, W, 1 or 3), 0..255 -> Y of BT.601 as MATLAB's `rgb2ycbcr` has it, unrounded (H, W).

    Grey pictures are their own luma.
    """
    values = np.asarray(pixels, dtype=np.float64)
    if values.shape[-1] == 1:
        return np.asarray(values[..., 0])
    return np.asarray(16 + values @ np.array([65.481, 128.553, 24.966]) / 255)


def psnr(found: Array, truth: Array, border: int = 0) -> float:
    """10 log10(255^2 / mean squared difference), dB; both (H, W), 0..255."""
    squares = np.square(_inside(found, border) - _inside(truth, border))
    error = max(float(squares.mean()), 255.0**2 * 10 ** (-BEST_PSNR / 10))
    return 10 * math.log10(255.0**2 / error)


def ssim(found: Array, truth: Array, border: int = 0) -> float:
    """Structural similarity (Wang 2004) of two planes (H, W), 0..255, averaged over all windows.

    Windows of 11 x 11 pixels weighted by a Gaussian of deviation 1.5, inside the picture only.
    """
    x, y = (torch.from_numpy(_inside(plane, border)) for plane in (found, truth))
    side = min(11, *x.shape)
    places = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    window = torch.exp(-(places**2) / (2 * 1.5**2))
    window = window / window.sum()
    stack = torch.stack([x, y, x * x, y * y, x * y])[:, None]
    rows = F.conv2d(stack, window.view(1, 1, -1, 1))
    mx, my, xx, yy, xy = F.conv2d(rows, window.view(1, 1, 1, -1))[:, 0]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    same = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    both = (mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2)
    return float((same / both).mean())


def _inside(plane: Array, border: int) -> npt.NDArray[np.float64]:
    """Without the border, of which a tiny picture loses less."""
    cut = min(border, (min(plane.shape) - 1) // 2)
    height, width = plane.shape
    return np.ascontiguousarray(plane[cut : height - cut, cut : width - cut], dtype=np.float64)


class QualityScorer(Scorer):
    """Collects PSNR and SSIM of pictures, and those of bicubic interpolation."""

    name = "val/psnr"

    def __init__(self) -> None:
        self._ours: list[tuple[float, float]] = []
        self._bicubic: list[tuple[float, float]] = []

    def update(self, outputs: Mapping[str, Array], truths: Sequence[Pair]) -> None:
        """Take in pictures (N, H, W, C) and what they should have been."""
        for pixels, truth in zip(outputs["pixels"], truths, strict=True):
            self._ours.append(truth.quality(pixels))
            self._bicubic.append(truth.bicubic)

    def value(self) -> float:
        """Mean PSNR, dB."""
        return float(self.per_input().mean())

    def gains(self) -> Array:
        """PSNR of each picture more than bicubic interpolation's, dB."""
        return np.asarray((np.array(self._ours) - np.array(self._bicubic))[:, 0])

    def interval(self) -> tuple[float, float]:
        """A bootstrap over pictures."""
        each = self.per_input()
        return bootstrap(lambda drawn: float(each[drawn].mean()), len(each))

    def per_class(self) -> list[dict[str, Any]]:
        """The model, bicubic interpolation, and the difference: PSNR in dB and SSIM, as text."""
        ours, bicubic = np.mean(self._ours, 0), np.mean(self._bicubic, 0)
        rows = [("this model", ours, ""), ("bicubic", bicubic, ""), ("gain", ours - bicubic, "+")]
        return [
            {"name": name, "PSNR": f"{db:{sign}.2f} dB", "SSIM": f"{alike:{sign}.4f}"}
            for name, (db, alike), sign in rows
        ]

    def per_input(self) -> Array:
        """PSNR of each picture."""
        return np.array(self._ours)[:, 0]


SIGNATURE = SuperRes
