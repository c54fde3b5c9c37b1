"""Tables: CSV, TSV and Parquet files as rows of cells, and what a cell means."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sinet.errors import DataError, missing_extra

Row = tuple[str, ...]

SUFFIXES = (".csv", ".tsv", ".parquet")
EMPTY = frozenset({"", "?", "na", "n/a", "nan", "null", "none", "<null>"})
"""What stands for an empty cell, in any case."""
LARGEST = 1e38
"""Numbers beyond are taken for empty: a file holds single precision."""


@dataclass(frozen=True)
class Table:
    """A file's cells as text."""

    file: str
    header: Row
    rows: list[Row]
    lines: list[int]
    """Where each row stands in the file, from 1 on."""


def read_table(path: Path) -> Table:
    """Read a CSV, TSV or Parquet file.

    Raises:
        DataError: no such file, not UTF-8, no header, a name twice, or a row of another length.
        UsageError: pyarrow is not installed, which reads Parquet.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; give a table: {', '.join(SUFFIXES)}")
    table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    double = [name for name, count in Counter(table.header).items() if count > 1 or not name]
    if double or not table.header:
        what = f"the name {double[0]!r} twice, or none" if double else "no header"
        raise DataError(f"{path}, line 1: {what}; give each column a name of its own")
    return table


def _csv(path: Path) -> Table:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number} is not UTF-8 ({error.reason}); save the file "
                            "as UTF-8") from error  # fmt: skip
    first = lines[0].decode("utf-8-sig")
    delimiter = max(",\t;", key=first.count)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
        try:
            header = tuple(cell.strip() for cell in next(reader, []))
            rows, places = [], []
            for row in reader:
                if not any(row):
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(row)} cells, the header has "
                        f"{len(header)}; correct the line, or quote cells that hold {delimiter!r}"
                    )
                rows.append(tuple(cell.strip() for cell in row))
                places.append(reader.line_num)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num} is no CSV ({error}); correct the line"
            ) from error
    return Table(str(path), header, rows, places)


def _parquet(path: Path) -> Table:
    try:
        import pyarrow as pa
        from pyarrow import parquet as pq
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    try:
        held = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file ({error}); get it again") from error
    cells = [["" if v is None else str(v) for v in held[n].to_pylist()] for n in held.column_names]
    rows: list[Row] = list(zip(*cells, strict=True))
    return Table(str(path), tuple(held.column_names), rows, list(range(2, len(rows) + 2)))


def is_empty(cell: str) -> bool:
    """Whether a cell stands for nothing."""
    return cell.lower() in EMPTY


def number(cell: str) -> float | None:
    """The cell as a number, NaN for an empty one; None for text."""
    if is_empty(cell):
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) < LARGEST else math.nan


def category(cell: str) -> str:
    """The cell as the name of a category: `1.0` is `1`, in whichever file."""
    value = number(cell)
    return str(int(value)) if value is not None and value.is_integer() else cell
