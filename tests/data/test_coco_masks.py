"""COCO's masks of all pixels, and mask folders that a YAML file describes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sinet.data import open_dataset
from sinet.data.masks import VOID
from sinet.data.regions import Region
from sinet.errors import DataError

SHAPE = (12, 16)
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "sky"}, {"id": 200, "name": "never"}]
NUMBERS = {3: (70_001, 260), 7: (16_000_000,)}  # of segments, by category


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)).save(path)


def classes(i: int) -> np.ndarray:
    """Category of every pixel of image `i`: two cats below the sky, the first column nothing."""
    found = np.full(SHAPE, 3)
    found[: 3 + i] = 7
    found[:, 0] = 0
    return found


def panoptic(root: Path, images: str = "", masks: str = "") -> Path:
    for split, count in (("train", 4), ("val", 2)):
        name = f"panoptic_{split}2017"
        entries, annotations = [], []
        for i in range(count):
            image(root / (images or f"{split}2017") / f"{split}{i}.jpg")
            category = classes(i)
            segments = np.where(category == 3, NUMBERS[3][0], NUMBERS[7][0])
            segments[(category == 3) & (np.arange(16) > 8)] = NUMBERS[3][1]
            segments[category == 0] = 0
            colours = np.stack([segments % 256, segments // 256 % 256, segments // 65536], -1)
            path = root / (masks or "annotations") / name / f"{split}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colours.astype(np.uint8)).save(path)
            entries.append({"id": i, "file_name": f"{split}{i}.jpg"})
            parts = [{"id": n, "category_id": key, "bbox": [0, 0, 5, 5]}
                     for key, numbers in NUMBERS.items() for n in numbers]  # fmt: skip
            annotations.append(
                {"image_id": i, "file_name": f"{split}{i}.png", "segments_info": parts}
            )
        content = {"images": entries, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / f"annotations/{name}.json").write_text(json.dumps(content))
    return root


def stuff(root: Path) -> Path:
    for split, count in (("train", 4), ("val", 2)):
        entries, annotations = [], []
        for i in range(count):
            image(root / f"{split}2017/{split}{i}.jpg")
            entries.append({"id": i, "file_name": f"{split}{i}.jpg", "height": 12, "width": 16})
            for key in NUMBERS:
                annotations.append(
                    {"id": len(annotations), "image_id": i, "category_id": key,
                     "bbox": [0, 0, 5, 5], "segmentation": Region.of(classes(i) == key).rle(SHAPE)}
                )  # fmt: skip
        content = {"images": entries, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / f"annotations/stuff_{split}2017.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("write", [panoptic, stuff])
def test_every_pixel_gets_its_class(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data = open_dataset(write(tmp_path))
    assert (data.task, data.format) == ("segment", "COCO panoptic or stuff")
    assert (data.classes, data.class_ids) == (["cat", "sky"], [3, 7])
    assert (len(data.train), len(data.val)) == (4, 2)
    for split in data.splits.values():
        for name, target in zip(split.names, split.targets, strict=True):
            category = classes(int(re.findall(r"\d(?=\.)", name)[0]))
            expected = np.select([category == 3, category == 7], [0, 1], VOID)
            assert (target.read() == expected).all()
    assert data.fingerprint() == open_dataset(tmp_path).fingerprint()


def test_a_class_that_only_validation_shows_is_said(tmp_path: Path) -> None:
    path = panoptic(tmp_path) / "annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        entry["segments_info"][0]["category_id"] = 200
    path.write_text(json.dumps(content))
    data = open_dataset(tmp_path)
    assert data.classes == ["cat", "sky", "never"]
    assert any(
        "classes in val without a training image: 'never'" in remark.text for remark in data.remarks
    )


def test_panoptic_files_are_no_boxes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a data set"):
        open_dataset(panoptic(tmp_path), task="detect")


def test_a_yaml_file_says_where_segments_lie(tmp_path: Path) -> None:
    root = panoptic(tmp_path / "panoptic", "../images")
    about = {
        split: {
            "images": "../images",
            "masks": f"annotations/panoptic_{split}2017",
            "annotations": f"annotations/panoptic_{split}2017.json",
        }
        for split in ("train", "val")
    }
    (root / "config.yaml").write_text(yaml.safe_dump(about))
    data = open_dataset(root)
    assert (data.format, len(data.train), len(data.val)) == ("COCO panoptic or stuff", 4, 2)
    assert data.train.names[0] == "../images/train0.jpg"


def test_a_yaml_file_says_where_masks_lie(tmp_path: Path) -> None:
    for i in range(5):
        image(tmp_path / f"images/train/{i}.jpg")
        image(tmp_path / f"images/val/{i}.jpg")
    root = tmp_path / "semantic"
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            path = root / f"masks/{split}/{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(classes(i).astype(np.uint8)).save(path)
    about = {s: {"images": f"../images/{s}", "masks": f"masks/{s}"} for s in ("train", "val")}
    named = {0: "unlabeled", 3: "cat", 7: "sky"}
    (root / "config.yaml").write_text(yaml.safe_dump({**about, "classes": named}))
    data = open_dataset(root)
    assert (data.format, data.classes, data.class_ids) == ("mask folders", ["cat", "sky"], [3, 7])
    assert (len(data.train), len(data.val)) == (4, 2)  # the others have no mask
    assert (data.train.targets[0].read()[:, 0] == VOID).all()
    (root / "config.yaml").write_text(yaml.safe_dump({"train": {"images": "no", "masks": "masks"}}))
    with pytest.raises(DataError, match=r"speaks of .*no, which is not there"):
        open_dataset(root)


def change(root: Path, what: Callable[[dict], object]) -> None:
    path = root / "annotations/panoptic_train2017.json"
    content = json.loads(path.read_text())
    what(content)
    path.write_text(json.dumps(content))


HANDLED: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda root: (root / "train2017/train1.jpg").unlink(), "1 images .*are not there"),
    "bare": (lambda root: (root / "annotations/panoptic_train2017/train1.png").unlink(),
             "1 images .*have no mask"),
    "unsaid": (lambda root: change(root, lambda c: c["annotations"].pop()), "have no mask"),
    "unnamed": (lambda root: change(root, lambda c: c["annotations"][0]["segments_info"][2].update(
        category_id=9)), "1 class ids have no name .*9"),
}  # fmt: skip


@pytest.mark.parametrize("case", HANDLED)
def test_what_can_be_left_out_is_and_is_said(tmp_path: Path, case: str) -> None:
    what, message = HANDLED[case]
    what(panoptic(tmp_path))
    data = open_dataset(tmp_path)
    assert any(re.search(message, remark.text) for remark in data.remarks), data.remarks


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "segment": (lambda root: change(root, lambda c: c["annotations"][0]["segments_info"].pop()),
                r"1 masks cannot be used.*train0.png: pixels of unknown class #0024f4"),
    "folder": (lambda root: (root / "annotations/panoptic_train2017").rename(root / "elsewhere"),
               r"panoptic_train2017 is not there"),
    "size": (lambda root: Image.new("RGB", (5, 5)).save(
        root / "annotations/panoptic_train2017/train0.png"), r"5 x 5 pixels, its image 16 x 12"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused(tmp_path: Path, case: str) -> None:
    what, message = REFUSED[case]
    what(panoptic(tmp_path))
    with pytest.raises(DataError, match=f"(?s){message}"):
        open_dataset(tmp_path)


def test_links_lead_to_shared_images(tmp_path: Path) -> None:
    """YOLO's labels beside a link to images that several data sets share; some have no labels."""
    root = tmp_path / "boxes"
    for split in ("train", "val"):
        for i in range(4):
            image(tmp_path / f"images/{split}/{i}.jpg")
            if i < 3:
                path = root / f"labels/{split}/{i}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("5 0.5 0.5 0.4 0.4 0.1 0.1")
    (root / "images").symlink_to(tmp_path / "images", target_is_directory=True)
    about = {"path": ".", "train": "images/train", "val": "images/val", "names": {5: "cat"}}
    for skipped, count in ((False, 4), (True, 3)):
        said = {**about, "skip_if_label_file_missing": skipped}
        (root / "config.yaml").write_text(yaml.safe_dump(said))
        data = open_dataset(root, task="instances")
        assert (len(data.train), data.class_ids) == (count, [5])
