"""Files of volumes: NIfTI and its kin, and DICOM series, with the place of their voxels.

The extra `medical` reads them: nibabel for NIfTI, MONAI with pydicom for DICOM.
"""

from __future__ import annotations

import importlib.util
import threading
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.image import ImageError
from sinet.errors import DataError, missing_extra

Array = npt.NDArray[Any]
SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
UNEVEN = 0.5
"""Steps between slices may differ by this share; more, and one is missing or there twice."""
# MONAI warns of packages that it imports if they are there; what silences warnings is one for all
# threads, and series are read in several.
_IMPORTING = threading.Lock()
_TAGS = ("ImagePositionPatient", "InstanceNumber", "SeriesInstanceUID")


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
        return bool(slices_of(path))
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


def slices_of(folder: Path) -> list[Path]:
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
    paths = slices_of(folder)
    if not paths:
        raise ValueError("no DICOM files in this folder")
    for package in ("monai", "pydicom"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "medical")
    if len(paths) < 2:
        raise ValueError(f"{paths[0].name} alone is no series of slices; convert it to NIfTI")
    _check_series(paths)
    reader = _series_reader()
    try:
        array, facts = reader.get_data(reader.read(str(folder)))
    except (AttributeError, RuntimeError) as error:  # pixels that nothing here decompresses
        raise ValueError(f"its slices cannot be decoded: {error}") from error
    if array.ndim != 3:
        raise ValueError(f"{array.ndim} axes; slices of grey pixels expected")
    return Volume(np.asarray(array, np.float32)[None], np.asarray(facts["affine"], np.float64))


def _series_reader() -> Any:
    """MONAI's; not its `LoadImage`, which asks for every other reader and warns of absent ones."""
    with _IMPORTING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.data.image_reader import PydicomReader

        return PydicomReader()


def _check_series(paths: Sequence[Path]) -> None:
    """Refuse slices that are not one whole series, naming them.

    MONAI stacks all that a folder holds by the slices' numbers, passes over what has none, and
    spreads the slices evenly between the first and the last.

    Raises:
        ValueError: a damaged slice, slices of several series, or uneven steps between them.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    found: list[tuple[int, Path, Array]] = []
    series: dict[str, str] = {}
    for path in paths:
        try:
            head = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        except InvalidDicomError as error:
            raise ValueError(f"{path.name} is no DICOM file, or a damaged one") from error
        place, number = head.get("ImagePositionPatient"), head.get("InstanceNumber")
        if not place:  # a DICOMDIR, or one file with many frames
            continue
        if number is None:
            raise ValueError(
                f"{path.name} has no instance number, by which slices are put in order"
            )
        series.setdefault(str(head.get("SeriesInstanceUID")), path.name)
        found.append((int(number), path, np.array(place, float)))
    if len(series) > 1:
        some = " and ".join(list(series.values())[:2])
        raise ValueError(f"slices of {len(series)} series, such as {some}; a folder for each")
    found.sort(key=lambda row: row[0])
    _check_steps([path.name for _, path, _ in found], np.array([place for *_, place in found]))


def _check_steps(names: Sequence[str], places: Array) -> None:
    """Refuse slices, in their order, with places (N, 3) in mm that do not follow one another."""
    if len(places) < 3:
        return
    steps = np.diff(places, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    usual = int(np.argsort(lengths, kind="stable")[(len(lengths) - 1) // 2])
    mm, off = float(lengths[usual]), np.linalg.norm(steps - steps[usual], axis=1)
    worst = int(off.argmax())
    if mm > 0 and off[worst] <= UNEVEN * mm:
        return
    gap = float(lengths[worst])
    between = f"{names[worst]} and {names[worst + 1]}"
    times = round(gap / mm) if mm > 0 else 0
    if times > 1 and np.linalg.norm(steps[worst] - times * steps[usual]) <= UNEVEN * mm:
        what = "a slice is" if times == 2 else f"{times - 1} slices are"
        raise ValueError(
            f"{what} missing between {between}, which lie {gap:g} mm apart, others {mm:g} mm"
        )
    raise ValueError(
        f"{between} follow each other but lie {gap:g} mm apart, others {mm:g} mm: "
        "slices are there twice, or numbered in another order than they lie"
    )


def shape_of(path: Path) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Shape (C, X, Y, Z) and affine, from the header alone where there is one.

    Raises:
        ImageError: it cannot be read.
    """
    if path.is_dir():
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
