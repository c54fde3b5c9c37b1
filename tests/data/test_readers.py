"""Class names and ids come back unchanged from every format; every format's errors are clear."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinet.data import open_dataset, read_image
from sinet.data.readers import readers
from sinet.data.readers._layout import SPLITS
from sinet.errors import DataError, UsageError

from .writers import (
    WITH_INTEGER_IDS,
    WITH_TEXT_IDS,
    folders,
    idx,
    parquet,
    png,
    samples,
    table,
)

ALL_SPLITS = ("train", "val", "test")

# What folders of every system and cells of every CSV can hold.
class_names = st.text(
    st.characters(categories=("L", "N"), include_characters=" -_+()&'\"", max_codepoint=0xFFFF),
    min_size=1,
    max_size=12,
).filter(lambda name: name == name.strip() and name.lower() not in SPLITS)


def check_round_trip(root: Path, ids: list[int | str], each: int = 3) -> None:
    data = open_dataset(root)
    assert data.class_ids == sorted(ids)
    assert data.classes == [str(key) for key in sorted(ids)]
    assert {name: len(split) for name, split in data.splits.items()} == dict.fromkeys(
        ALL_SPLITS, each * len(ids)
    )
    for split, key, pixels in samples(ids, ALL_SPLITS, each):
        part = data.splits[split]
        same = [i for i in range(len(part)) if np.array_equal(part.image(i, 1)[..., 0], pixels)]
        assert [data.class_ids[part.labels[i]] for i in same] == [key]
    assert (data.channels, data.multilabel, data.skipped) == (1, False, [])
    assert str(len(ids)) in data.remarks[0].text


@pytest.mark.parametrize("kind", WITH_TEXT_IDS)
def test_text_ids_come_back(kind: str, tmp_path: Path) -> None:
    ids = ["b", "A", "zwölf Katzen", "007", "c++"]
    check_round_trip(WITH_TEXT_IDS[kind](tmp_path, samples(ids, ALL_SPLITS)), ids)


@pytest.mark.parametrize("kind", WITH_INTEGER_IDS)
def test_integer_ids_come_back(kind: str, tmp_path: Path) -> None:
    ids = [10, 2, 255, 0]
    check_round_trip(WITH_INTEGER_IDS[kind](tmp_path, samples(ids, ALL_SPLITS)), ids)


@pytest.mark.parametrize("kind", ["folders", "csv", "parquet"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ids=st.lists(class_names, min_size=2, max_size=4, unique_by=str.lower))
def test_any_class_name_comes_back(
    kind: str, ids: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if kind == "csv" and all(name.isdecimal() for name in ids):
        ids = [f"{name}x" for name in ids]  # plain integers come back as integers
    root = WITH_TEXT_IDS[kind](tmp_path_factory.mktemp("any"), samples(ids, ALL_SPLITS, 1))
    check_round_trip(root, list(ids), 1)


@pytest.mark.parametrize("kind", ["csv", "parquet", "idx"])
@settings(max_examples=10, deadline=None)
@given(ids=st.lists(st.integers(0, 255), min_size=2, max_size=4, unique=True))
def test_any_integer_id_comes_back(
    kind: str, ids: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = WITH_INTEGER_IDS[kind](tmp_path_factory.mktemp("any"), samples(ids, ALL_SPLITS, 1))
    check_round_trip(root, list(ids), 1)


def test_every_reader_says_what_it_is() -> None:
    classes = ["CSV", "class folders", "Hugging Face", "IDX files", "Parquet", "WebDataset shards"]
    formats = [r.FORMAT for r in readers()]
    assert formats[-6:] == classes, "content with less, so they come last"
    assert len(set(formats)) == len(formats)
    masks = ["archive", "COCO panoptic or stuff", "mask folders"]
    assert [r.FORMAT for r in readers("segment")] == masks
    assert [r.FORMAT for r in readers("volume")] == ["archive", "decathlon list", "volume folders"]
    assert [r.FORMAT for r in readers("hyperspectral")] == ["archive", "hyperspectral scenes"]
    assert all(reader.EXPECTS for reader in readers())


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "dev"])
def test_other_names_of_splits(name: str, tmp_path: Path) -> None:
    data = samples(["a", "b"], ALL_SPLITS)
    root = folders(tmp_path, data, {"val": name, "test": "testing", "train": "Training"})
    assert set(open_dataset(root).splits) == set(ALL_SPLITS)


def test_folders_list_images_below_and_name_what_they_ignore(tmp_path: Path) -> None:
    """Tiny ImageNet's `train/n01443537/images/`, notes of the owner, hidden files."""
    data = samples(["a", "b"], ("train", "val"))
    root = folders(tmp_path, data, {"train": "train", "val": "val"})
    for key in "ab":
        inner = root / "train" / key / "images"
        inner.mkdir()
        for path in (root / "train" / key).glob("*.png"):
            path.rename(inner / path.name)
    (root / "val" / "a" / "notes.txt").write_text("mine")
    (root / "val" / "a" / "._0.png").write_bytes(b"junk of macOS")
    opened = open_dataset(root)
    assert len(opened.train) == len(opened.val) == 6
    assert opened.train.names[0].startswith("train/a/images/")
    assert any("1 .txt" in remark.text for remark in opened.remarks)


