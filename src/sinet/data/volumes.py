"""Volumes: NIfTI files and DICOM series, with the place of their voxels in the patient.

The extra `medical` reads them: nibabel for NIfTI and its kin, MONAI with pydicom for DICOM. A
network sees a volume turned to right, anterior, superior and, if the training data had several
spacings, resampled; answers come back on the file's own grid, with its affine.
"""

from __future__ import annotations

import importlib.util
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from sinet.data.dataset import Split
from sinet.data.image import ImageError, Pixels
from sinet.data.masks import VOID
from sinet.data.patches import PatchInput
from sinet.errors import DataError, missing_extra

Array = npt.NDArray[Any]
SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
SAME_SPACING = 0.01
"""Spacings that differ by less than this share are the same."""


@dataclass(frozen=True)
class Volume:
    """Values and where they are."""

    array: Array
    """(C, X, Y, Z), as stored."""
    affine: npt.NDArray[np.float64]
    """From voxels to millimetres, 4 x 4: right, anterior, superior."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels and sides."""
        return self.array.shape

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres a voxel, by axis."""
        return spacing_of(self.affine)


def spacing_of(affine: Array) -> tuple[float, ...]:
    """Millimetres a voxel, by axis."""
    return tuple(float(v) for v in np.sqrt(np.square(affine[:3, :3]).sum(0)))


def is_volume(path: Path) -> bool:
    """Whether a path looks like a volume: a file by its suffix, or the folder of a series."""
    if path.is_dir():
        return bool(_slices(path))
    return path.name.lower().endswith(SUFFIXES)


def read_volume(source: Any) -> Volume:
    """Read a NIfTI file, the folder of a DICOM series, or take an array (X, Y, Z) or (C, X, Y, Z).

    Raises:
        ImageError: it cannot be read.
        UsageError: what reads it is not installed.
    """
    if isinstance(source, Volume):
        return source
    if isinstance(source, np.ndarray):
        if source.ndim not in (3, 4):
            raise DataError(f"an array of shape {source.shape} given; (X, Y, Z) expected")
        return Volume(source if source.ndim == 4 else source[None], np.eye(4))
    path = Path(source)
    try:
        return _series(path) if path.is_dir() else _nifti(path)
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise ImageError(str(path), str(error).split("\n")[0] or type(error).__name__) from error


def nibabel() -> Any:
    """The package; asked for when it is needed.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("nibabel") is None:
        raise missing_extra("nibabel", "medical")
    import nibabel

    return nibabel


def _opened(path: Path) -> Any:
    nib = nibabel()
    try:
        return nib.load(path)
    except nib.filebasedimages.ImageFileError as error:
        raise ValueError("no NIfTI file, or a damaged one") from error


def _nifti(path: Path) -> Volume:
    image = _opened(path)
    array = np.asarray(image.dataobj).astype(np.float32)
    if array.ndim not in (3, 4):
        raise ValueError(f"{array.ndim} axes; a volume has three, or four with channels")
    planes = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
    if not np.isfinite(planes).all():
        planes = np.nan_to_num(planes, posinf=0, neginf=0)
    return Volume(np.ascontiguousarray(planes), np.asarray(image.affine, np.float64))


def _slices(folder: Path) -> list[Path]:
    """The DICOM files of a folder: by suffix, or by the four letters that begin them."""
    found = []
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
            found.append(path)
        elif not path.suffix:
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    found.append(path)
    return found


def _series(folder: Path) -> Volume:
    if not _slices(folder):
        raise ValueError("no DICOM files in this folder")
    for package in ("monai", "pydicom"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "medical")
    with warnings.catch_warnings():  # of packages that MONAI imports if they are there
        warnings.simplefilter("ignore")
        from monai.transforms import LoadImage

        load = LoadImage(reader="PydicomReader", image_only=True, ensure_channel_first=True)
        image = load(str(folder))
    affine = np.asarray(image.affine, np.float64)
    return Volume(np.asarray(image.as_tensor(), np.float32), affine)


