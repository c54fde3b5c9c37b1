"""Data sets of many images in few files: WebDataset shards, Hugging Face sets, large Parquet."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sinet.data import open_dataset
from sinet.data.cache import ImageCache
from sinet.data.readers import parquet as parquet_reader
from sinet.data.slices import Slice
from sinet.errors import DataError

from .test_readers import ALL_SPLITS, check_round_trip
from .writers import Sample, parquet, png, samples


def member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def shards(root: Path, data: Sequence[Sample], each: int = 4, label: str = "cls") -> Path:
    """`each` samples a shard: `train-000.tar`, ..."""
    root.mkdir(parents=True, exist_ok=True)
    for split in dict.fromkeys(sample[0] for sample in data):
        part = [sample for sample in data if sample[0] == split]
        for number in range(-(-len(part) // each)):
            with tarfile.open(root / f"{split}-{number:03}.tar", "w") as tar:
                for i, (_, key, pixels) in enumerate(part[number * each : (number + 1) * each]):
                    said = json.dumps({"label": key, "width": 8}) if label == "json" else str(key)
                    member(tar, f"some/{number}_{i}.png", png(pixels))
                    member(tar, f"some/{number}_{i}.{label}", said.encode())
    return root


def saved(root: Path, data: Sequence[Sample], names: Sequence[str] = ()) -> Path:
    """As the Hugging Face library saves it, test and training split in several files."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    kind = datasets.ClassLabel(names=list(names)) if names else None
    features = datasets.Features({
        "picture": datasets.Image(),
        "label": kind or datasets.Value("int64" if isinstance(data[0][1], int) else "string"),
    })  # fmt: skip
    parts = {}
    for split in dict.fromkeys(sample[0] for sample in data):
        part = [sample for sample in data if sample[0] == split]
        columns = {
            "picture": [{"bytes": png(pixels), "path": None} for _, _, pixels in part],
            "label": [key for _, key, _ in part],
        }
        parts[split] = datasets.Dataset.from_dict(columns, features=features)
    files = dict.fromkeys(parts, 2)
    datasets.DatasetDict(parts).save_to_disk(root, num_shards=files)
    return root


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any Parquet is too large for memory."""
    monkeypatch.setattr(parquet_reader, "IN_MEMORY", 0)


@pytest.mark.parametrize("label", ["cls", "json"])
@pytest.mark.parametrize("ids", [["b", "A", "zwölf Katzen", "c++"], [10, 2, 255, 0]])
def test_shards_come_back(label: str, ids: list[int | str], tmp_path: Path) -> None:
    check_round_trip(shards(tmp_path, samples(ids, ALL_SPLITS), label=label), ids)


@pytest.mark.parametrize("ids", [["b", "A", "c++"], [10, 2, 0]])
def test_saved_sets_come_back(ids: list[int | str], tmp_path: Path) -> None:
    check_round_trip(saved(tmp_path / "set", samples(ids, ALL_SPLITS)), ids)


@pytest.mark.usefixtures("large")
def test_large_parquet_comes_back_from_a_copy(tmp_path: Path, cache_folder: Path) -> None:
    ids: list[int | str] = [10, 2, 0]
    root = parquet(tmp_path, samples(ids, ALL_SPLITS))
    for _ in range(2):
        check_round_trip(root, ids)
        copies = list((cache_folder / "sinet/datasets").glob("*.arrow"))
        assert len(copies) == 3
    data = open_dataset(root)
    assert {item.file for item in data.train.items} < set(copies)


def test_shards_of_the_webdataset_library(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "train-0.tar")) as sink:
        for i in range(8):
            image = np.full((8, 8, 3), 20 * i, np.uint8)
            sink.write({"__key__": f"a.b/{i:04}", "png": image, "cls": i % 2, "txt": "a caption"})
    data = open_dataset(tmp_path)
    assert data.format == "WebDataset shards"
    assert data.class_ids == [0, 1]
    assert sorted(int(split.image(i)[0, 0, 0]) for split in data.splits.values()
                  for i in range(len(split))) == [20 * i for i in range(8)]  # fmt: skip


def test_names_of_classes_come_from_the_features(tmp_path: Path) -> None:
    data = open_dataset(saved(tmp_path / "set", samples([0, 1], ALL_SPLITS), ["cat", "dog"]))
    assert (data.classes, data.class_ids) == (["cat", "dog"], [0, 1])
    assert data.format == "Hugging Face"


def test_a_set_without_splits_is_cut(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    root = saved(tmp_path / "set", samples([0, 1], ["train"], 9))
    data = open_dataset(root / "train")  # a Dataset, not a DatasetDict
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 14, "val": 4}
    assert len(datasets.load_from_disk(root / "train")) == 18


@pytest.mark.parametrize("write", [shards, saved])
def test_no_image_is_kept_in_memory(write: object, tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path / "set", samples([0, 1], ALL_SPLITS)))  # type: ignore[operator]
    assert all(isinstance(item, Slice) for split in data.splits.values() for item in split.items)
    assert len(pickle.dumps(data.train.items[0])) < 500
    assert data.fingerprint() == open_dataset(tmp_path / "set").fingerprint()
    assert data.train.form(0) == "L"


@pytest.mark.parametrize("write", [shards, saved])
def test_a_file_that_vanishes_in_mid_epoch_is_named(write: object, tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path / "set", samples([0, 1], ALL_SPLITS, 20)))  # type: ignore[operator]
    cache = ImageCache(data.train, 8, 1)
    cache._images.store = None  # as if the images were too many to be kept
    cache.batch([0, 1])
    gone = data.train.items[0].file
    gone.unlink()
    with pytest.raises(DataError) as caught:
        cache.batch([2, 0])
    assert str(gone) in str(caught.value)
    assert "bring the file back" in str(caught.value)
    gone.write_bytes(b"another")
    with pytest.raises(DataError, match=r"it is shorter than it was"):
        data.train.image(0)


def test_a_broken_image_in_a_shard_is_left_out(tmp_path: Path) -> None:
    shards(tmp_path, samples([0, 1], ALL_SPLITS, 40))
    with tarfile.open(tmp_path / "train-999.tar", "w") as tar:
        member(tar, "x.jpg", b"broken")
        member(tar, "x.cls", b"1")
        member(tar, "y.cls", b"1")
        member(tar, "notes.txt", b"mine")
    data = open_dataset(tmp_path)
    assert len(data.train) == 80
    assert data.skipped == [("train-999.tar/x", "not an image of a known format")]
    assert any("2 samples lack the image or the label" in r.text for r in data.remarks)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_a_shard_cut_short(share: float, tmp_path: Path) -> None:
    shards(tmp_path, samples([0, 1], ALL_SPLITS, 8), each=16)
    shard = tmp_path / "val-000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(share * len(content)) // 512 * 512])
    with pytest.raises(DataError, match=r"val-000.tar is not a whole tar file .* get it again"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b"{", "is not text or not JSON"),
        ("a.cls", b"\xff\xfe", "is not text"),
        ("a.json", b'{"label": [1]}', "label [1], which is no class"),
        ("a.cls", b"cat", "labels are numbers and texts"),
    ],
)
def test_labels_that_cannot_be_understood(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    shards(tmp_path, samples([0, 1], ["train"]))
    with tarfile.open(tmp_path / "train-999.tar", "w") as tar:
        member(tar, "a.png", png(np.zeros((8, 8), np.uint8)))
        member(tar, name, content)
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    assert says in str(caught.value)


def test_hidden_labels_are_left_out(tmp_path: Path) -> None:
    shards(tmp_path, samples([0, 1], ["train", "val"]))
    shards(tmp_path, samples([-1], ["test"]))
    data = open_dataset(tmp_path)
    assert set(data.splits) == {"train", "val"}


def test_tars_that_are_no_shards_are_not_taken_for_some(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "n01440764.tar", "w") as tar:
        member(tar, "n01440764_10026.JPEG", b"...")
        member(tar, "n01440764_10027.JPEG", b"...")
    with pytest.raises(DataError, match="is not a data set"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("dataset_dict.json", "dataset_dict.json is missing or damaged"),
        ("train/state.json", r"train/state.json is missing or damaged"),
        ("train/data-00000-of-00002.arrow", "is not a whole Arrow file .* save it again"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\xff\x10\x00\x00\x00"])
def test_damaged_saved_sets(file: str, says: str, content: bytes, tmp_path: Path) -> None:
    root = saved(tmp_path / "set", samples([0, 1], ALL_SPLITS))
    (root / file).write_bytes(content)
    with pytest.raises(DataError, match=says):
        open_dataset(root)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_an_arrow_file_cut_short(share: float, tmp_path: Path) -> None:
    root = saved(tmp_path / "set", samples([0, 1], ALL_SPLITS))
    file = root / "train/data-00000-of-00002.arrow"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="is not a whole Arrow file"):
        open_dataset(root)
