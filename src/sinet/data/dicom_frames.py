"""One DICOM file with a whole series in it: "enhanced" CT, MR and PET, many frames of a volume.

Where a frame lies, how large its pixels are and what its values mean is said once for all frames
(`SharedFunctionalGroupsSequence`) or by each (`PerFrameFunctionalGroupsSequence`); DICOM PS3.3,
C.7.6.16. pydicom reads it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
UNEVEN = 0.5
"""Steps between slices may differ by this share; more, and one is missing or there twice."""
SAME_WAY = 1e-4
"""Parts of directions, and shares of a spacing, that differ by less are the same: files round."""
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def has_frames(path: Path) -> bool:
    """Whether a DICOM file holds more than one frame; false where nothing here can tell."""
    if importlib.util.find_spec("pydicom") is None:
        return False
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        head = dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
    except (InvalidDicomError, OSError, EOFError):
        return False
    return int(head.get("NumberOfFrames") or 1) > 1


def read_frames(path: Path) -> tuple[Array, Array]:
    """Read a file of many frames; they are put in the order in which they lie.

    Returns:
        Values float32 (1, X, Y, Z); the affine, 4 x 4, from voxels to millimetres towards right,
        anterior and superior.

    Raises:
        ValueError: it is no such file, is damaged, or its frames are not the slices of one volume.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        file = dcmread(path)
    except InvalidDicomError as error:
        raise ValueError(f"{path.name} is no DICOM file, or a damaged one") from error
    count = int(file.get("NumberOfFrames") or 1)
    if count < 2:
        raise ValueError(f"{path.name} alone is no series of slices; convert it to NIfTI")
    if file.get("SOPClassUID") == _SEGMENTATION:
        raise ValueError(
            f"{path.name} is a DICOM segmentation; convert it to a NIfTI label map (dcmqi's "
            "segimage2itkimage, or 3D Slicer)"
        )
    frames = [_Frame(file, path.name, i) for i in range(count)]
    affine, order = _placed(path.name, frames)
    try:
        pixels = file.pixel_array
    except (AttributeError, RuntimeError) as error:  # pixels that nothing here decompresses
        raise ValueError(f"its frames cannot be decoded: {error}") from error
    if pixels.ndim != 3:
        raise ValueError(f"{pixels.ndim} axes; frames of grey pixels expected")
    planes = [pixels[i].astype(np.float32) * frames[i].slope + frames[i].intercept for i in order]
    return np.stack(planes).transpose(2, 1, 0)[None].astype(np.float32), affine


class _Frame:
    """Where a frame lies and what its values mean.

    Args:
        file: as pydicom has read it.
        name: of the file, for messages.
        i: of the frame, from 0 on.

    Raises:
        ValueError: the file does not say where it lies.
    """

    def __init__(self, file: Any, name: str, i: int) -> None:
        each = file.get("PerFrameFunctionalGroupsSequence") or []
        shared = file.get("SharedFunctionalGroupsSequence") or []
        self._groups = [*each[i : i + 1], *shared[:1]]
        self._whole, self._called = file, f"frame {i + 1} of {name}"
        self.place = self._numbers("PlanePositionSequence", "ImagePositionPatient", 3)
        self.ways = self._numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
        self.spacing = self._numbers("PixelMeasuresSequence", "PixelSpacing", 2)
        self.slope = self._value("RescaleSlope", 1.0)
        self.intercept = self._value("RescaleIntercept", 0.0)

    def _numbers(self, group: str, tag: str, count: int) -> Array:
        found = self._found(group, tag)
        if found is None or len(found) != count:
            raise ValueError(
                f"{self._called} has no {tag}, so where its voxels lie is unknown; export the "
                "series as single slices, or convert it to NIfTI with its geometry"
            )
        return np.array(found, float)

    def _value(self, tag: str, usual: float) -> float:
        found = self._found("PixelValueTransformationSequence", tag)
        return float(usual if found is None else found)

    def _found(self, group: str, tag: str) -> Any:
        """What the frame says, else what is said for all."""
        for part in self._groups:
            held = part.get(group)
            if held and held[0].get(tag) is not None:
                return held[0].get(tag)
        return None


def _placed(name: str, frames: Sequence[_Frame]) -> tuple[Array, list[int]]:
    """The affine, and the frames in the order in which they lie.

    Raises:
        ValueError: they differ in direction or spacing, lie twice at a place, or one is missing.
    """
    first = frames[0]
    for tag, attribute in (("ImageOrientationPatient", "ways"), ("PixelSpacing", "spacing")):
        given = np.array([getattr(frame, attribute) for frame in frames])
        off = np.abs(given - given[0]).max(1) > SAME_WAY * np.abs(given[0]).max()
        if off.any():
            raise ValueError(
                f"frames 1 and {int(off.argmax()) + 1} of {name} differ in {tag}, so they are not "
                "slices of one volume; export each stack of frames as a file of its own"
            )
    along, down = first.ways[:3], first.ways[3:]
    normal = np.cross(along, down)
    places = np.array([frame.place for frame in frames])
    depths = places @ normal
    order = [int(i) for i in np.argsort(depths, kind="stable")]
    gaps = np.diff(depths[order])
    if (twice := np.flatnonzero(gaps <= SAME_WAY * gaps.max())).size:
        one, other = (order[twice[0] + k] + 1 for k in (0, 1))
        raise ValueError(
            f"frames {one} and {other} of {name} lie at the same place: several times, echoes or "
            "directions in one file; split them, such as with dcm2niix"
        )
    check_steps([f"frame {i + 1}" for i in order], places[order])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along * first.spacing[1], down * first.spacing[0]
    affine[:3, 2] = (places[order[-1]] - places[order[0]]) / (len(order) - 1)
    affine[:3, 3] = places[order[0]]
    # DICOM counts towards left and posterior, NIfTI towards right and anterior
    return np.diag([-1.0, -1, 1, 1]) @ affine, order


def check_steps(names: Sequence[str], places: Array) -> None:
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
