"""Files of volumes: NIfTI and its kin, and DICOM, with the place of their voxels.

The extra `medical` reads them: nibabel for NIfTI, MONAI with pydicom for DICOM.
"""

from __future__ import annotations

import importlib.util
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.dicom import is_dicom, read_dicom, slices_of
from sinet.data.dicom_frames import has_frames
from sinet.data.image import ImageError
from sinet.errors import DataError, missing_extra

Array = npt.NDArray[Any]
SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")


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
    """Whether a path looks like a volume: a file by its suffix, or the folder of a series.

    A DICOM file is one if it holds many frames; a folder of several such files is none.
    """
    if path.is_dir():
        inside = slices_of(path)
        return len(inside) == 1 or (bool(inside) and not has_frames(inside[0]))
    return path.name.lower().endswith(SUFFIXES) or (is_dicom(path) and has_frames(path))


def read_volume(source: Any) -> Volume:
    """Read a NIfTI file, a DICOM series, or take an array (X, Y, Z) or (C, X, Y, Z).

    A series is a folder of slices, or one file of many frames.

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
        return Volume(*read_dicom(path)) if is_dicom(path) else _nifti(path)
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


def opened(path: Path) -> Any:
    """The image as nibabel sees it; its voxels are not read yet.

    Raises:
        ValueError: a damaged file, or one of another kind.
    """
    nib = nibabel()
    try:
        return nib.load(path)
    except nib.filebasedimages.ImageFileError as error:
        raise ValueError("no NIfTI file, or a damaged one") from error


def _nifti(path: Path) -> Volume:
    image = opened(path)
    array = np.asarray(image.dataobj).astype(np.float32)
    if array.ndim not in (3, 4):
        raise ValueError(f"{array.ndim} axes; a volume has three, or four with channels")
    planes = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
    if not np.isfinite(planes).all():
        planes = np.nan_to_num(planes, posinf=0, neginf=0)
    return Volume(np.ascontiguousarray(planes), np.asarray(image.affine, np.float64))


def shape_of(path: Path) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Shape (C, X, Y, Z) and affine, from the header alone where there is one.

    Raises:
        ImageError: it cannot be read.
    """
    if is_dicom(path):
        volume = read_volume(path)
        return volume.shape, volume.affine
    try:
        image = opened(path)
    except (OSError, ValueError) as error:
        raise ImageError(str(path), str(error)) from error
    sides = tuple(int(n) for n in image.shape)
    channels = sides[3] if len(sides) == 4 else 1
    return (channels, *sides[:3]), np.asarray(image.affine, np.float64)


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
