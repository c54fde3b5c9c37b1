"""Pictures of numbers: `numbers.csv` with the columns name and number beside the pictures.

Alone or in `train`, `val`, `test`. `benchmarks/make_street_numbers.py` writes such folders.
"""

from __future__ import annotations

import csv
from pathlib import Path

from sinet.data.dataset import ALL, ClassId, ImageDataset, Split
from sinet.data.numbers import Number, presence
from sinet.data.readers._boxes import unlisted
from sinet.data.readers._layout import SPLITS, spots, visible
from sinet.data.remarks import left_out
from sinet.errors import DataError

FORMAT = "pictures of numbers"
EXPECTS = "numbers.csv (name,number) beside the pictures, in train/, val/, ... or alone"
TASK = "digits"
TABLE = "numbers.csv"


def detect(root: Path) -> bool:
    """A `numbers.csv` here or in a folder of a split."""
    return root.is_dir() and bool(_tables(root))


def read(root: Path) -> ImageDataset:
    """Read the tables.

    Raises:
        DataError: other columns, a number that is none, or a picture that is not there.
    """
    splits = {split: _split(root, table) for split, table in _tables(root).items()}
    ids: list[ClassId] = list(range(10))
    names = [str(i) for i in ids]
    bare = unlisted(root / name for split in splits.values() for name in split.names)
    remarks = left_out(spots(root, bare), f"pictures are not in {TABLE}", "no number")
    return ImageDataset(root, FORMAT, names, ids, True, splits, remarks=remarks, task=TASK)


def _tables(root: Path) -> dict[str, Path]:
    if (root / TABLE).is_file():
        return {ALL: root / TABLE}
    folders = [path for path in visible(root) if path.name.lower() in SPLITS]
    return {SPLITS[p.name.lower()]: p / TABLE for p in folders if (p / TABLE).is_file()}


def _split(root: Path, table: Path) -> Split:
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"name", "number"} <= set(rows.fieldnames or ()):
            given = ", ".join(rows.fieldnames or ()) or "nothing"
            raise DataError(f"{table} has the columns {given}; name and number expected")
        pairs = [(row["name"] or "", row["number"] or "") for row in rows]
    paths, numbers = [], []
    for line, (name, number) in enumerate(pairs, start=2):
        path = table.parent / name
        if not (number.isascii() and number.isdigit()):
            raise DataError(f"{table}, line {line}: {number!r} is no number; digits expected")
        if not path.is_file():
            raise DataError(f"{table}, line {line}: there is no {path}; correct the name")
        paths.append(path)
        numbers.append(Number(name, tuple(map(int, number))))
    names = [path.relative_to(root).as_posix() for path in paths]
    return Split(list(paths), presence(numbers), names, targets=numbers)
