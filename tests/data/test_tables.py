"""Tables: what a cell means, what a column becomes, and what is said of tables that are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sinet.data import open_dataset
from sinet.data.columns import Columns, TableModule, fit_columns
from sinet.data.dataset import ImageDataset
from sinet.data.inputs import preprocess_from
from sinet.data.inspection import inspect_dataset
from sinet.data.rows import TableInput, TableSplit
from sinet.data.table import Table, category, number, read_table
from sinet.errors import DataError

HEADER = "age,colour,doors,same,name,label\n"
COLOURS = ("red", "green", "blue")


def line(i: int) -> str:
    age = "" if i % 10 == 3 else str(20 + i * 1.5)
    colour = "?" if i % 15 == 4 else COLOURS[i % 3]
    return f"{age},{colour},{i % 4 + 1},x,person {i},{'yes' if i % 2 else 'no'}\n"


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(text: str = "", name: str = "cars.csv") -> Path:
        path = tmp_path / name
        path.write_text(text or HEADER + "".join(map(line, range(60))), encoding="utf-8")
        return path

    return made


def opened(path: Path) -> ImageDataset:
    return open_dataset(path, task="tabular")


@pytest.mark.parametrize(
    ("cell", "value"), [("3", 3.0), (" -1e3", -1000.0), ("red", None), ("3,5", None)]
)
def test_cells_are_numbers_or_text(cell: str, value: float | None) -> None:
    assert number(cell) == value


@pytest.mark.parametrize("cell", ["", "?", "NA", "NaN", "null", "<null>", "inf", "1e39"])
def test_cells_that_stand_for_nothing(cell: str) -> None:
    value = number(cell)
    assert value is not None
    assert math.isnan(value)


def test_a_category_has_one_name_in_every_file() -> None:
    assert [category(cell) for cell in ("1", "1.0", "1.5", "red")] == ["1", "1", "1.5", "red"]


def test_columns_find_their_kinds(write: Write) -> None:
    data = opened(write())
    assert (data.task, data.format, data.classes) == ("tabular", "table", ["no", "yes"])
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 48, "val": 12}
    assert isinstance(data.train, TableSplit)
    columns = {column.name: column for column in data.train.columns.columns}
    assert list(columns) == ["age", "colour", "doors"]
    assert columns["colour"].categories == ("blue", "green", "red")
    assert columns["doors"].categories == ("1", "2", "3", "4")
    assert columns["age"].categories == ()
    assert [c.empty for c in columns.values()] == [True, True, False]
    assert data.channels == 2 + 4 + 4
    texts = [remark.text for remark in data.remarks]
    assert "column 'same' is 'x' throughout and is left out" in texts
    assert "column 'name' is text that differs from row to row and is left out" in texts


def test_the_same_cut_every_time_and_equal_shares(write: Write) -> None:
    path = write()
    one, other = opened(path), opened(path)
    assert one.val.names == other.val.names
    assert one.val.per_class(2) == [6, 6]
    assert one.fingerprint() == other.fingerprint()
    changed = write((HEADER + "".join(map(line, range(60)))).replace("21.5", "21.6"))
    assert opened(changed).fingerprint() != one.fingerprint()


def by_hand() -> tuple[Table, Columns]:
    rows = [("1.5", "a"), ("3", "b"), ("", "a"), ("8", "")]
    table = Table("t.csv", ("x", "y"), rows, [2, 3, 4, 5])
    return table, fit_columns(table, ["x", "y"])


def test_rows_become_what_is_worked_out_by_hand() -> None:
    table, columns = by_hand()
    codes = columns.codes(table)
    np.testing.assert_array_equal(codes[:, 0], [1.5, 3, np.nan, 8])
    np.testing.assert_array_equal(codes[:, 1], [0, 1, 0, np.nan])
    # the median, whether the cell is empty; a, b, empty
    plain = [[1.5, 0, 1, 0, 0], [3, 0, 0, 1, 0], [3, 1, 1, 0, 0], [8, 0, 0, 0, 1]]
    wanted = (np.array(plain) - np.mean(plain, 0)) / np.std(plain, 0)
    found = TableModule(columns)(torch.from_numpy(codes))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_what_was_not_in_training() -> None:
    _, columns = by_hand()
    new = Table("new.csv", ("z", "y", "x"), [("0", "c", "3"), ("0", "b", "")], [2, 3])
    codes = columns.codes(new)
    np.testing.assert_array_equal(codes, [[3, -1], [np.nan, 1]])
    found = TableModule(columns)(torch.from_numpy(codes)).numpy()
    mean, std = np.array(columns.columns[1].mean), np.array(columns.columns[1].std)
    np.testing.assert_allclose(found[0, 2:], (0 - mean) / std, atol=1e-6)


def test_columns_travel_as_json() -> None:
    _, columns = by_hand()
    assert preprocess_from(columns.to_dict()) == columns


def test_large_numbers_that_hardly_vary_are_remarked(write: Write) -> None:
    rows = "".join(f"{1e9 + i / 10},{i % 2}\n" for i in range(40))
    texts = [remark.text for remark in opened(write("time,label\n" + rows)).remarks]
    assert any("'time' varies by less than 1e-05 of its size; subtract" in text for text in texts)


def test_a_few_odd_cells_in_a_column_of_numbers_are_remarked(write: Write) -> None:
    rows = "".join(f"{'12;5' if i == 7 else i % 20 / 2},{i % 2}\n" for i in range(60))
    texts = [remark.text for remark in opened(write("x,label\n" + rows)).remarks]
    assert any("read as text because of '12;5' in line 9" in text for text in texts)


def test_parquet_and_tabs_read_alike(write: Write, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    table = read_table(write())
    cells = dict(zip(table.header, zip(*table.rows, strict=True), strict=True))
    cells = {name: [cell or None for cell in column] for name, column in cells.items()}
    cells["doors"] = [int(cell) for cell in cells["doors"]]
    pq.write_table(pa.table(cells), tmp_path / "cars.parquet")
    tabs = write("\n".join("\t".join(row) for row in (table.header, *table.rows)), "cars.tsv")
    other = opened(tmp_path / "cars.parquet"), opened(tabs)
    assert [data.train.columns for data in other] == [opened(write()).train.columns] * 2  # type: ignore[attr-defined]


def test_a_folder_of_splits(tmp_path: Path) -> None:
    for name, part in (("train", range(40)), ("val", range(40, 50)), ("test", range(50, 60))):
        (tmp_path / f"{name}.csv").write_text(HEADER + "".join(map(line, part)))
    data = opened(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 40, "val": 10, "test": 10,
    }  # fmt: skip
    (tmp_path / "val.csv").write_text("age,label\n3,yes\n")
    with pytest.raises(DataError, match="differ in the columns 'colour', 'doors'"):
        opened(tmp_path)
    (tmp_path / "more.csv").write_text(HEADER)
    with pytest.raises(DataError, match=r"several tables.*train\.csv, val\.csv and test\.csv"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b,label\n1,2,x\n1,2\n", r"cars.csv, line 3: 2 cells, the header has 3; correct"),
        ("a,a,label\n1,2,x\n", "line 1: the name 'a' twice"),
        ("a\n1\n", "line 1: one column, 'a'"),
        ("a,label\n1,x\n2,x\n", "column 'label' is 'x' throughout; at least two classes"),
        ("a,label\n1,\n2,?\n", "has no row with a label in 'label'"),
        ("a,b,label\n1,2,x\n1,2,y\n1,2,x\n1,2,y\n", "no column to learn from; column 'a' is '1'"),
        ("a,price\n" + "".join(f"{i % 7},{i / 3}\n" for i in range(300)),
         "column 'price' holds 300 different numbers.* this task learns classes: name another"),
    ],
)  # fmt: skip
def test_tables_that_are_wrong(write: Write, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        opened(write(text))


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("a,label\n1,x\n2,grün\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv, line 3 is not UTF-8"):
        opened(path)


def test_the_target_is_named_or_last(write: Write) -> None:
    rows = "".join(f"{i % 2},{i},{i % 3}\n" for i in range(30))
    assert opened(write("class,a,b\n" + rows)).num_classes == 2
    assert opened(write("x,a,b\n" + rows)).class_ids == [0, 1, 2]
    bare = opened(write("class,a,b\n" + rows + ",7,1\n"))
    assert any("1 rows have no label and are left out: 'cars.csv:32'" in r.text
               for r in bare.remarks)  # fmt: skip


def test_what_a_file_is_given(write: Write) -> None:
    split = opened(write()).train
    assert isinstance(split, TableSplit)
    reader = TableInput(split.columns)
    whole = reader.read(write())
    assert whole.shape == (60, 3)
    np.testing.assert_array_equal(reader.load(split, 5), whole[split.lines[5] - 2])
    np.testing.assert_array_equal(reader.read(whole), whole)
    with pytest.raises(DataError, match=r"no column 'colour' \(1 of 3 are absent\)"):
        reader.read(write("age,doors\n1,2\n", "new.csv"))
    with pytest.raises(DataError, match=r"new.csv, line 3: 'old' in column 'age' is no number"):
        reader.read(write("age,colour,doors\n1,red,2\nold,red,2\n", "new.csv"))
    with pytest.raises(DataError, match="no row below its header"):
        reader.read(write("age,colour,doors\n", "new.csv"))
    with pytest.raises(DataError, match=r"takes float32 \(N, 3\)"):
        reader.checked(np.zeros((2, 4), np.float32))


def test_an_inspection_finds_copies_in_two_splits(write: Write) -> None:
    text = HEADER + "".join(map(line, range(60))) + "".join(map(line, range(30)))
    found = inspect_dataset(write(text), task="tabular")
    assert found.leaked
    assert len(found.duplicates) == 30
    assert not found.conflicts
    assert not found.odd
    assert found.data.train.image(0).shape == (48, 48, 3)
