"""Hyperspectral scenes: `.mat`, `.npy` and ENVI files, and which of their pixels have a label.

One scene is often all there is: its labelled pixels are divided, so that the splits of a data set
hold the same scene with other pixels void.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.dataset import Split
from sinet.data.image import ImageError, Pixels
from sinet.data.masks import VOID, draw_mask
from sinet.data.patches import PatchInput
from sinet.errors import DataError, UsageError

Array = npt.NDArray[Any]
SUFFIXES = (".mat", ".npy", ".hdr")
_ENVI_TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
# NumPy parses a header as Python; CPython 3.11 counts that parser's depth once for all threads and
# fails now and then where two meet (python/cpython#106905), and scenes are checked in threads.
_PARSING = threading.Lock()
_ENVI_ORDER = {"bsq": "bhw", "bil": "hbw", "bip": "hwb"}


def is_cube(path: Path) -> bool:
    """Whether a path looks like a scene: by its suffix; of headers, only ENVI's."""
    if path.suffix.lower() != ".hdr":
        return path.suffix.lower() in SUFFIXES
    with path.open("rb") as file:
        return file.read(4) == b"ENVI"


def read_cube(source: Any, axes: int = 3) -> Array:
    """Read a scene (H, W, bands), or with `axes=2` a map of labels (H, W).

    Raises:
        ImageError: it cannot be read, or holds nothing of that kind.
        UsageError: what reads it is not installed.
    """
    if isinstance(source, np.ndarray):
        return source
    path = Path(source)
    kinds = {".mat": _mat, ".npy": _npy, ".hdr": _envi}
    try:
        if path.suffix.lower() not in kinds:
            raise ValueError(f"no scene: {', '.join(SUFFIXES)} are read")
        array = kinds[path.suffix.lower()](path, axes)
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError) as error:
        raise ImageError(str(path), str(error).split("\n")[0] or type(error).__name__) from error
    if axes == 2 and array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != axes or not array.size:
        raise ImageError(str(path), f"an array of shape {array.shape}; {axes} axes expected")
    return array


def _npy(path: Path, axes: int) -> Array:
    with _PARSING:
        array: Array = np.load(path, allow_pickle=False)
    return array


def _mat(path: Path, axes: int) -> Array:
    if importlib.util.find_spec("scipy") is None:
        raise UsageError("scipy is not installed, which reads .mat files; run: pip install scipy")
    from scipy.io import loadmat

    try:
        held = loadmat(path)
    except NotImplementedError as error:
        message = "MATLAB 7.3 wrote it, which is HDF5; save it with `-v7` or as .npy"
        raise ValueError(message) from error
    arrays = [v for k, v in held.items() if not k.startswith("__") and isinstance(v, np.ndarray)]
    fitting = [v for v in arrays if v.ndim == axes and min(v.shape) > 1]
    if not fitting:
        raise ValueError(f"it holds no array with {axes} axes")
    return max(fitting, key=lambda v: v.size)


def _envi(path: Path, axes: int) -> Array:
    facts = _envi_header(path.read_text(encoding="latin-1"))
    try:
        sides = {"h": int(facts["lines"]), "w": int(facts["samples"]), "b": int(facts["bands"])}
        kind = np.dtype(_ENVI_TYPES[int(facts["data type"])])
        order = _ENVI_ORDER[facts.get("interleave", "bsq").lower()]
    except KeyError as error:
        raise ValueError(f"the header lacks {error}, or it is of an unknown kind") from error
    kind = kind.newbyteorder(">" if facts.get("byte order", "0").strip() == "1" else "<")
    stem = path.with_suffix("")
    places = [
        stem,
        *(stem.with_suffix(s) for s in (".dat", ".img", ".raw", ".bsq", ".bil", ".bip")),
    ]
    binary = next((place for place in places if place.is_file()), None)
    if binary is None:
        raise ValueError(f"the data of the header are missing: {stem.name}.dat or {stem.name}.img")
    values = np.fromfile(binary, kind, offset=int(facts.get("header offset", "0")))
    shape = tuple(sides[axis] for axis in order)
    if values.size < np.prod(shape):
        raise ValueError(f"{binary.name} is cut short: {values.size} of {np.prod(shape)} values")
    cube = values[: int(np.prod(shape))].reshape(shape)
    return cube.transpose([order.index(axis) for axis in "hwb"])


def _envi_header(text: str) -> Mapping[str, str]:
    """`key = value` lines; values in braces, which may go over lines, are of no interest."""
    if not text.startswith("ENVI"):
        raise ValueError("no ENVI header")
    lines = [line.partition("=") for line in text.splitlines()]
    return {key.strip().lower(): value.strip() for key, equals, value in lines if equals}


