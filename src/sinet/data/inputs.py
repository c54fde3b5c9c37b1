"""The input side of a task: what a sample is, how it is read, and how it enters a file.

Pictures are what most tasks look at, so their input is here; what is cut into patches (volumes,
hyperspectral scenes) is in `sinet.data.patches`, clips are in `sinet.data.clips`, rows of tables in
`sinet.data.rows`. Whatever it holds, the tensor that a file takes is called `images`: engines,
timing and users ask for one name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from sinet.data.dataset import Split
from sinet.data.image import SUFFIXES, Pixels, read_image
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.errors import DataError

Array = npt.NDArray[Any]


class Input(ABC):
    """From a source to what a file takes.

    A sample is whatever `read` gives; it has a `shape`, and samples of one shape can be stacked.
    """

    in_graph: bool
    """Whether the way from the file's input to the network's is nodes of the file."""
    free: Mapping[int, str] = {}
    """Axes of the file's input, besides the batch, that may have any length."""
    needs = "pillow"
    """What `run.py` of a ship folder needs besides onnxruntime and numpy."""
    sample, samples = "photo.jpg", "photos/*.jpg"
    """For examples: one source, and several."""

    @abstractmethod
    def read(self, source: Any) -> Any:
        """A sample from a file, the bytes of one, or an array.

        Raises:
            DataError: it cannot be read, or cannot be used.
        """

    def load(self, split: Split, i: int) -> Any:
        """Sample `i` of a split.

        Raises:
            DataError: it cannot be read.
        """
        return self.read(split.source(i))

    @abstractmethod
    def stack(self, samples: Sequence[Any]) -> Any:
        """Samples of one shape as `Signature.through` takes them."""

    @abstractmethod
    def checked(self, samples: Any) -> Any:
        """What `stack` gives, or what a user made in its place.

        Raises:
            DataError: this model takes something else.
        """

    @abstractmethod
    def feed(self, sample: Any) -> Array:
        """What one call of the file takes of a sample, with the batch axis."""

    @abstractmethod
    def example(self, sides: Sequence[int]) -> Array:
        """The same, made up, for a sample of these sides."""

    @abstractmethod
    def blank(self, count: int) -> Tensor:
        """Some input of the file, empty; for the export of what stands behind the network."""

    @abstractmethod
    def front(self) -> nn.Module:
        """From the file's input to the network's, in torch."""

    @abstractmethod
    def picture(self, sample: Any) -> Pixels:
        """A sample to be looked at, uint8 (H, W, 1 or 3)."""

    @abstractmethod
    def inside(self, folder: Path) -> list[Path]:
        """The sources in a folder, in order."""

    @abstractmethod
    def conditions(self) -> dict[str, Any]:
        """What decides, besides the network, how long a file takes."""

    @property
    @abstractmethod
    def described(self) -> str:
        """The file's input in words, for the model card."""

    @property
    def prepared(self) -> str:
        """What happens before the file, in words; pictures need nothing."""
        return ""


class ImageInput(Input):
    """Pictures: uint8 (N, H, W, C) of any height and width; the file fits and normalises them.

    Args:
        preprocess: how an image becomes the network's input.
    """

    in_graph = True
    free: Mapping[int, str] = {1: "height", 2: "width"}

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def read(self, source: Any) -> Pixels:
        """Pixels uint8 (H, W, C) of a path, bytes, an array or an open picture."""
        if isinstance(source, Image.Image):
            source = _pixels(source)
        image = read_image(source, self.preprocess.channels)
        self.preprocess.resized(*image.shape[:2])  # refuses strips
        return image

    def load(self, split: Split, i: int) -> Pixels:
        """The image as the split decodes it."""
        return split.image(i, self.preprocess.channels)

    def stack(self, samples: Sequence[Any]) -> Array:
        """(N, H, W, C)."""
        return np.stack(samples)

    def checked(self, samples: Any) -> Array:
        """Pixels uint8 (N, H, W, C), contiguous."""
        images, channels = np.asarray(samples), self.preprocess.channels
        if images.ndim != 4 or images.shape[3] != channels or images.dtype != np.uint8:
            raise DataError(
                f"images of shape {images.shape} and type {images.dtype} given; this model takes "
                f"uint8 of shape (N, H, W, {channels}); `predict` reads files into that"
            )
        self.preprocess.resized(*images.shape[1:3])  # refuses strips
        return np.ascontiguousarray(images)

    def feed(self, sample: Any) -> Array:
        """The image itself."""
        image: Array = sample[None]
        return image

    def example(self, sides: Sequence[int]) -> Array:
        """Noise; a piece of a large image where those are looked at in pieces."""
        sides = self.preprocess.shape if self.preprocess.window else sides
        shape = (1, *sides, self.preprocess.channels)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def blank(self, count: int) -> Tensor:
        """Black images of some size; of the typical one where the network takes any."""
        sides = self.preprocess.shape if self.preprocess.fit == "none" else (48, 64)
        return torch.zeros(count, *sides, self.preprocess.channels, dtype=torch.uint8)

    def front(self) -> nn.Module:
        """`PreprocessModule`."""
        return PreprocessModule(self.preprocess).eval()

    def picture(self, sample: Any) -> Pixels:
        """It is one."""
        pixels: Pixels = sample
        return pixels

    def inside(self, folder: Path) -> list[Path]:
        """Files that end as pictures do, at any depth."""
        return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)

    def conditions(self) -> dict[str, Any]:
        """Nothing where the centre square is cut, since its size is the network's."""
        fitted = self.preprocess
        return {"shape": fitted.shape, "fit": fitted.fit} if fitted.fit != "crop" else {}

    @property
    def described(self) -> str:
        """Pixels of any height and width."""
        return f"uint8 (N, height, width, {self.preprocess.channels}), any height and width"


def _pixels(image: Image.Image) -> Array:
    """An open picture as the array that `read_image` understands."""
    upright = ImageOps.exif_transpose(image)
    return np.asarray(upright if upright.mode.startswith("I") else upright.convert("RGBA"))


def preprocess_from(values: Mapping[str, Any]) -> Preprocess:
    """The inverse of `Preprocess.to_dict`, whatever kind it was."""
    if "sides" in values:
        from sinet.data.patches import Patches  # which imports this module

        return Patches.from_dict(values)
    if "columns" in values:
        from sinet.data.columns import Columns  # likewise

        return Columns.from_dict(values)
    if "frames" in values:
        from sinet.data.clips import Clips  # likewise

        return Clips.from_dict(values)
    return Preprocess.from_dict(values)
