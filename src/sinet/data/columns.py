"""The columns of a table: how the cells of a row become a network's input.

A file for tables takes rows float32 (N, columns): the number of a numeric cell, the place of a
category among the known ones, NaN where a cell is empty, `STRANGE` for a category that was not in
training. What follows is nodes of the file (`TableModule`): medians in the place of empty numbers
and a column that says so, a column of 0 and 1 for each category (an empty cell is one of its own),
each with the mean and deviation of the training rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sinet.data.preprocess import Preprocess
from sinet.data.table import Table, category, is_empty, number
from sinet.errors import DataError

Array = npt.NDArray[Any]

STRANGE = -1.0
"""The code of a category that was not among the training rows."""
FEW, MOST = 6, 50
"""Up to so many different integers are categories; so many categories of a column are kept."""


@dataclass(frozen=True)
class Column:
    """A column of the training rows."""

    name: str
    mean: tuple[float, ...]
    """Of each of its columns in the network's input."""
    std: tuple[float, ...]
    """Likewise."""
    empty: bool
    """Whether some cells were empty: then the last of its columns says so."""
    median: float = 0.0
    """Of numbers: what takes the place of an empty cell."""
    categories: tuple[str, ...] = ()
    """The known ones; numbers have none."""

    def code(self, cell: str) -> float | None:
        """What the file takes for a cell; None where a number was expected."""
        if not self.categories or is_empty(cell):
            return number(cell)
        name = category(cell)
        return float(self._places[name]) if name in self._places else STRANGE

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.categories)}


@dataclass(frozen=True)
class Columns(Preprocess):
    """How the cells of a row become a network's input; `channels` numbers, `size` columns."""

    fit: str = "table"
    """Nothing has a size."""
    columns: tuple[Column, ...] = ()
    """Those that are used, in the order of the file's input."""

    def __post_init__(self) -> None:
        if not self.columns or self.channels != sum(len(c.mean) for c in self.columns):
            raise ValueError(f"columns, and a channel for each of their numbers, expected: {self}")

    @property
    def shape(self) -> tuple[int, int]:
        """Sides of the network's input: it has none."""
        return ()  # type: ignore[return-value]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "mean": [], "std": [], "columns": [asdict(c) for c in self.columns]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Columns:
        """The inverse of `to_dict`."""
        names = ("mean", "std", "categories")
        known = []
        for column in values["columns"]:
            tuples = {name: tuple(column[name]) for name in names}
            known.append(Column(**{**column, **tuples}))
        return cls(**{**values, "mean": (), "std": (), "columns": tuple(known)})

    def codes(self, table: Table) -> npt.NDArray[np.float32]:
        """What the file takes for the rows of a table, (N, columns).

        Raises:
            DataError: a column is not there, or a cell that should be a number is none.
        """
        absent = [c.name for c in self.columns if c.name not in table.header]
        if absent:
            raise DataError(
                f"{table.file} has no column {absent[0]!r} ({len(absent)} of "
                f"{len(self.columns)} are absent); its columns are {', '.join(table.header[:12])}: "
                "name them as in training, and leave cells empty that are not known"
            )
        found = np.empty((len(table.rows), len(self.columns)), np.float32)
        for place, column in enumerate(self.columns):
            index = table.header.index(column.name)
            for i, row in enumerate(table.rows):
                value = column.code(row[index])
                if value is None:
                    raise DataError(
                        f"{table.file}, line {table.lines[i]}: {row[index]!r} in column "
                        f"{column.name!r} is no number; correct the cell, or leave it empty"
                    )
                found[i, place] = value
        return found


def fit_columns(table: Table, used: Sequence[str]) -> Columns:
    """Kinds, categories and statistics of columns over the rows of a table.

    Args:
        table: the training rows.
        used: names of the columns, none of which is empty or the same throughout.
    """
    made = []
    for name in used:
        place = table.header.index(name)
        made.append(_fit(name, [row[place] for row in table.rows]))
    channels = sum(len(column.mean) for column in made)
    return Columns(len(made), channels, (), (), columns=tuple(made))


def _fit(name: str, cells: Sequence[str]) -> Column:
    empty = any(number(c) != number(c) if is_number(cells) else is_empty(c) for c in cells)
    if is_categorical(cells):
        counts = Counter(category(cell) for cell in cells if not is_empty(cell))
        known = tuple(sorted(key for key, _ in counts.most_common(MOST)))
        bare = Column(name, (), (), empty, categories=known)
    else:
        values = np.array([number(cell) for cell in cells], np.float64)
        there = values[~np.isnan(values)]
        middle = float(np.median(there)) if len(there) else 0.0
        bare = Column(name, (), (), empty, median=float(np.float32(middle)))
    codes = np.array([bare.code(cell) for cell in cells], np.float64)
    spread = _spread(bare, torch.from_numpy(codes)).numpy()
    mean, std = spread.mean(0), spread.std(0)
    std = np.where(std > 1e-12 * (1 + np.abs(mean)), std, 1.0)
    first, second = (tuple(float(v) for v in part.astype(np.float32)) for part in (mean, std))
    return Column(name, first, second, empty, bare.median, bare.categories)


def is_number(cells: Sequence[str]) -> bool:
    """Whether every cell is a number or empty."""
    return all(number(cell) is not None for cell in cells)


def is_categorical(cells: Sequence[str]) -> bool:
    """Whether a column holds text, or few different integers."""
    if not is_number(cells):
        return True
    values = {v for cell in cells if not math.isnan(v := number(cell) or 0.0)}
    return len(values) <= FEW and all(value.is_integer() for value in values)


def _spread(column: Column, codes: Tensor) -> Tensor:
    """A column's codes (N,) -> its columns in the network's input (N, k), not yet normalised."""
    empty = codes.isnan()
    flags = [empty.to(codes.dtype)] if column.empty else []
    if not column.categories:
        filled = torch.where(empty, torch.full_like(codes, column.median), codes)
        return torch.stack([filled, *flags], 1)
    places = torch.arange(len(column.categories), dtype=codes.dtype)
    hot = (codes[:, None] == places).to(codes.dtype)
    return torch.cat([hot, *(flag[:, None] for flag in flags)], 1)


class TableModule(nn.Module):
    """`Columns` in torch, and in the exported file.

    Shape: float32 (N, columns) -> (N, channels)
    """

    def __init__(self, preprocess: Columns) -> None:
        super().__init__()
        self.columns = preprocess.columns
        for name in ("mean", "std"):
            values = [value for column in self.columns for value in getattr(column, name)]
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Fill, spread and normalise."""
        parts = [_spread(column, rows[:, i]) for i, column in enumerate(self.columns)]
        return (torch.cat(parts, 1) - self.get_buffer("mean")) / self.get_buffer("std")
