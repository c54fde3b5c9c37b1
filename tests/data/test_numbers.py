"""Pictures of numbers: drawn ones, their table, and SVHN's own file."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sinet.data.dataset import open_dataset
from sinet.data.numbers import written
from sinet.data.readers import read_any
from sinet.data.street_numbers import draw_number, fonts, random_number, write_numbers
from sinet.errors import DataError, UsageError


def test_drawn_numbers_follow_from_the_seed(tmp_path: Path) -> None:
    one, other = (write_numbers(tmp_path / name, 40, seed=3) for name in "ab")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 40 + 3
    assert all((one / f).read_bytes() == (other / f).read_bytes() for f in files)
    data = open_dataset(one)
    assert (data.task, data.format, data.multilabel) == ("digits", "pictures of numbers", True)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 32, "val": 4, "test": 4,
    }  # fmt: skip
    line = (one / "val" / "numbers.csv").read_text().splitlines()[1]
    assert line == f"000000.jpg,{written(data.val.targets[0].read())}"


def test_pictures_are_varied_and_can_be_told_from_their_wall() -> None:
    rng = np.random.default_rng(0)
    faces = fonts()
    shapes = set()
    for _ in range(12):
        picture = draw_number(random_number(rng), rng, faces)
        shapes.add(picture.shape)
        assert picture.dtype == np.uint8
        assert picture.std() > 8
    assert len(shapes) > 6


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,text\n1.png,3\n", "has the columns file, text; name and number expected"),
        ("name,number\n1.png,12a\n", "line 2: '12a' is no number"),
        ("name,number\n1.png,3\n2.png,4\n", r"line 3: there is no .*2\.png"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, table: str, message: str) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    (tmp_path / "numbers.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, task="digits")


def svhn(root: Path) -> dict[str, Any]:
    """Pictures of two numbers, and what h5py would find in their digitStruct.mat."""
    rng = np.random.default_rng(0)
    stored: dict[str, Any] = {}

    def put(value: Any) -> str:
        stored[f"ref{len(stored)}"] = value
        return f"ref{len(stored) - 1}"

    names, boxes = [], []
    places = [{"label": [1, 10], "left": [20, 30], "top": [10, 12], "width": [8, 8],
               "height": [20, 20]},
              {"label": [7], "left": [2], "top": [1], "width": [10], "height": [20]}]  # fmt: skip
    (root / "train").mkdir(parents=True)
    for i, place in enumerate(places, start=1):
        image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "train" / f"{i}.png")
        names.append([put(np.array([[ord(c)] for c in f"{i}.png"]))])
        entry = {
            key: np.array([[float(v[0])]]) if len(v) == 1 else [[put([[float(x)]])] for x in v]
            for key, v in place.items()
        }
        boxes.append([put(entry)])
    (root / "train" / "digitStruct.mat").write_bytes(b"\x89HDF")
    stored["digitStruct"] = {"name": names, "bbox": boxes}
    return stored


class File(dict[str, Any]):
    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sinet.data.readers import svhn as reader

    fake = SimpleNamespace(File=lambda path, mode: File(svhn_data))
    svhn_data = svhn(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", fake)
    assert reader.detect(tmp_path)
    data = reader.read(tmp_path)
    split = data.splits["train"]
    assert [number.digits for number in split.targets] == [(1, 0), (7,)]
    assert split.labels.sum() == 3
    whole = np.asarray(Image.open(tmp_path / "train" / "1.png"))
    # the box is 10..32 by 20..38; three tenths more are 3.3 and 2.7 on each side
    assert (split.image(0) == whole[7:35, 17:41]).all()
    assert split.image(1).shape == (24 - 0, 14 - 0, 3)  # cut off at the border of the picture
    assert len(split.subset(np.array([1])).views) == 1


def matlab(path: Path, stored: dict[str, Any]) -> None:
    """Write what `svhn` gives as MATLAB 7.3 does: HDF5 behind 512 bytes, entries by reference."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        kept = file.create_group("#refs#")

        def ref(name: str) -> Any:
            value = stored[name]
            if name not in kept:
                if isinstance(value, dict):
                    group = kept.create_group(name)
                    for key, entry in value.items():
                        group[key] = entries(entry)
                else:
                    codes = isinstance(value, np.ndarray)
                    kept.create_dataset(name, data=value, dtype=np.uint16 if codes else np.float64)
            return kept[name].ref

        def entries(rows: Any) -> np.ndarray:
            if isinstance(rows, np.ndarray):  # one number, stored as it is
                return rows
            return np.array([[ref(row[0])] for row in rows], dtype=h5py.ref_dtype)

        for key in ("name", "bbox"):
            file[f"digitStruct/{key}"] = entries(stored["digitStruct"][key])
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(128))


def test_svhn_as_matlab_writes_it(tmp_path: Path) -> None:
    stored = svhn(tmp_path)
    table = tmp_path / "train/digitStruct.mat"
    matlab(table, stored)
    data = read_any(tmp_path)
    assert (data.format, data.task) == ("SVHN format 1", "digits")
    split = data.splits["train"]
    assert split.names == ["train/1.png", "train/2.png"]
    assert [number.digits for number in split.targets] == [(1, 0), (7,)]
    whole = np.asarray(Image.open(tmp_path / "train" / "1.png"))
    assert (split.image(0) == whole[7:35, 17:41]).all()
    assert split.image(1).shape == (24, 14, 3)
    content = table.read_bytes()
    table.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"no whole digitStruct\.mat \(.*; get it again"):
        open_dataset(tmp_path)
    stored["digitStruct"]["bbox"][0] = stored["digitStruct"]["name"][0]
    matlab(table, stored)  # a box that holds no numbers
    with pytest.raises(DataError, match=r"no whole digitStruct\.mat \(.*; get it again"):
        open_dataset(tmp_path)


def test_svhn_without_h5py_and_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svhn(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"h5py, which reads those, .* 'sinet\[digits\]'"):
        open_dataset(tmp_path)

    def fails(path: Path, mode: str) -> File:
        raise OSError("file signature not found")

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=fails))
    with pytest.raises(DataError, match=r"no whole digitStruct\.mat \(file signature"):
        open_dataset(tmp_path)
