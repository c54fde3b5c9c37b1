"""What the readers of volumes share: labels learned from the label maps, every pair checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sinet.data.dataset import ClassId, ImageDataset, Split
from sinet.data.image import ImageError
from sinet.data.masks import VOID
from sinet.data.readers._layout import refuse, seen_from, spots
from sinet.data.remarks import Remark, Spot
from sinet.data.volumes import (
    SAME_SPACING,
    LabelMap,
    VolumeSplit,
    common_spacing,
    misplaced,
    read_volume,
    right_grid,
    seen,
    shape_of,
)
from sinet.errors import DataError

Pair = tuple[Path, Path]
_MAX_CLASSES = 254
_REPLACE = "replace damaged files, or take them and their pairs out"
_RESAMPLE = (
    "resample the labels onto the volume (nibabel.processing.resample_from_to with order=0), or, "
    "if the voxels agree and only the header is wrong, save them with the volume's affine"
)
_CHANNELS = "give all volumes the same channels, and label maps one"
_LABELS = "add the labels to the list, or change them in the maps"


@dataclass(frozen=True)
class _Pair:
    """One volume and its label map, as they were found."""

    split: str
    image: Path
    map: Path
    labels: tuple[int, ...] = ()
    """That occur in the map."""
    channels: int = 0
    spacing: tuple[float, ...] = ()
    """Millimetres a voxel, once the volume is turned."""


@dataclass(frozen=True)
class _Problem:
    """What is wrong, and what a person may do."""

    remark: Remark
    remedy: str


def assembled(
    root: Path,
    form: str,
    found: Mapping[str, Sequence[Pair]],
    named: Mapping[int, str],
    remarks: Sequence[Remark] = (),
) -> ImageDataset:
    """A data set of volumes and label maps.

    Args:
        root: what was read.
        form: the name of the format.
        found: split -> (volume, label map).
        named: label -> name; empty = the labels are learned from the maps.
        remarks: what the reader decided.

    Raises:
        DataError: a label map of another shape or at another place than its volume, volumes of
            different channels, an unknown label, or more labels than there can be.
    """
    base = root.parent if root.is_file() else root
    pairs = [_Pair(split, *pair) for split, both in found.items() for pair in both]
    with ThreadPoolExecutor(4) as pool:
        looked = list(pool.map(lambda pair: _look(pair, base), pairs))
    good = [pair for pair in looked if isinstance(pair, _Pair)]
    bad = [pair for pair in looked if isinstance(pair, _Problem)]
    bad += [*_channels(good, base), *_strange(good, named, base)]
    remedies = dict.fromkeys(problem.remedy for problem in bad)
    refuse(root, "volumes cannot be used", [p.remark for p in bad], "\n".join(remedies))
    values = sorted(named) or sorted({value for pair in good for value in pair.labels})
    if len(values) < 2 or len(values) > _MAX_CLASSES:
        raise DataError(
            f"{root}: the label maps hold {len(values)} different labels; at least two are needed, "
            f"{_MAX_CLASSES} at most: background and what is to be found"
        )
    splits: dict[str, Split] = {
        split: _split([p for p in good if p.split == split], values, base)
        for split in dict.fromkeys(p.split for p in good)
    }
    classes = [named.get(v, "background" if v == 0 else f"label {v}") for v in values]
    ids: list[ClassId] = list(values)
    said = [*remarks, *_spacings(good, base)]
    return ImageDataset(root, form, classes, ids, True, splits, remarks=said, task="volume")


def _split(pairs: Sequence[_Pair], values: Sequence[int], base: Path) -> VolumeSplit:
    labels = np.array([[v in pair.labels for v in values] for pair in pairs], np.float32)
    names = [seen_from(base, pair.image) for pair in pairs]
    targets = [LabelMap(seen_from(base, pair.map), pair.map, tuple(values)) for pair in pairs]
    return VolumeSplit([pair.image for pair in pairs], labels, names, targets=targets)


def _look(pair: _Pair, base: Path) -> _Pair | _Problem:
    """What a volume and its label map hold, or why they cannot be used."""
    image, name = seen_from(base, pair.image), seen_from(base, pair.map)
    read = False
    try:
        shape, affine = shape_of(pair.image)
        read = True
        labels = read_volume(pair.map)
    except ImageError as error:
        text = f"{name if read else image}: {error.reason}"
        where = tuple(spots(base, [pair.image] * read, seen))
        return _Problem(Remark(text, True, "unreadable", where), _REPLACE)
    if labels.shape[0] != 1:
        text = f"{name}: channels: {labels.shape[0]}, of a label map: 1"
        return _problem(pair, base, text, "channels", _CHANNELS)
    if labels.shape[1:] != shape[1:]:
        given, wanted = (" x ".join(map(str, sides)) for sides in (labels.shape[1:], shape[1:]))
        text = f"{name}: {given} voxels, its volume {wanted}"
        return _problem(pair, base, text, "other size", _RESAMPLE)
    if apart := misplaced(affine, labels.affine):
        text = f"{name} does not lie where {image} does: {', '.join(apart)}"
        return _problem(pair, base, text, "other place", _RESAMPLE)
    values = np.unique(labels.array.round().astype(np.int64))
    there = tuple(int(v) for v in values if v != VOID)
    _, spacing = right_grid(shape, affine)
    return _Pair(pair.split, pair.image, pair.map, there, shape[0], spacing)


def _problem(pair: _Pair, base: Path, text: str, short: str, remedy: str) -> _Problem:
    """What is wrong with a pair whose volume can be drawn."""
    return _Problem(Remark(text, True, short, tuple(spots(base, [pair.image], seen))), remedy)


def _channels(pairs: Sequence[_Pair], base: Path) -> list[_Problem]:
    """Volumes whose channels are not those of most."""
    usual = Counter(pair.channels for pair in pairs).most_common(1)
    return [
        _problem(
            pair,
            base,
            f"{seen_from(base, pair.image)}: channels: {pair.channels}, of most volumes: {count}",
            "channels",
            _CHANNELS,
        )
        for count, _ in usual
        for pair in pairs
        if pair.channels != count
    ]


def _strange(pairs: Sequence[_Pair], named: Mapping[int, str], base: Path) -> list[_Problem]:
    """Labels that the list of names lacks, if there is one."""
    holders = {v: pair for pair in reversed(pairs) for v in pair.labels if v not in named}
    if not named or not holders:
        return []
    strange = sorted(holders)
    first = holders[strange[0]]
    what = (
        f"label maps hold {strange[:5]}, which the list of labels lacks, such as "
        f"{seen_from(base, first.map)}"
    )
    return [_problem(first, base, what, "unknown label", _LABELS)]


def _spacings(pairs: Sequence[_Pair], base: Path) -> list[Remark]:
    """A remark on volumes that will be resampled, or none."""
    common = common_spacing(np.array([pair.spacing for pair in pairs]))
    off = [
        pair
        for pair in pairs
        if common and np.abs(np.divide(pair.spacing, common) - 1).max() >= SAME_SPACING
    ]
    if not off:
        return []
    usual, other = (" x ".join(f"{v:g}" for v in mm) for mm in (common, off[0].spacing))
    where = tuple(Spot(seen_from(base, pair.image)) for pair in off)
    said = (
        f"{len(off)} of {len(pairs)} volumes do not have the median spacing, {usual} mm, such as "
        f"{where[0].name} with {other} mm; where training volumes differ, all are resampled to "
        "their median"
    )
    return [Remark(said, True, "other spacing", where)]
