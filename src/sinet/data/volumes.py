"""Volumes: their place in the patient, what a network sees of them, splits of a data set.

A network sees a volume turned to right, anterior, superior and, if the training data had several
spacings, resampled; answers come back on the file's own grid, with its affine. The files
themselves are read by `sinet.data.volume_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from sinet.data.dataset import Split
from sinet.data.dicom import is_dicom, slices_of
from sinet.data.image import Pixels
from sinet.data.masks import VOID
from sinet.data.patches import PatchInput
from sinet.data.volume_files import Volume as Volume
from sinet.data.volume_files import is_volume as is_volume
from sinet.data.volume_files import nibabel, opened
from sinet.data.volume_files import read_volume as read_volume
from sinet.data.volume_files import shape_of as shape_of
from sinet.data.volume_files import spacing_of as spacing_of
from sinet.data.volume_files import write_labels as write_labels
from sinet.errors import DataError

Array = npt.NDArray[Any]
SAME_PLACE = 1e-3
"""Places and axes that differ by less than this share of a voxel are the same: formats round."""
SAME_SPACING = 0.01
"""Spacings that differ by less than this share are the same."""


def misplaced(affine: Array, other: Array) -> list[str]:
    """How the grid of `other` lies differently from that of `affine`, in words; none if it agrees.

    Args:
        affine: 4 x 4, from voxels to millimetres: where the voxels should be.
        other: 4 x 4: where they are.
    """
    said = []
    ours, theirs = np.array(spacing_of(affine)), np.array(spacing_of(other))
    if not (np.isfinite(other).all() and ours.min() > 0 and theirs.min() > 0):
        return ["its header gives the voxels no place"]
    for axis in range(3):
        if abs(theirs[axis] / ours[axis] - 1) > SAME_PLACE:
            said.append(f"axis {axis} has {theirs[axis]:g} mm a voxel, not {ours[axis]:g} mm")
        way, found = affine[:3, axis] / ours[axis], other[:3, axis] / theirs[axis]
        if np.linalg.norm(way + found) <= SAME_PLACE:
            said.append(f"axis {axis} mirrored")
        elif np.linalg.norm(way - found) > SAME_PLACE:
            angle = np.degrees(np.arccos(np.clip(way @ found, -1, 1)))
            said.append(f"axis {axis} turned by {angle:.3g} degrees")
    if (apart := np.linalg.norm(affine[:3, 3] - other[:3, 3])) > SAME_PLACE * ours.min():
        said.append(f"origin differs by {apart:.4g} mm")
    return said


def right_grid(shape: Sequence[int], affine: Array) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Sides and millimetres a voxel of a volume (C, X, Y, Z) once it is turned."""
    axes = np.argsort(nibabel().orientations.io_orientation(affine)[:, 0])
    spacing = spacing_of(affine)
    return tuple(shape[1 + a] for a in axes), tuple(spacing[a] for a in axes)


def common_spacing(spacings: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """The median of spacings (N, 3), where they differ by more than a twentieth; else none."""
    middle = np.median(spacings, 0)
    if (np.abs(spacings / middle - 1) <= 5 * SAME_SPACING).all():
        return ()
    return tuple(float(round(v, 4)) for v in middle)


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
        paths = sorted(folder.rglob("*"))
        series = {path for path in paths if path.is_dir() and is_volume(path)}
        return [p for p in paths if p in series or (p.parent not in series and is_volume(p))]

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


def seen(path: Path) -> Pixels:
    """Three planes through the middle of a file's first channel, uint8 (H, W, 1).

    Raises:
        ImageError: it cannot be read.
    """
    return planes_of(read_volume(path).array[0])


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
        picture = seen(self._path(i))
        return np.repeat(picture, 3, 2) if channels == 3 else picture

    def check(self, i: int) -> str | None:
        """Why the volume's header cannot be read, or None."""
        path = self._path(i)
        try:
            if not is_dicom(path):
                _ = opened(path).shape
        except (OSError, ValueError) as error:
            return str(error).split("\n")[0]
        return None

    def content(self, i: int) -> bytes:
        """The file, or the slices of the series."""
        path = self._path(i)
        parts = slices_of(path) if path.is_dir() else [path]
        return b"".join(part.read_bytes() for part in parts)

    def form(self, i: int) -> str:
        """The type of the voxels."""
        path = self._path(i)
        return "DICOM" if is_dicom(path) else str(opened(path).get_data_dtype())

    def found_channels(self) -> int:
        """Channels of the first volume."""
        return shape_of(self._path(0))[0][0]

    def _path(self, i: int) -> Path:
        item = self.items[i]
        assert isinstance(item, Path)
        return item