def write_labels(path: Path, labels: Array, affine: Array) -> Path:
    """Write a map of labels (X, Y, Z) as NIfTI, with its place in the patient."""
    from sinet.files import atomic_path

    nib = nibabel()
    small = np.uint8 if labels.size == 0 or int(labels.max()) < 256 else np.int16
    image = nib.Nifti1Image(labels.astype(small), affine)
    with atomic_path(path) as temporary:
        whole = temporary.with_name(temporary.name + ".nii.gz")
        nib.save(image, whole)
        whole.replace(temporary)
    return path


def turned(volume: Volume) -> Volume:
    """The volume with its axes towards right, anterior, superior."""
    orient = nibabel().orientations
    axes = orient.io_orientation(volume.affine)
    array = np.moveaxis(orient.apply_orientation(np.moveaxis(volume.array, 0, -1), axes), -1, 0)
    affine = volume.affine @ orient.inv_ornt_aff(axes, volume.shape[1:])
    return Volume(np.ascontiguousarray(array), affine)


def turned_back(array: Array, affine: Array) -> Array:
    """What was made of a turned volume, (C, ...), in the order of the affine's own axes."""
    orient = nibabel().orientations
    axes = orient.io_orientation(affine)
    own = orient.axcodes2ornt("RAS")
    back = orient.ornt_transform(own, axes)
    return np.moveaxis(orient.apply_orientation(np.moveaxis(array, 0, -1), back), -1, 0)


def resampled(array: Array, sides: Sequence[int], labels: bool = False) -> Array:
    """(C, X, Y, Z) on another grid of the same extent: linear, or nearest for labels."""
    if tuple(array.shape[1:]) == tuple(sides):
        return array
    values = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None]
    if labels:
        return F.interpolate(values, tuple(sides), mode="nearest-exact")[0].numpy()
    return F.interpolate(values, tuple(sides), mode="trilinear")[0].numpy()


class VolumeInput(PatchInput):
    """Volumes: turned, resampled and normalised outside of the file, then cut into patches."""

    needs = "nibabel"
    sample, samples = "scan.nii.gz", "scans/*.nii.gz"

    def read(self, source: Any) -> Volume:
        """A volume as it is stored."""
        volume = read_volume(source)
        if volume.shape[0] != self.preprocess.channels:
            raise DataError(
                f"a volume of {volume.shape[0]} channels given; this model takes "
                f"{self.preprocess.channels}: choose them with nibabel or take another model"
            )
        return volume

    def checked(self, samples: Any) -> list[Volume]:
        """Volumes, or an array (N, C, X, Y, Z)."""
        return [self.read(np.asarray(s) if not isinstance(s, Volume) else s) for s in samples]

    def sides(self, volume: Volume) -> tuple[int, ...]:
        """Sides of a turned volume once it is resampled; its own where spacings are one."""
        own, wanted = volume.shape[1:], self.preprocess.spacing
        if not wanted:
            return own
        ratios = np.array(volume.spacing) / np.array(wanted)
        if (np.abs(ratios - 1) < SAME_SPACING).all():
            return own
        return tuple(max(1, round(n * r)) for n, r in zip(own, ratios, strict=True))

    def ready(self, sample: Volume) -> Array:
        """What windows slide over, float32 (C, X, Y, Z)."""
        right = turned(sample)
        return self.preprocess.normalised(resampled(right.array, self.sides(right)))

    def own_grid(self, logits: Array, volume: Volume) -> Array:
        """Logits (classes, X, Y, Z) of the ready volume, on the grid of the volume itself."""
        there = resampled(logits, turned(volume).shape[1:])
        return turned_back(there, volume.affine)

    def picture(self, sample: Any) -> Pixels:
        """Three planes through the middle, of the first channel."""
        return planes_of(sample.array[0])

    def inside(self, folder: Path) -> list[Path]:
        """The folder itself if it is a series, else the volumes and series in it."""
        if is_volume(folder):
            return [folder]
        return sorted(p for p in folder.rglob("*") if is_volume(p))

    @property
    def prepared(self) -> str:
        """What `run.py` does before it asks the file."""
        p = self.preprocess
        clip = f", clipped to {p.low:g} .. {p.high:g}" if p.low is not None else ""
        grid = f", resampled to {p.spacing} mm" if p.spacing else ""
        norm = (
            f"mean {p.mean}, standard deviation {p.std}"
            if p.mean
            else "every volume normalised by the mean and deviation of what is not zero in it"
        )
        return (
            f"Axes turned to right, anterior, superior{grid}{clip}; {norm}. Windows of the patch's "
            f"size slide over the volume with an overlap of {p.overlap:g}; their logits are "
            "averaged with a Gaussian's weights, and the largest is the class."
        )


