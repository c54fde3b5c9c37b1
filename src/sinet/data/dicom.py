"""DICOM: the folder of a series of slices, or one file that holds many frames.

MONAI with pydicom reads the slices, pydicom the frames (extra `medical`).
"""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.dicom_frames import check_steps, has_frames, read_frames
from sinet.errors import missing_extra

Array = npt.NDArray[Any]
SUFFIXES = (".dcm", ".dicom", ".ima")
# MONAI warns of packages that it imports if they are there; what silences warnings is one for all
# threads, and series are read in several.
_IMPORTING = threading.Lock()
_TAGS = ("ImagePositionPatient", "InstanceNumber", "SeriesInstanceUID")


def is_dicom(path: Path) -> bool:
    """Whether a path is read as DICOM: a folder, or a file by its suffix."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def slices_of(folder: Path) -> list[Path]:
    """The DICOM files of a folder: by suffix, or by the four letters that begin them."""
    found = []
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        if path.suffix.lower() in SUFFIXES:
            found.append(path)
        elif not path.suffix:
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    found.append(path)
    return found


def read_dicom(path: Path) -> tuple[Array, Array]:
    """Read the folder of a series, or one file of many frames.

    Returns:
        Values float32 (1, X, Y, Z); the affine, 4 x 4, from voxels to millimetres towards right,
        anterior and superior.

    Raises:
        ValueError: it is not one whole series of grey slices whose places are known.
        UsageError: what reads it is not installed.
    """
    paths = slices_of(path) if path.is_dir() else [path]
    if not paths:
        raise ValueError("no DICOM files in this folder")
    for package in ("monai", "pydicom"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "medical")
    if len(paths) == 1:
        return read_frames(paths[0])
    if several := [p.name for p in paths[:2] if has_frames(p)]:
        raise ValueError(f"{several[0]} holds many frames; a folder for each such file")
    _check_series(paths)
    reader = _series_reader()
    try:
        array, facts = reader.get_data(reader.read(str(path)))
    except (AttributeError, RuntimeError) as error:  # pixels that nothing here decompresses
        raise ValueError(f"its slices cannot be decoded: {error}") from error
    if array.ndim != 3:
        raise ValueError(f"{array.ndim} axes; slices of grey pixels expected")
    return np.asarray(array, np.float32)[None], np.asarray(facts["affine"], np.float64)


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
    check_steps([path.name for _, path, _ in found], np.array([place for *_, place in found]))
