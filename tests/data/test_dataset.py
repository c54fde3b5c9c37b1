"""Opening: what is refused and why, what is skipped, how validation samples are cut."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinet.data import Split, open_dataset
from sinet.data.image import ImageError
from sinet.data.splitting import stratified
from sinet.errors import DataError, UsageError

from .writers import folders, idx, png, samples


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    share=st.floats(0.05, 0.9),
    seed=st.integers(0, 10),
)
def test_the_cut_is_stratified_and_repeatable(counts: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    held_out = stratified(labels, share, seed)
    for label, count in enumerate(counts):
        members = held_out[labels == label]
        assert not members.all()
        assert members.any() or count == 1
        assert abs(members.sum() - share * count) <= 1
    assert np.array_equal(held_out, stratified(labels, share, seed))


def test_another_seed_cuts_otherwise() -> None:
    labels = np.repeat(np.arange(3), 40)
    assert not np.array_equal(stratified(labels, 0.2, 0), stratified(labels, 0.2, 1))


@given(data=st.data(), columns=st.integers(1, 5), rows=st.integers(2, 40))
def test_with_several_labels_each_stays_in_training(
    data: st.DataObject, columns: int, rows: int
) -> None:
    bits = data.draw(st.lists(st.integers(0, 1), min_size=rows * columns, max_size=rows * columns))
    labels = np.array(bits, dtype=np.float32).reshape(rows, columns)
    held_out = stratified(labels, 0.3, 0)
    assert np.array_equal(labels.any(0), labels[~held_out].any(0))


def test_one_folder_is_cut_alike_every_time(tmp_path: Path) -> None:
    root = folders(tmp_path, samples(["a", "b"], ("train",), 20)) / "train"
    first, again = open_dataset(root, val_share=0.25), open_dataset(root, val_share=0.25)
    assert first.val.names == again.val.names
    assert first.fingerprint() == again.fingerprint()
    assert Counter(first.val.labels.tolist()) == {0: 5, 1: 5}
    assert not set(first.val.names) & set(first.train.names)
    assert first.test is first.val
    other = open_dataset(root, val_share=0.25, seed=1)
    assert other.val.names != first.val.names
    assert other.fingerprint() != first.fingerprint()


@pytest.mark.parametrize(("images", "held_out"), [(40, 8), (3600, 600)])
def test_the_share_shrinks_with_the_data(images: int, held_out: int, tmp_path: Path) -> None:
    """A fifth of few images; 10 sqrt(n) of many, which is enough to tell models apart."""
    pixels = np.zeros((8, 8), np.uint8)
    root = idx(tmp_path, [("train", i % 2, pixels) for i in range(images)])
    assert len(open_dataset(root).val) == held_out
    assert len(open_dataset(root, val_share=0.5).val) == images // 2


def test_the_test_split_is_never_used_for_choosing(tmp_path: Path) -> None:
    data = open_dataset(folders(tmp_path, samples(["a", "b"], ("train", "test"), 10)))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 16,
        "val": 4,
        "test": 20,
    }
    assert all(name.startswith("test/") for name in data.test.names)
    assert any("held out, stratified, seed 0" in remark.text for remark in data.remarks)


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    root = folders(tmp_path, samples(["a", "b"], ("train", "val")))
    before = open_dataset(root).fingerprint()
    path = next((root / "val" / "a").iterdir())
    path.write_bytes(png(np.random.default_rng(0).integers(0, 256, (30, 30), np.uint8)))
    assert open_dataset(root).fingerprint() != before


def test_fingerprint_follows_the_pixels_of_arrays(tmp_path: Path) -> None:
    root = idx(tmp_path, samples([0, 1], ("train", "val")))
    before = open_dataset(root).fingerprint()
    path = root / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert open_dataset(root).fingerprint() != before


def test_a_split_is_a_sequence(tmp_path: Path) -> None:
    data = open_dataset(folders(tmp_path, samples(["a", "b"], ("train", "val"))))
    assert isinstance(data.train, Split)
    image, label = data.train[-1]
    assert (image.shape, int(label), len(list(data.train))) == ((8, 8, 1), 1, 6)
    assert data.train.image(0, 3).shape == (8, 8, 3)
    some = data.train.subset(np.array([4, 0]))
    assert some.names == [data.train.names[4], data.train.names[0]]
    with pytest.raises(IndexError):
        data.train[6]


def test_colour_is_noticed(tmp_path: Path) -> None:
    data = samples(["a", "b"], ("train", "val"))
    colour = [(s, k, np.stack([p, p, 255 - p], 2)) for s, k, p in data]
    grey = [(s, k, np.stack([p] * 3, 2)) for s, k, p in data]
    assert open_dataset(folders(tmp_path / "colour", colour)).channels == 3
    assert open_dataset(folders(tmp_path / "grey", grey)).channels == 1


def test_to_dict_is_plain(tmp_path: Path) -> None:
    import json

    found = open_dataset(folders(tmp_path, samples(["a", "b"], ("train", "val")))).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["per_class"] == {"train": [3, 3], "val": [3, 3]}


def missing(root: Path) -> Path:
    return root / "nowhere"


def empty(root: Path) -> Path:
    (root / ".hidden").touch()
    return root


def documents(root: Path) -> Path:
    (root / "letter.txt").write_text("dear")
    (root / "drafts").mkdir()
    return root


def images_without_labels(root: Path) -> Path:
    (root / "1.png").write_bytes(png(np.zeros((8, 8), np.uint8)))
    return root


def a_file(root: Path) -> Path:
    (root / "model.bin").write_bytes(b"123")
    return root / "model.bin"


def one_class(root: Path) -> Path:
    return folders(root, samples(["cat"], ("train", "val")))


def val_class_absent_from_train(root: Path) -> Path:
    folders(root, samples(["cat", "dog"], ("train",)))
    return folders(root, samples(["cat", "fox", "owl"], ("val",)))


def test_class_absent_from_train(root: Path) -> Path:
    folders(root, samples(["cat", "dog"], ("train", "val")))
    return folders(root, samples(["cat", "fox"], ("test",)))


test_class_absent_from_train.__test__ = False  # type: ignore[attr-defined]


def one_image_each(root: Path) -> Path:
    return folders(root, samples(["cat", "dog"], ("train",), 1))


def no_training_split(root: Path) -> Path:
    return idx(root, samples([0, 1], ("test",)))


REFUSED = [
    (missing, r"nowhere does not exist; expected a folder of images.*: check the path"),
    (empty, r"is empty; expected images"),
    (documents, r"is not a data set: found drafts/, letter.txt; looked for(.|\n)*CSV: a .csv with"
                r"(.|\n)*class folders: train/CLASS(.|\n)*IDX files: (.|\n)*Parquet: data/train-"),
    (images_without_labels, r"found 1.png \(images, but no labels: put those of each class into"),
    (a_file, r"model.bin is not a data set: a file of 3 bytes"),
    (one_class, r"only one class, 'cat'; at least two are needed"),
    (val_class_absent_from_train, r"classes in val without a training image: 'fox', 'owl'; add"),
    (test_class_absent_from_train, r"classes in test without a training image: 'fox'; add"),
    (one_image_each, r"2 training images are too few to hold some out"),
    (no_training_split, r"no training images \(splits found: test\)"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=lambda v: getattr(v, "__name__", ""))
def test_what_cannot_be_used_is_refused_with_a_reason(
    make: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(make(tmp_path))  # type: ignore[operator]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_folder(tmp_path: Path) -> None:
    root = folders(tmp_path, samples(["a", "b"], ("train", "val")))
    (root / "train").chmod(0)
    try:
        with pytest.raises(DataError, match=r"no permission to read .*train; make it readable"):
            open_dataset(root)
    finally:
        (root / "train").chmod(0o755)


def test_unreadable_folder_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the superuser, who has to pretend."""

    def refused(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(DataError, match=r"no permission to read .*; make it readable"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("share", [0.0, 1.0, -1, 20])
def test_share_out_of_range(share: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a share between 0 and 1 expected"):
        open_dataset(tmp_path, val_share=share)


def damage(root: Path, count: int) -> Path:
    """One zero-byte, one truncated, one text file, and so on, in turn."""
    for i, path in enumerate(sorted((root / "train" / "a").iterdir())[:count]):
        path.write_bytes((b"", path.read_bytes()[:45], b"text")[i % 3])
    return root


def test_unreadable_files_are_left_out_and_listed(tmp_path: Path) -> None:
    root = damage(folders(tmp_path, samples(["a", "b"], ("train", "val"), 30)), 3)
    data = open_dataset(root)
    assert len(data.train) == 57
    assert [reason for _, reason in data.skipped] == [
        "zero bytes",
        "truncated",
        "not an image of a known format",
    ]
    assert not {name for name, _ in data.skipped} & set(data.train.names)
    assert any("3 of 120 files cannot be read" in remark.text for remark in data.remarks)


def test_too_many_unreadable_files_are_fatal(tmp_path: Path) -> None:
    root = damage(folders(tmp_path, samples(["a", "b"], ("train", "val"), 30)), 7)
    with pytest.raises(DataError, match=r"7 of 120 images cannot be read, more than the share of "
                       r"0.05(.|\n)*zero bytes(.|\n)*and 2 more(.|\n)*replace or"):  # fmt: skip
        open_dataset(root)
    assert len(open_dataset(root, max_bad_share=0.1).skipped) == 7


def test_a_class_of_unreadable_files_only(tmp_path: Path) -> None:
    root = damage(folders(tmp_path, samples(["a", "b", "c"], ("train", "val"), 30)), 30)
    with pytest.raises(DataError, match="classes in val without a training image: 'a'"):
        open_dataset(root, max_bad_share=1)


def test_empty_class_folders_are_left_out(tmp_path: Path) -> None:
    root = folders(tmp_path, samples(["a", "c"], ("train", "val")))
    (root / "train" / "b").mkdir()
    data = open_dataset(root)
    assert (data.classes, data.empty_classes) == (["a", "c"], ["b"])
    assert data.train.labels.max() == 1
    assert any("without an image are left out: 'b'" in remark.text for remark in data.remarks)


def test_a_picture_that_goes_bad_later_is_named(tmp_path: Path) -> None:
    data = open_dataset(folders(tmp_path, samples(["a", "b"], ("train", "val"))))
    (tmp_path / data.train.names[0]).unlink()
    with pytest.raises(ImageError, match=f"cannot read image {data.train.names[0]}: the file does"):
        data.train.image(0)
