"""Tables whose rows are the samples: a CSV, TSV or Parquet file, or one a split.

The labels stand in the column named `label`, `class` or `target`, or else in the last one; all
others are learned from, but those that say the same throughout and those of text that differs from
row to row. It looks only when it is asked for: a table may also list pictures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sinet.data.columns import is_categorical, is_number
from sinet.data.dataset import ALL, ClassId, ImageDataset, Split
from sinet.data.readers._layout import split_in, visible
from sinet.data.remarks import Remark, Spot, left_out, listed
from sinet.data.rows import TableSplit
from sinet.data.table import SUFFIXES, Table, category, is_empty, number, read_table
from sinet.errors import DataError

FORMAT = "table"
EXPECTS = "a .csv, .tsv or .parquet with a header; labels in `label`, `class` or the last column"
TASK = "tabular"
ASKED = True

LABEL = ("label", "class", "target")
SAMPLE, DISTINCT = 50, 0.5
"""Text with more values than this, and in more than this share of the rows, names the row."""
MANY = 100
"""More different numbers than this are no classes, where they are most of the rows too."""
FINE = 1e-5
"""A spread that single precision cannot resolve, as a share of the numbers' size."""


def detect(root: Path) -> bool:
    """A table, or a folder with some."""
    return bool(_files(root))


def read(root: Path) -> ImageDataset:
    """Read the tables; cells stay text until a model's own columns are known.

    Raises:
        DataError: a damaged table, other columns in another split, no labels that are classes.
        UsageError: pyarrow is not installed, which reads Parquet.
    """
    tables = _by_split(root, _files(root))
    first = tables.get("train", next(iter(tables.values())))
    label = _label_column(first)
    remarks = [Remark(f"labels in {label!r}; to choose another column, name it `label`")]
    kept: dict[str, Table] = {}
    for name, table in tables.items():
        if set(table.header) != set(first.header):
            other = sorted(set(table.header) ^ set(first.header))
            raise DataError(f"{table.file} and {first.file} differ in the columns {listed(other)}; "
                            "give both the same")  # fmt: skip
        kept[name], bare = _labelled(table, label)
        remarks += left_out(bare, "rows have no label", "no label")
    base = kept.get("train", kept.get(ALL, first))
    used, said = _useful(base, label)
    keys = {n: [category(r[t.header.index(label)]) for r in t.rows] for n, t in kept.items()}
    ids = _ids(base.file, label, [key for part in keys.values() for key in part])
    splits = {name: _split(table, keys[name], ids, used, label) for name, table in kept.items()}
    names = [str(key) for key in ids]
    return ImageDataset(root, FORMAT, names, ids, False, splits, remarks=remarks + said, task=TASK)


def _files(root: Path) -> list[Path]:
    found = [root] if root.is_file() else visible(root) if root.is_dir() else []
    return [path for path in found if path.suffix.lower() in SUFFIXES]


def _by_split(root: Path, files: Sequence[Path]) -> dict[str, Table]:
    if len(files) == 1:
        return {ALL: read_table(files[0])}
    named = {split_in(path.stem) or "": path for path in files}
    if "" in named or len(named) < len(files) or "train" not in named:
        raise DataError(
            f"{root} has several tables ({listed([p.name for p in files], 5)}); expected one, or "
            "train.csv, val.csv and test.csv: give the path of the one that is meant"
        )
    return {split: read_table(path) for split, path in named.items()}


def _label_column(table: Table) -> str:
    if len(table.header) < 2:
        raise DataError(
            f"{table.file}, line 1: one column, {table.header[0]!r}; expected some to learn from "
            "and one of labels, separated by commas, semicolons or tabs"
        )
    return next((n for n in table.header if n.lower() in LABEL), table.header[-1])


def _labelled(table: Table, label: str) -> tuple[Table, list[Spot]]:
    """The rows that have a label, and the others."""
    place, where = table.header.index(label), Path(table.file).name
    there = [i for i, row in enumerate(table.rows) if not is_empty(row[place])]
    if not there:
        raise DataError(f"{table.file} has no row with a label in {label!r}; give each row one")
    bare = [f"{where}:{table.lines[i]}" for i, row in enumerate(table.rows) if is_empty(row[place])]
    rows, lines = [table.rows[i] for i in there], [table.lines[i] for i in there]
    return Table(table.file, table.header, rows, lines), [Spot(name) for name in bare]