class CubeInput(PatchInput):
    """Scenes (H, W, bands): normalised band by band outside of the file, then cut."""

    needs = "pillow"
    sample, samples = "scene.npy", "scenes/*.npy"

    def read(self, source: Any) -> Array:
        """A scene as it is stored."""
        cube = read_cube(source)
        bands = self.preprocess.channels
        if cube.ndim != 3 or cube.shape[2] != bands:
            raise DataError(
                f"a scene of shape {cube.shape} given; this model takes (height, width, {bands}): "
                "the bands that it was trained with"
            )
        return cube

    def checked(self, samples: Any) -> list[Array]:
        """Scenes (H, W, bands)."""
        return [self.read(np.asarray(sample)) for sample in samples]

    def ready(self, sample: Array) -> Array:
        """What windows slide over, float32 (bands, H, W)."""
        return self.preprocess.normalised(np.moveaxis(sample, -1, 0))

    def picture(self, sample: Any) -> Pixels:
        """Three bands as red, green and blue."""
        return false_colours(sample)

    def inside(self, folder: Path) -> list[Path]:
        """The scenes in a folder; maps of labels are none."""
        found = sorted(p for p in folder.rglob("*") if p.is_file() and is_cube(p))
        return [path for path in found if "_gt" not in path.stem]

    @property
    def prepared(self) -> str:
        """What `run.py` does before it asks the file."""
        p = self.preprocess
        if p.centre:
            return (
                "Every band minus `mean`, divided by `std` (in the file's metadata); the patch "
                "around each pixel, zeros outside of the scene, gives the class of that pixel."
            )
        return (
            "Every band minus `mean`, divided by `std` (in the file's metadata); smaller scenes "
            f"are padded with zeros, over larger ones windows slide with an overlap of "
            f"{p.overlap:g}, their logits averaged with a Gaussian's weights."
        )


def false_colours(cube: Array) -> Pixels:
    """Bands at 5/8, 3/8 and 1/8 of the spectrum, each stretched between percentiles."""
    bands = cube.shape[2]
    chosen = cube[..., [bands * 5 // 8, bands * 3 // 8, bands // 8]].astype(np.float32)
    low, high = np.percentile(chosen, [1, 99], axis=(0, 1))
    scaled = (chosen - low) / np.maximum(high - low, 1e-6)
    colours: Pixels = (scaled.clip(0, 1) * 255).astype(np.uint8)
    return colours


def seen(path: Path) -> Pixels:
    """A scene's file in false colours, uint8 (H, W, 3).

    Raises:
        ImageError: it cannot be read.
    """
    return false_colours(read_cube(path))


@dataclass(frozen=True)
class PixelLabels:
    """The labelled pixels of one scene that belong to one split."""

    name: str
    source: Path = field(repr=False)
    values: tuple[int, ...]
    """The number of each class, in the order of the classes."""
    pixels: Array | None = field(default=None, repr=False, compare=False)
    """Flat indices, row by row; None = all that are labelled."""
    digest: str = ""
    """Of `pixels`, so that another choice is another data set."""

    @classmethod
    def of(
        cls, name: str, source: Path, values: tuple[int, ...], pixels: Array | None
    ) -> PixelLabels:
        """With the digest of the pixels."""
        known = b"" if pixels is None else np.ascontiguousarray(pixels, np.int64).tobytes()
        digest = hashlib.blake2b(known, digest_size=8).hexdigest()
        return cls(name, source, values, pixels, digest)

    def read(self) -> npt.NDArray[np.uint8]:
        """Class indices, uint8 (H, W); `VOID` where the split has no label.

        Raises:
            ImageError: it cannot be read.
        """
        given = read_cube(self.source, axes=2).astype(np.int64)
        found = np.full(given.shape, VOID, np.uint8)
        for index, value in enumerate(self.values):
            found[given == value] = index
        if self.pixels is not None:
            others = np.ones(found.size, bool)
            others[self.pixels] = False
            found[others.reshape(found.shape)] = VOID
        return found


@dataclass(eq=False)
class CubeSplit(Split):
    """Scenes with `PixelLabels` targets; `image` gives a picture of scene and labels."""

    def image(self, i: int, channels: int | None = None, at_least: int | None = None) -> Pixels:
        """False colours, the labelled pixels of this split painted over."""
        label = self.targets[i].read()
        names = [""] * len(self.targets[i].values)
        picture = draw_mask(seen(self._path(i)), label, names, 1.0)
        return np.asarray(picture)

    def check(self, i: int) -> str | None:
        """Why the scene cannot be read, or None."""
        try:
            read_cube(self._path(i))
        except ImageError as error:
            return error.reason
        return None

    def content(self, i: int) -> bytes:
        """The file, and which of its pixels belong here."""
        return self._path(i).read_bytes() + repr(self.targets[i]).encode()

    def form(self, i: int) -> str:
        """The type of the values."""
        return str(read_cube(self._path(i)).dtype)

    def found_channels(self) -> int:
        """Bands of the first scene."""
        return int(read_cube(self._path(0)).shape[2])

    def _path(self, i: int) -> Path:
        item = self.items[i]
        assert isinstance(item, Path)
        return item
