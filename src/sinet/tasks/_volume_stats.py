"""What the training volumes of a data set are like: sides, spacing, intensities."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.dataset import ImageDataset
from sinet.data.volumes import common_spacing, read_volume, right_grid, shape_of

LOOKED_AT = 24
"""Volumes from which the statistics come."""


@dataclass(frozen=True)
class VolumeStats:
    """What the training volumes are like, once they are turned."""

    sides: tuple[int, ...]
    spacing: tuple[float, ...]
    """Median, where spacings differ; else empty."""
    mean: tuple[float, ...]
    """Of all volumes together, where their classes have the same values everywhere; else empty."""
    std: tuple[float, ...]
    low: float | None
    high: float | None


def _some(data: ImageDataset, sample: int) -> list[int]:
    return [int(i) for i in np.unique(np.linspace(0, len(data.train) - 1, sample).astype(int))]


def typical_sides(data: ImageDataset, sample: int = LOOKED_AT) -> tuple[int, ...]:
    """Median sides of turned volumes at the spacing that they are learned at."""
    shapes, spacings = _headers(data, sample)
    common = common_spacing(spacings)
    if common:
        shapes = shapes * spacings / np.array(common)
    return tuple(max(1, int(v)) for v in np.median(shapes, 0).round())


def _headers(data: ImageDataset, sample: int) -> tuple[Any, Any]:
    paths: Any = data.train.items
    found = [right_grid(*shape_of(paths[i])) for i in _some(data, sample)]
    return np.array([shape for shape, _ in found], float), np.array([mm for _, mm in found])


def volume_stats(data: ImageDataset, sample: int = LOOKED_AT) -> VolumeStats:
    """Sides, spacing and intensities of some training volumes.

    Intensities mean the same in all volumes (as Hounsfield units do) if the mean of each class
    varies little from volume to volume, against the deviation within them; then they are normalised
    by numbers of the whole data set, clipped to what the labelled voxels have. Else each volume is
    normalised by its own.
    """
    means, rows = [], []
    for i in _some(data, sample):
        array = read_volume(data.train.items[i]).array
        label = data.train.targets[i].read()
        flat, classes = array.reshape(len(array), -1), label.ravel()
        means.append([[_mean(row[classes == c]) for c in range(data.num_classes)] for row in flat])
        step = max(1, flat.shape[1] // 50_000)
        rows.append(flat[:, ::step])
    pooled = np.concatenate(rows, 1)
    within = float(np.mean([row.std() for part in rows for row in part]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that no volume has
        between = np.nanmean(np.nanstd(np.array(means), 0))
    sides = typical_sides(data, sample)
    spacing = common_spacing(_headers(data, sample)[1])
    if not between < 0.25 * within:
        return VolumeStats(sides, spacing, (), (), None, None)
    low, high = (float(v) for v in np.percentile(pooled, [0.1, 99.9]))
    clipped = pooled.clip(low, high)
    mean, std = clipped.mean(1), np.maximum(clipped.std(1), 1e-6)
    rounded = [tuple(float(f"{v:.6g}") for v in both) for both in (mean, std)]
    return VolumeStats(sides, spacing, rounded[0], rounded[1], low, high)


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")