def _useful(table: Table, label: str) -> tuple[list[str], list[Remark]]:
    """The columns to learn from, and what is said of the others and of doubtful ones."""
    used, remarks = [], []
    for place, name in enumerate(table.header):
        if name == label:
            continue
        cells = [row[place] for row in table.rows]
        values = set(cells)
        if len(values) < 2:
            said = f"column {name!r} is {next(iter(values))!r} throughout and is left out"
            remarks.append(Remark(said, True))
            continue
        if not is_number(cells):
            if len(values) > max(SAMPLE, DISTINCT * len(cells)):
                said = f"column {name!r} is text that differs from row to row and is left out"
                remarks.append(Remark(said, True))
                continue
            remarks += _mostly_numbers(table, name, cells)
        elif not is_categorical(cells):
            remarks += _too_fine(name, cells)
        used.append(name)
    if not used:
        raise DataError(f"{table.file} has no column to learn from; {remarks[0].text}")
    kinds = [is_categorical([row[table.header.index(n)] for row in table.rows]) for n in used]
    said = (
        f"{len(used)} columns: {kinds.count(False)} of numbers, {kinds.count(True)} of categories"
    )
    return used, [Remark(said), *remarks]


def _mostly_numbers(table: Table, name: str, cells: Sequence[str]) -> list[Remark]:
    """A remark on a column that would hold numbers but for a few cells."""
    odd = [i for i, cell in enumerate(cells) if number(cell) is None]
    if len(odd) > 0.1 * len(cells):
        return []
    said = (
        f"column {name!r} is read as text because of {cells[odd[0]]!r} in line "
        f"{table.lines[odd[0]]}; leave such cells empty if it holds numbers"
    )
    return [Remark(said, True)]


def _too_fine(name: str, cells: Sequence[str]) -> list[Remark]:
    """A remark on numbers that single precision, which files hold, does not tell apart."""
    values = np.array([number(cell) for cell in cells], np.float64)
    if np.nanstd(values) > FINE * np.nanmax(np.abs(values)):
        return []
    said = f"column {name!r} varies by less than {FINE:g} of its size; subtract a constant from it"
    return [Remark(said, True)]


def _ids(file: str, label: str, keys: Sequence[str]) -> list[ClassId]:
    """The classes: integers if all are plain ones, else text.

    Raises:
        DataError: a single class, or a quantity in the place of classes.
    """
    values = sorted(set(keys))
    if len(values) < 2:
        raise DataError(
            f"{file}: column {label!r} is {values[0]!r} throughout; at least two classes are "
            "needed: name the column that holds them `label`"
        )
    if is_number(values) and len(values) > max(MANY, DISTINCT * len(keys)):
        raise DataError(
            f"{file}: column {label!r} holds {len(values)} different numbers, such as "
            f"{values[0]} and {values[-1]}; this task learns classes: name another column `label`, "
            "or put the numbers into a few ranges"
        )
    if all(re.fullmatch(r"0|-?[1-9]\d*", value) for value in values):
        return sorted(map(int, values))
    return list(values)


def _split(
    table: Table, keys: Sequence[str], ids: Sequence[ClassId], used: list[str], label: str
) -> Split:
    place = {str(key): i for i, key in enumerate(ids)}
    rest = [i for i, name in enumerate(table.header) if name != label]
    text = ["\x1f".join(row[i] for i in rest).encode() for row in table.rows]
    digests = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in text)
    return TableSplit(
        np.frombuffer(digests, np.uint8).reshape(-1, 4, 4),
        np.array([place[key] for key in keys], np.int64),
        [f"{Path(table.file).name}:{line}" for line in table.lines],
        file=table.file,
        header=table.header,
        rows=table.rows,
        lines=table.lines,
        used=used,
    )
