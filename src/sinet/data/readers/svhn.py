"""Street View House Numbers, format 1: photographs, and boxes of their digits in MATLAB's file.

`train/`, `test/` and perhaps `extra/` (which is added to the training pictures), each with
`digitStruct.mat` and `1.png`, `2.png`, ... as ufldl.stanford.edu/housenumbers gives them. Each
picture shows the smallest box around all digits, three tenths wider and higher, as in the paper
(arXiv 1312.6082). `digitStruct.mat` is HDF5, which h5py reads (extra `digits`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sinet.data.dataset import ALL, ClassId, ImageDataset, Split
from sinet.data.numbers import Number, presence
from sinet.data.readers._layout import SPLITS, visible
from sinet.data.views import Part, ViewedSplit
from sinet.errors import DataError, UsageError

FORMAT = "SVHN format 1"
EXPECTS = "train/, test/ (and extra/) with digitStruct.mat and 1.png, 2.png, ..."
TASK = "digits"
TABLE = "digitStruct.mat"
LARGER = 0.3
"""What the box gains in width and in height."""

_NAMES = {**SPLITS, "extra": "train"}


def detect(root: Path) -> bool:
    """A `digitStruct.mat` here or in a folder of a split."""
    return root.is_dir() and bool(_tables(root))


def read(root: Path) -> ImageDataset:
    """Read names, digits and boxes.

    Raises:
        UsageError: h5py is not installed.
        DataError: a damaged file, or pictures that are not there.
    """
    parts: dict[str, list[ViewedSplit]] = {}
    for table in _tables(root):
        name = ALL if table.parent == root else _NAMES[table.parent.name.lower()]
        parts.setdefault(name, []).append(_split(root, table))
    splits: dict[str, Split] = {name: _joined(found) for name, found in parts.items()}
    ids: list[ClassId] = list(range(10))
    return ImageDataset(root, FORMAT, [str(i) for i in ids], ids, True, splits, task=TASK)


def _tables(root: Path) -> list[Path]:
    if (root / TABLE).is_file():
        return [root / TABLE]
    folders = [path for path in visible(root) if path.name.lower() in _NAMES]
    return [path / TABLE for path in folders if (path / TABLE).is_file()]


def _split(root: Path, table: Path) -> ViewedSplit:
    paths, numbers, views = [], [], []
    for name, boxes in _rows(table):
        path = table.parent / name
        if not path.is_file():
            raise DataError(f"{table} speaks of {name}, which is not there; unpack all pictures")
        paths.append(path)
        # the label 10 stands for the digit 0
        numbers.append(Number(name, tuple(int(label) % 10 for label in boxes["label"])))
        views.append(_around(boxes))
    names = [path.relative_to(root).as_posix() for path in paths]
    return ViewedSplit(list(paths), presence(numbers), names, targets=numbers, views=views)


def _joined(splits: Sequence[ViewedSplit]) -> ViewedSplit:
    def every(field: str) -> list[Any]:
        return [entry for split in splits for entry in getattr(split, field)]

    labels = np.concatenate([split.labels for split in splits])
    items, names = every("items"), every("names")
    return ViewedSplit(items, labels, names, targets=every("targets"), views=every("views"))


def _around(boxes: dict[str, list[float]]) -> Part:
    """The smallest box around all digits, enlarged."""
    top, left = min(boxes["top"]), min(boxes["left"])
    bottom = max(t + h for t, h in zip(boxes["top"], boxes["height"], strict=True))
    right = max(x + w for x, w in zip(boxes["left"], boxes["width"], strict=True))
    more_y, more_x = LARGER / 2 * (bottom - top), LARGER / 2 * (right - left)
    edges = (top - more_y, left - more_x, bottom + more_y, right + more_x)
    return Part(*(round(edge) for edge in edges))


def _rows(table: Path) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """(file name, {label, top, left, height, width of each digit}) of each picture."""
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise UsageError(
            f"{table} is an HDF5 file, and h5py, which reads those, is not installed; "
            "run: pip install 'sinet[digits]'"
        ) from error
    keys = ("label", "top", "left", "height", "width")
    try:
        with h5py.File(table, "r") as file:
            names, boxes = file["digitStruct"]["name"], file["digitStruct"]["bbox"]
            for i in range(len(names)):
                name = "".join(chr(int(code)) for code in np.ravel(file[names[i][0]]))
                box = file[boxes[i][0]]
                yield name, {key: _values(file, box[key]) for key in keys}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{table} is no whole digitStruct.mat ({error}); get it again") from error


def _values(file: Any, entry: Any) -> list[float]:
    """One digit's value is stored as it is, several as references."""
    if len(entry) == 1:
        return [float(entry[0][0])]
    return [float(file[entry[i][0]][0][0]) for i in range(len(entry))]
