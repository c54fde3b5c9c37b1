"""Pascal VOC's own lists: those of `Main` divide boxes, those of `Segmentation` masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from sinet.data import open_dataset
from sinet.errors import DataError

from . import test_masks
from .test_remarks import GREY, save

STEMS = [f"{split}{i}" for split in ("train", "val") for i in range(4)]


def lists(root: Path, kind: str, names: Mapping[str, Sequence[str]]) -> None:
    folder = root / "ImageSets" / kind
    folder.mkdir(parents=True)
    for name, stems in names.items():
        (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def tree(root: Path, kind: str, names: Mapping[str, Sequence[str]]) -> Path:
    """Eight images, each with boxes and a mask, and one without either."""
    test_masks.write(root, "none")
    save(root / "JPEGImages/more.jpg")
    (root / "Annotations").mkdir()
    for stem in STEMS:
        box = "<xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax>"
        (root / f"Annotations/{stem}.xml").write_text(
            f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
        )
    lists(root, kind, names)
    return root


def divided(root: Path, task: str) -> dict[str, list[str]]:
    splits = open_dataset(root, task=task).splits
    return {name: sorted(Path(n).stem for n in split.names) for name, split in splits.items()}


TASKS = pytest.mark.parametrize(("task", "kind"), [("detect", "Main"), ("segment", "Segmentation")])


@TASKS
def test_lists_say_the_splits(tmp_path: Path, task: str, kind: str) -> None:
    names = {"train": STEMS[2:6], "val": STEMS[:2], "test": STEMS[6:], "trainval": STEMS[:6],
             "cat_train": STEMS}  # fmt: skip
    tree(tmp_path, kind, names)
    expected = {"train": STEMS[2:6], "val": STEMS[:2], "test": STEMS[6:]}
    assert divided(tmp_path, task) == expected
    lists(tmp_path, "Layout", {"train": STEMS[:4], "val": STEMS[4:]})
    assert divided(tmp_path, task) == expected


@TASKS
def test_the_lists_of_the_other_task_say_nothing(tmp_path: Path, task: str, kind: str) -> None:
    other = {"Main": "Segmentation", "Segmentation": "Main"}[kind]
    tree(tmp_path, other, {"train": STEMS[:2], "val": STEMS[2:4]})
    found = divided(tmp_path, task)
    assert sorted(found["train"] + found["val"]) == STEMS


@TASKS
def test_training_and_validation_in_one_list(tmp_path: Path, task: str, kind: str) -> None:
    tree(tmp_path, kind, {"trainval": STEMS, "val": STEMS[5:]})
    assert divided(tmp_path, task) == {"train": STEMS[:5], "val": STEMS[5:]}


@TASKS
def test_names_without_an_image_are_named_with_their_list(
    tmp_path: Path, task: str, kind: str
) -> None:
    tree(tmp_path, kind, {"train": [*STEMS[:4], "gone", "more"], "val": STEMS[4:7]})
    data = open_dataset(tmp_path, task=task)
    what = {"Main": "annotated image", "Segmentation": "image with a mask"}[kind]
    where = f"ImageSets/{kind}/train.txt"
    said = [remark for remark in data.remarks if remark.short in ("no image", "in no list")]
    assert [remark.text for remark in said] == [
        f"2 names in ImageSets/{kind} have no {what} and are left out: "
        f"'{where}: gone', '{where}: more'",
        f"1 images are in no list of ImageSets/{kind} and are left out: 'JPEGImages/val3.jpg'",
    ]
    assert said[1].spots[0].item == tmp_path / "JPEGImages/val3.jpg"
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "val": 3}


@TASKS
def test_lists_of_another_data_set(tmp_path: Path, task: str, kind: str) -> None:
    tree(tmp_path, kind, {"train": ["gone"], "val": ["lost"]})
    said = rf"none of the names in ImageSets/{kind} .* 'ImageSets/{kind}/train.txt: gone'.* or corr"
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path, task=task)


def test_two_years_add_up(tmp_path: Path) -> None:
    for year, part in (("VOC2007", STEMS[:4]), ("VOC2012", STEMS[4:])):
        tree(tmp_path / year, "Main", {"train": part[:3], "val": part[3:]})
        for stem in set(STEMS) - set(part):
            (tmp_path / year / f"Annotations/{stem}.xml").unlink()
            (tmp_path / year / f"JPEGImages/{stem}.jpg").unlink()
    save(tmp_path / "VOC2012/JPEGImages/more.jpg", GREY + 1)
    assert divided(tmp_path, "detect") == {
        "train": sorted(STEMS[:3] + STEMS[4:7]), "val": [STEMS[3], STEMS[7]],
    }  # fmt: skip
