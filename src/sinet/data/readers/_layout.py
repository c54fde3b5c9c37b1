"""What the readers share: names of splits, visible files, and labels from the user's own ids."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.dataset import ClassId, ImageDataset, Items, Split
from sinet.data.image import Pixels
from sinet.data.remarks import Corners, Remark, Spot
from sinet.errors import DataError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "t10k": "test",
}


def split_in(text: str) -> str | None:
    """The split that a file name speaks of: `train-00000-of-00002` -> train."""
    words = re.split(r"[^a-z0-9]+", text.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, without hidden files and what macOS puts into zips."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def seen_from(root: Path, path: Path) -> str:
    """A path as it is called within a data set: relative to its folder, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def spots(
    root: Path, paths: Iterable[Path], look: Callable[[Path], Pixels] | None = None
) -> list[Spot]:
    """Files that are in no split, to be drawn all the same.

    Args:
        root: of the data set.
        paths: of pictures, unless `look` is given.
        look: makes a picture of such a file.
    """
    return [Spot(seen_from(root, p), partial(look, p) if look else p) for p in paths]


def showing(splits: Mapping[str, Split], classes: Sequence[int]) -> tuple[Spot, ...]:
    """The samples in which one of these classes occurs, by labels (N, classes) of 0 and 1."""
    return tuple(
        Spot(name)
        for split in splits.values()
        for name, row in zip(split.names, split.labels, strict=True)
        if row[classes].any()
    )


def fault(root: Path, path: Path, text: str, short: str, box: Corners = ()) -> Remark:
    """A remark on one picture that cannot be used.

    Args:
        root: of the data set.
        path: of the picture.
        text: what is wrong.
        short: the same in two words.
        box: what to mark in it.
    """
    return Remark(text, True, short, (Spot(seen_from(root, path), path, box),))


def refuse(root: Path, what: str, problems: Sequence[Remark], advice: str) -> None:
    """Raise a DataError that lists the first problems, if there are any.

    Args:
        root: of the data set.
        what: they are, as in "masks cannot be used".
        problems: a line each, and where to look.
        advice: what to do.
    """
    if problems:
        shown = "".join(f"\n  {problem.text}" for problem in problems[:5])
        more = f"\n  ... and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(f"{root}: {len(problems)} {what}:{shown}{more}\n{advice}", problems)


@dataclass
class Found:
    """Samples of one split: items, their labels (the user's ids, one or several), their names."""

    items: Items
    labels: Sequence[Any]
    names: list[str]


def assemble(
    root: Path,
    format: str,
    found: Mapping[str, Found],
    classes: Mapping[ClassId, str],
    multilabel: bool = False,
    remarks: Sequence[Remark] = (),
) -> ImageDataset:
    """A data set whose label order is the order of `classes` (id -> name)."""
    position = {key: index for index, key in enumerate(classes)}
    splits = {}
    for name, part in found.items():
        labels: npt.NDArray[Any]
        if multilabel:
            labels = np.zeros((len(part.labels), len(classes)), dtype=np.float32)
            for row, keys in zip(labels, part.labels, strict=True):
                row[[position[key] for key in keys]] = 1
        else:
            labels = np.array([position[key] for key in part.labels], dtype=np.int64)
        splits[name] = Split(part.items, labels, part.names)
    names = list(classes.values())
    said = list(remarks)
    return ImageDataset(root, format, names, list(classes), multilabel, splits, remarks=said)