def test_wrapped_folders_are_found(tmp_path: Path) -> None:
    folders(tmp_path / "a" / "b", samples(["x", "y"], ALL_SPLITS))
    (tmp_path / "README.md").write_text("about")
    assert open_dataset(tmp_path).classes == ["x", "y"]


def test_idx_names_from_a_file(tmp_path: Path) -> None:
    idx(tmp_path, samples([0, 2], ("train", "test")))
    (tmp_path / "labels.txt").write_text("shirt\nsock\nT-shirt/top\n")
    data = open_dataset(tmp_path)
    assert (data.classes, data.class_ids) == (["shirt", "T-shirt/top"], [0, 2])


def test_parquet_names_from_the_schema(tmp_path: Path) -> None:
    parquet(tmp_path, samples([0, 2], ("train", "test")), ["cat", "dog", "bird"])
    data = open_dataset(tmp_path)
    assert (data.classes, data.class_ids) == (["cat", "bird"], [0, 2])
    assert data.empty_classes == ["dog"]


def test_parquet_rows_without_label_are_left_out(tmp_path: Path) -> None:
    parquet(tmp_path, [*samples([0, 1], ("train",)), *samples([-1], ("test",))])
    data = open_dataset(tmp_path)
    assert set(data.splits) == {"train", "val"}
    (said,) = [remark for remark in data.remarks if "rows have no label" in remark.text]
    assert said.text.startswith("3 rows have no label and are left out: 'test-00000-of-00001.parq")
    assert read_image(said.spots[2].item, 1)[1, 0, 0] == 2  # the third of the test pictures


def test_parquet_lists_are_several_labels(tmp_path: Path) -> None:
    data = [("train", [i % 2, 2], pixels) for i, (_, _, pixels) in
            enumerate(samples(range(3), ("train",), 4))]  # fmt: skip
    opened = open_dataset(parquet(tmp_path, data))
    assert (opened.multilabel, opened.class_ids) == (True, [0, 1, 2])
    assert (opened.train.labels[:, 2] == 1).all()


@pytest.mark.parametrize("separator", ["|", ";", " | "])
def test_several_labels_in_a_cell(separator: str, tmp_path: Path) -> None:
    cells = [separator.join(pair) for pair in (("cat", "dog"), ("dog", "sofa"))] + ["cat", ""]
    write_table(tmp_path, ["image", "tags"], [[f"{i}.png", c] for i, c in enumerate(cells * 3)])
    data = open_dataset(tmp_path)
    assert (data.multilabel, data.classes) == (True, ["cat", "dog", "sofa"])
    both = {*zip(data.train.names, map(tuple, data.train.labels.tolist()), strict=True),
            *zip(data.val.names, map(tuple, data.val.labels.tolist()), strict=True)}  # fmt: skip
    assert {("0.png", (1, 1, 0)), ("1.png", (0, 1, 1)), ("3.png", (0, 0, 0))} <= both


def test_one_hot_columns_keep_their_order(tmp_path: Path) -> None:
    rows = [[f"{i}.png", i % 2, "1", (i + 1) % 2] for i in range(8)]
    write_table(tmp_path, ["filename", "zebra", "ant", "mole"], rows)
    data = open_dataset(tmp_path / "list.csv")
    assert (data.multilabel, data.class_ids) == (True, ["zebra", "ant", "mole"])
    assert (data.train.labels[:, 1] == 1).all()
    assert (data.train.labels[:, 0] + data.train.labels[:, 2] == 1).all()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_and_byte_order_mark(delimiter: str, tmp_path: Path) -> None:
    rows = [[f"{i}.png", "ab"[i % 2]] for i in range(8)]
    write_table(tmp_path, ["Path", "Label"], rows, delimiter, "utf-8-sig")
    assert open_dataset(tmp_path).class_ids == ["a", "b"]


