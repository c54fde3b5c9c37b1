"""CSV: one row an image, with its path and label; several labels in a cell, or one-hot columns.

A class id is the value as it stands in the file (an integer if all values are plain integers).
`a|b` or `a;b` in any label cell makes the data set multi-label; so do columns of 0 and 1.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sinet.data.dataset import ALL, ClassId, ImageDataset
from sinet.data.readers._boxes import unlisted
from sinet.data.readers._layout import SPLITS, Found, assemble, split_in, spots, visible
from sinet.data.remarks import Remark, Spot, left_out
from sinet.errors import DataError

FORMAT = "CSV"
EXPECTS = "a .csv with columns `path` and `label` (a|b for several), perhaps `split`"
TASK = "classify"

PATH = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
LABEL = ("label", "labels", "class", "class_name", "category", "target", "tags")
SPLIT = ("split", "set", "subset")
_SEPARATOR = re.compile(r"\s*[|;]\s*")


_Sample = tuple[str, str, str | list[str]]  # split, path, label cell or the labels themselves


@dataclass
class _Table:
    file: Path
    header: list[str]
    rows: list[list[str]]

    def column(self, names: Sequence[str]) -> int | None:
        """Position of the first column with one of these names, whatever its case."""
        lower = [name.strip().lower() for name in self.header]
        return next((lower.index(name) for name in names if name in lower), None)


def detect(root: Path) -> bool:
    """A CSV file, or a folder with one that has a path column."""
    if root.is_file():
        return root.suffix.lower() in (".csv", ".tsv")
    return any(_load(path, 0).column(PATH) is not None for path in _files(root)) or (
        bool(_files(root)) and not any(path.is_dir() for path in visible(root))
    )


def read(root: Path) -> ImageDataset:
    """Read the table, or one table a split (`train.csv`, `val.csv`, `test.csv`)."""
    tables = [_load(path) for path in ([root] if root.is_file() else _files(root))]
    with_paths = [table for table in tables if table.column(PATH) is not None]
    if not with_paths:
        raise _no_column("path", PATH, tables[0])
    if len(with_paths) > 1:  # a list of test pictures without labels is of no use here
        with_paths = [table for table in with_paths if len(table.header) > 1]
    by_split = {split_in(t.file.stem): t for t in with_paths}
    if len(with_paths) > 1 and (None in by_split or len(by_split) < len(with_paths)):
        names = ", ".join(table.file.name for table in with_paths)
        raise DataError(
            f"{root} has several CSV files ({names}); expected one, or train.csv, val.csv and "
            "test.csv: give the path of the one that is meant"
        )
    remarks = [Remark(f"{t.file.name}: {len(t.rows)} rows") for t in with_paths]
    others = [Spot(table.file.name) for table in tables if table not in with_paths]
    remarks += left_out(others, "tables have no paths with labels", "no labels")
    samples: list[_Sample] = []
    for table in with_paths:
        default = (split_in(table.file.stem) if len(with_paths) > 1 else None) or ALL
        samples += _samples(table, default)
    base = root if root.is_dir() else root.parent
    return _assemble(root, base, samples, _hot_columns(with_paths[0]), remarks)


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [path for path in visible(root) if path.suffix.lower() in (".csv", ".tsv")]


def _load(file: Path, limit: int | None = None) -> _Table:
    """Header and rows; the delimiter is the likeliest one in the header."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            delimiter = max(",\t;", key=first.count)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=delimiter)
            header = next(reader, [])
            rows = [] if limit == 0 else [row for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV ({error}); save it as UTF-8") from error
    return _Table(file, header, rows)


def _others(table: _Table) -> list[int]:
    """Columns that are neither path nor split."""
    taken = (table.column(PATH), table.column(SPLIT))
    return [i for i in range(len(table.header)) if i not in taken]


def _label_column(table: _Table) -> int | None:
    """The column named as a label, or the only one that is left; None where there are several."""
    others = _others(table)
    return others[0] if len(others) == 1 else table.column(LABEL)


def _hot_columns(table: _Table) -> list[str]:
    """Names of the one-hot columns, if there is no label column."""
    if _label_column(table) is not None:
        return []
    return [table.header[i] for i in _others(table)]


def _samples(table: _Table, default: str) -> list[_Sample]:
    path, split, label = table.column(PATH), table.column(SPLIT), _label_column(table)
    assert path is not None  # tables without one were refused
    hot = _others(table) if label is None else []
    if label is None and not hot:
        raise _no_column("label", LABEL, table)
    found: list[_Sample] = []
    for number, row in enumerate(table.rows, start=2):
        if len(row) != len(table.header):
            raise _bad_row(table, number, f"{len(row)} cells, the header {len(table.header)}")
        if hot and not all(row[i].strip() in ("0", "1", "0.0", "1.0") for i in hot):
            raise _no_column("label", LABEL, table)
        cell = row[label] if label is not None else [table.header[i] for i in hot if float(row[i])]
        named = default if split is None else row[split]
        part = default if split is None else SPLITS.get(named.strip().lower(), "")
        if not part:
            raise _bad_row(table, number, f"split {named!r}; expected train, val or test")
        found.append((part, row[path], cell))
    return found


def _assemble(
    root: Path, base: Path, samples: list[_Sample], declared: list[str], remarks: list[Remark]
) -> ImageDataset:
    if not samples:
        raise DataError(f"{root} has no row below its header; expected one a picture")
    multilabel = bool(declared) or any(_SEPARATOR.search(str(cell)) for _, _, cell in samples)
    keys = [_keys(cell, multilabel) for _, _, cell in samples]
    if not multilabel and not all(key[0] for key in keys):
        row = next(i for i, key in enumerate(keys) if not key[0])
        raise DataError(f"{root}: {samples[row][1]!r} has no label; give it one, or delete the row")
    folder = _image_folder(base, [path for _, path, _ in samples])
    values = declared or sorted({value for key in keys for value in key})
    integers = not declared and all(re.fullmatch(r"0|-?[1-9]\d*", value) for value in values)
    ids: list[ClassId] = sorted(map(int, values)) if integers else list(values)
    found: dict[str, Found] = {}
    for (split, path, _), key in zip(samples, keys, strict=True):
        part = found.setdefault(split, Found([], [], []))
        own: list[ClassId] = [int(value) for value in key] if integers else list(key)
        part.items.append(folder / path)  # type: ignore[union-attr]
        part.labels.append(own if multilabel else own[0])  # type: ignore[attr-defined]
        part.names.append(path)
    bare = spots(base, unlisted(folder / path for _, path, _ in samples))
    remarks += left_out(bare, "images are in no table", "in no table")
    return assemble(root, FORMAT, found, {key: str(key) for key in ids}, multilabel, remarks)


def _keys(cell: str | list[str], multilabel: bool) -> list[str]:
    if isinstance(cell, list):
        return cell
    if not multilabel:
        return [cell.strip()]
    return sorted({part for part in _SEPARATOR.split(cell.strip()) if part})


def _image_folder(base: Path, paths: list[str]) -> Path:
    """The folder that the paths are relative to: the CSV's own, or the only one beside it.

    Files that are missing are found by the check of all files, and listed there.
    """
    probe = paths[:: max(1, len(paths) // 50)]
    folders = [base, *(path for path in visible(base) if path.is_dir())]
    return max(folders, key=lambda folder: sum((folder / path).is_file() for path in probe))


def _bad_row(table: _Table, number: int, problem: str) -> DataError:
    return DataError(f"{table.file}, line {number}: {problem}; correct the line")


def _no_column(kind: str, known: Sequence[str], table: _Table) -> DataError:
    return DataError(
        f"{table.file} has no {kind} column; its columns are {', '.join(table.header) or 'none'}; "
        f"expected one named {', '.join(known[:4])} ...: rename it, or give `--task tabular` if "
        "the rows are the samples"
    )
