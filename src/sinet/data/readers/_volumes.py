"""What the readers of volumes share: labels learned from the label maps, every pair checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sinet.data.dataset import ClassId, ImageDataset
from sinet.data.image import ImageError
from sinet.data.masks import VOID
from sinet.data.volumes import LabelMap, VolumeSplit, read_volume, shape_of
from sinet.errors import DataError

Pair = tuple[Path, Path]
_MAX_CLASSES = 254


def assembled(
    root: Path,
    form: str,
    found: Mapping[str, Sequence[Pair]],
    named: Mapping[int, str],
    notes: Sequence[str] = (),
) -> ImageDataset:
    """A data set of volumes and label maps.

    Args:
        root: what was read.
        form: the name of the format.
        found: split -> (volume, label map).
        named: label -> name; empty = the labels are learned from the maps.
        notes: what the reader decided.

    Raises:
        DataError: a label map of another shape, an unknown label, or more labels than there can be.
    """
    pairs = [(split, *pair) for split, both in found.items() for pair in both]
    with ThreadPoolExecutor(4) as pool:
        looked = list(pool.map(lambda pair: _look(*pair[1:]), pairs))
    problems = [str(seen) for seen in looked if isinstance(seen, str)]
    every = sorted({value for seen in looked if not isinstance(seen, str) for value in seen})
    values = sorted(named) or every
    if named:
        strange = [v for v in every if v not in named]
        if strange:
            problems.append(f"label maps hold {strange[:5]}, which the list of labels lacks")
    if problems:
        shown = "".join(f"\n  {line}" for line in problems[:5])
        raise DataError(f"{root}: {len(problems)} volumes cannot be used:{shown}")
    if len(values) < 2 or len(values) > _MAX_CLASSES:
        raise DataError(
            f"{root}: the label maps hold {len(values)} different labels; at least two are needed, "
            f"{_MAX_CLASSES} at most: background and what is to be found"
        )
    splits: dict[str, VolumeSplit] = {}
    for split in dict.fromkeys(split for split, *_ in pairs):
        rows = [(pair, seen) for pair, seen in zip(pairs, looked, strict=True) if pair[0] == split]
        labels = np.array([[v in seen for v in values] for _, seen in rows], np.float32)
        names = [_name(image, root) for (_, image, _), _ in rows]
        targets = [LabelMap(_name(p, root), p, tuple(values)) for (_, _, p), _ in rows]
        images = [image for (_, image, _), _ in rows]
        splits[split] = VolumeSplit(images, labels, names, targets=targets)
    classes = [named.get(v, "background" if v == 0 else f"label {v}") for v in values]
    ids: list[ClassId] = list(values)
    return ImageDataset(
        root, form, classes, ids, True, dict(splits), notes=list(notes), task="volume"
    )


def _name(path: Path, root: Path) -> str:
    base = root.parent if root.is_file() else root
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _look(image: Path, labels: Path) -> list[int] | str:
    """The labels that occur in a map; or why the pair cannot be used."""
    try:
        sides = shape_of(image)[0][1:]
        array = read_volume(labels).array[0].round().astype(np.int64)
    except ImageError as error:
        return f"{error.args[0].removeprefix('cannot read image ').split(';')[0]}"
    if array.shape != sides:
        given = " x ".join(map(str, array.shape))
        return f"{labels.name}: {given} voxels, its volume {' x '.join(map(str, sides))}"
    return [int(v) for v in np.unique(array) if v != VOID]