def test_one_table_a_split_and_an_unlabelled_test_list(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        write_table(tmp_path, ["path", "label"], [[f"{i}.png", "ab"[i % 2]] for i in range(8)])
        (tmp_path / "list.csv").rename(tmp_path / f"{name}.csv")
    (tmp_path / "test.csv").write_text("path\n0.png\n")
    assert {k: len(v) for k, v in open_dataset(tmp_path).splits.items()} == {"train": 8, "val": 8}


def write_table(
    root: Path, header: list[str], rows: list[list], delimiter: str = ",", encoding: str = "utf-8"
) -> Path:
    """`list.csv` and the pictures that it names in its first column."""
    lines = [delimiter.join(map(str, row)) for row in [header, *rows]]
    (root / "list.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    for i, row in enumerate(rows):
        (root / row[0]).write_bytes(png(np.full((8, 8), 7 * i, np.uint8)))
    return root


ROWS = [["0.png", "a"], ["1.png", "b"], ["2.png", "a"], ["3.png", "b"]]
BAD_TABLES = {
    "no path column": (["id", "label"], ROWS, "no path column; its columns are id, label; expect"),
    "no label column": (["path", "x", "y"], [[*r, "c"] for r in ROWS], "no label column"),
    "only paths": (["path"], [r[:1] for r in ROWS], "no label column"),
    "no rows": (["path", "label"], [], "no row below its header"),
    "short row": (["path", "label"], [*ROWS, ["4.png"]], "line 6: 1 cells, the header 2"),
    "empty label": (["path", "label"], [*ROWS, ["4.png", ""]], "'4.png' has no label"),
    "unknown split": (["path", "label", "split"], [[*r, "holdout"] for r in ROWS],
                      "line 2: split 'holdout'; expected train, val or test"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_bad_tables(kind: str, tmp_path: Path) -> None:
    header, rows, message = BAD_TABLES[kind]
    write_table(tmp_path, header, rows)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "list.csv")


def test_table_with_missing_files_lists_them(tmp_path: Path) -> None:
    write_table(tmp_path, ["path", "label"], ROWS)
    (tmp_path / "2.png").unlink()
    with pytest.raises(
        DataError, match=r"1 of 4 images cannot be read(.|\n)*2\.png: the file does"
    ):
        open_dataset(tmp_path)


def test_several_tables_that_are_no_splits(tmp_path: Path) -> None:
    write_table(tmp_path, ["path", "label"], ROWS)
    (tmp_path / "other.csv").write_text("path,label\n0.png,a\n")
    with pytest.raises(DataError, match=r"several CSV files \(list.csv, other.csv\); expected one"):
        open_dataset(tmp_path)


def test_table_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("path,label\n0.png,Käse\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        open_dataset(tmp_path)


def idx_cut_short(root: Path) -> None:
    path = root / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])


def idx_damaged_gzip(root: Path) -> None:
    path = root / "train-images-idx3-ubyte"
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()


def idx_without_labels(root: Path) -> None:
    (root / "train-labels-idx1-ubyte").unlink()


def idx_labels_of_another(root: Path) -> None:
    idx(root / "other", samples([0, 1], ("train",), 2))
    (root / "other" / "train-labels-idx1-ubyte").replace(root / "train-labels-idx1-ubyte")


def idx_too_few_names(root: Path) -> None:
    (root / "classes.txt").write_text("only one\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (idx_cut_short, "is not a whole IDX file"),
        (idx_damaged_gzip, "is not a whole IDX file"),
        (idx_without_labels, "has no label file beside it; expected train-labels-idx1-ubyte"),
        (idx_labels_of_another, "has 6 images but its label file 4 labels"),
        (idx_too_few_names, r"label 1 has no line in the file of class names \(1 lines\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_idx(damage: object, message: str, tmp_path: Path) -> None:
    damage(idx(tmp_path, samples([0, 1], ("train",))))  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "label": [0]}, "no image column .*its columns are text, label"),
        ({"image": [b"x"], "size": [1]}, "no label column .*its columns are image, size"),
        ({"image": [b"x"], "label": [0.5]}, "labels of type float; expected integers or texts"),
        ({"image": [b"x"], "label": [None]}, "no row has an image and a label"),
    ],
    ids=["no image", "no label", "float label", "no value"],
)
def test_bad_parquet(columns: dict, message: str, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing of use")
    with pytest.raises(DataError, match="is not a whole Parquet file"):
        open_dataset(tmp_path / "x.parquet")


def test_parquet_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path, samples([0, 1], ("train",)))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'sinet\[parquet\]'"):
        open_dataset(tmp_path)


def test_csv_and_folders_together_are_said_aloud(tmp_path: Path) -> None:
    table(tmp_path, samples(["a", "b"], ("train", "val")))
    folders(tmp_path, samples(["c", "d"], ("train",)))
    data = open_dataset(tmp_path)
    assert data.classes == ["a", "b"]
    assert any("it also looks like class folders" in remark.text for remark in data.remarks)