def planes_of(array: Array, labels: bool = False) -> Pixels:
    """Three planes through the middle of (X, Y, Z), side by side: grey (H, W, 1), labels (H, W)."""
    x, y, z = (side // 2 for side in array.shape)
    cuts = [np.rot90(part) for part in (array[:, :, z], array[:, y], array[x])]
    high = max(len(cut) for cut in cuts)
    fill = VOID if labels else float(array.min()) if array.size else 0
    rims = [((high - len(cut), 0), (0, 0)) for cut in cuts]
    both = [np.pad(c, rim, constant_values=fill) for c, rim in zip(cuts, rims, strict=True)]
    flat = np.concatenate(both, 1)
    if labels:
        return flat
    low, high_value = np.percentile(array, [0.5, 99.5]) if array.size else (0, 1)
    scaled = (flat - low) / max(float(high_value - low), 1e-6)
    grey: Pixels = (scaled.clip(0, 1) * 255).astype(np.uint8)
    return grey[..., None]


@dataclass(frozen=True)
class LabelMap:
    """The labels of one volume; read when they are needed."""

    name: str
    source: Path = field(repr=False)
    values: tuple[int, ...] = field(repr=False)
    """The value of each class, in the order of the classes."""

    def read(self) -> npt.NDArray[np.uint8]:
        """Class indices, uint8 (X, Y, Z); `VOID` for values that are no class.

        Raises:
            ImageError: it cannot be read.
        """
        array = read_volume(self.source).array[0].round().astype(np.int64)
        found = np.full(array.shape, VOID, np.uint8)
        for index, value in enumerate(self.values):
            found[array == value] = index
        return found


@dataclass(eq=False)
class VolumeSplit(Split):
    """Volumes with `LabelMap` targets; `image` gives a picture of one."""

    def image(self, i: int, channels: int | None = None, at_least: int | None = None) -> Pixels:
        """Three planes through the middle."""
        picture = planes_of(read_volume(self._path(i)).array[0])
        return np.repeat(picture, 3, 2) if channels == 3 else picture

    def check(self, i: int) -> str | None:
        """Why the volume's header cannot be read, or None."""
        path = self._path(i)
        try:
            if not path.is_dir():
                _ = _opened(path).shape
        except (OSError, ValueError) as error:
            return str(error).split("\n")[0]
        return None

    def content(self, i: int) -> bytes:
        """The file, or the slices of the series."""
        path = self._path(i)
        parts = _slices(path) if path.is_dir() else [path]
        return b"".join(part.read_bytes() for part in parts)

    def form(self, i: int) -> str:
        """The type of the voxels."""
        path = self._path(i)
        return "DICOM" if path.is_dir() else str(_opened(path).get_data_dtype())

    def found_channels(self) -> int:
        """Channels of the first volume."""
        return shape_of(self._path(0))[0][0]

    def _path(self, i: int) -> Path:
        item = self.items[i]
        assert isinstance(item, Path)
        return item


def shape_of(path: Path) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Shape (C, X, Y, Z) and affine, from the header alone where there is one.

    Raises:
        ImageError: it cannot be read.
    """
    if path.is_dir():
        volume = read_volume(path)
        return volume.shape, volume.affine
    try:
        image = _opened(path)
    except (OSError, ValueError) as error:
        raise ImageError(str(path), str(error)) from error
    sides = tuple(int(n) for n in image.shape)
    channels = sides[3] if len(sides) == 4 else 1
    return (channels, *sides[:3]), np.asarray(image.affine, np.float64)
