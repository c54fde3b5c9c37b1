"""Rows of tables: as samples of a split, as the input of a file, and as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from sinet.data.columns import STRANGE, Array, Columns, TableModule, fit_columns
from sinet.data.dataset import Split
from sinet.data.image import Pixels
from sinet.data.inputs import Input
from sinet.data.preprocess import Preprocess
from sinet.data.table import SUFFIXES, Row, Table, read_table
from sinet.errors import DataError

CELL = 24  # pixels of a picture's side for each cell


@dataclass(eq=False)
class TableSplit(Split):
    """Rows of a table; the pictures of `items` are digests of the rows, which show copies."""

    file: str = ""
    header: Row = ()
    rows: Sequence[Row] = ()
    lines: Sequence[int] = ()
    used: Sequence[str] = ()
    """Names of the columns to learn from."""

    def subset(self, indices: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> TableSplit:
        """The rows at these positions (or where a mask is true), in this order."""
        made = super().subset(indices)
        assert isinstance(made, TableSplit)
        chosen = np.arange(len(self))[indices]
        made.rows, made.lines = [self.rows[i] for i in chosen], [self.lines[i] for i in chosen]
        return made

    def table(self, *indices: int) -> Table:
        """All rows, or these."""
        chosen = indices or range(len(self))
        rows, lines = [self.rows[i] for i in chosen], [self.lines[i] for i in chosen]
        return Table(self.file, self.header, rows, lines)

    @cached_property
    def columns(self) -> Columns:
        """Statistics of these rows."""
        return fit_columns(self.table(), self.used)

    def image(self, i: int, channels: int | None = None, at_least: int | None = None) -> Pixels:
        """A square a cell: blue below the mean, red above it."""
        return drawn_row(self.columns, self.columns.codes(self.table(i))[0])

    def form(self, i: int) -> str:
        """All rows are alike."""
        return "row"

    def found_channels(self) -> int:
        """Numbers of the network's input."""
        return self.columns.channels


class TableInput(Input):
    """Rows: float32 (N, columns) as the module's description says; a source is a table of them.

    Args:
        preprocess: how they become the network's input.
    """

    in_graph = True
    needs = ""
    sample, samples = "new.csv", "new/*.csv"

    def __init__(self, preprocess: Preprocess) -> None:
        assert isinstance(preprocess, Columns)
        self.preprocess = preprocess

    def read(self, source: Any) -> npt.NDArray[np.float32]:
        """Codes (N, columns) of a file, or an array of them."""
        if isinstance(source, np.ndarray):
            return np.asarray(self.checked(source[None])[0])
        table = read_table(Path(source))
        if not table.rows:
            raise DataError(f"{source} has no row below its header; give some")
        return self.preprocess.codes(table)

    def load(self, split: Split, i: int) -> npt.NDArray[np.float32]:
        """Codes (columns,) of a row."""
        assert isinstance(split, TableSplit)
        return np.asarray(self.preprocess.codes(split.table(i))[0])

    def stack(self, samples: Sequence[Any]) -> Array:
        """(N, columns), or (N, rows, columns) of whole tables."""
        return np.stack(samples)

    def checked(self, samples: Any) -> npt.NDArray[np.float32]:
        """Codes float32 (N, columns) or (N, rows, columns)."""
        rows, wide = np.asarray(samples), len(self.preprocess.columns)
        if rows.ndim not in (2, 3) or rows.shape[-1] != wide or rows.dtype.kind != "f":
            raise DataError(
                f"rows of shape {rows.shape} and type {rows.dtype} given; this model takes float32 "
                f"(N, {wide}); `predict` reads tables into that"
            )
        return np.ascontiguousarray(rows, np.float32)

    def feed(self, sample: Any) -> Array:
        """The first row."""
        first: Array = np.reshape(sample, (-1, len(self.preprocess.columns)))[:1]
        return first

    def example(self, sides: Sequence[int]) -> Array:
        """Zeros, which are the first category of every column that has some."""
        return self.blank(1).numpy()

    def blank(self, count: int) -> Tensor:
        """Rows of zeros."""
        return torch.zeros(count, len(self.preprocess.columns))

    def front(self) -> nn.Module:
        """`TableModule`."""
        return TableModule(self.preprocess).eval()

    def picture(self, sample: Any) -> Pixels:
        """A square a cell."""
        return drawn_row(self.preprocess, self.feed(sample)[0])

    def inside(self, folder: Path) -> list[Path]:
        """The tables in a folder."""
        return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)

    def conditions(self) -> dict[str, Any]:
        """How many columns of which kind there are."""
        kinds = [[len(c.categories), c.empty] for c in self.preprocess.columns]
        return {"columns": kinds}

    @property
    def described(self) -> str:
        """Rows of numbers and codes."""
        names = ", ".join(f"`{column.name}`" for column in self.preprocess.columns)
        return (
            f"float32 (N, {len(self.preprocess.columns)}): {names}; of text the place of the "
            "category (`preprocess.columns` in the file's metadata), NaN for an empty cell, "
            f"{STRANGE:g} for another category"
        )

    @property
    def prepared(self) -> str:
        """What the nodes before the network do."""
        return (
            "Empty numbers become the median of the training rows, and a column says so; every "
            "category has a column of 0 and 1, one that was not in training has none; each column "
            "minus its mean, divided by its deviation."
        )


def drawn_row(columns: Columns, codes: npt.NDArray[np.float32]) -> Pixels:
    """A row as a picture: a square a cell, blue below the mean, red above it, white at it."""
    with torch.no_grad():
        values = TableModule(columns)(torch.from_numpy(codes)[None])[0].numpy()
    ends = np.cumsum([len(column.mean) for column in columns.columns])
    cells = [part[np.abs(part).argmax()] for part in np.split(values, ends[:-1])]
    side = math.ceil(math.sqrt(len(cells)))
    grid = np.zeros((side, side), np.float32)
    grid.flat[: len(cells)] = np.clip(np.array(cells) / 2, -1, 1)
    colours = np.stack([1 + np.minimum(grid, 0), 1 - np.abs(grid), 1 - np.maximum(grid, 0)], 2)
    small = Image.fromarray((255 * colours).astype(np.uint8))
    wide = small.resize((CELL * side, CELL * side), Image.Resampling.NEAREST)
    return np.asarray(wide)
