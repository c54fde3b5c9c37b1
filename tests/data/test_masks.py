"""Folders of images and masks: what is recognised, what comes back, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sinet.data import inspect_dataset, open_dataset
from sinet.data.masks import VOID, palette
from sinet.errors import DataError

COLOURS = {0: (10, 20, 30), 1: (200, 0, 0), 2: (0, 0, 0)}
LAYOUTS = {
    "split above": "{split}/images {split}/masks",
    "split below": "img/{split} labels/{split}",
    "beside": "{split} {split}annot",
    "none": "JPEGImages SegmentationClass",
}


def truth(seed: int) -> np.ndarray:
    mask = np.random.default_rng(seed).integers(0, 3, (12, 16)).astype(np.uint8)
    mask[0] = [0, 1, 2, 0] * 4  # all classes in every mask
    return mask


def write(root: Path, layout: str = "split above", kind: str = "numbers", count: int = 4) -> Path:
    for split in ("train", "val"):
        places = [root / part for part in LAYOUTS[layout].format(split=split).split()]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed = i + 10 * (split == "val")
            image = np.full((12, 16, 3), 9 * seed, np.uint8)
            image[..., 0] += 40
            Image.fromarray(image).save(places[0] / f"{split}{i}.jpg")
            save_mask(truth(seed), places[1] / f"{split}{i}.png", kind)
    return root


def save_mask(mask: np.ndarray, path: Path, kind: str) -> None:
    if kind == "colours":
        table = np.array([COLOURS[i] for i in range(3)], np.uint8)
        Image.fromarray(table[mask]).save(path)
    elif kind == "palette":
        image = Image.fromarray(mask)
        image.putpalette(palette(256).tobytes())
        image.save(path)
    else:
        Image.fromarray(mask).save(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["numbers", "palette", "colours"])
def test_layouts_and_kinds(tmp_path: Path, layout: str, kind: str) -> None:
    data = open_dataset(write(tmp_path, layout, kind))
    assert (data.task, data.format) == ("segment", "mask folders")
    assert len(data.train) + len(data.val) == 8
    assert data.num_classes == 3
    order = {str(v): i for i, v in enumerate(data.class_ids)}
    for split in data.splits.values():
        for name, target in zip(split.names, split.targets, strict=True):
            stem = Path(name).stem
            expected = truth(int(stem[-1]) + 10 * stem.startswith("val"))
            ids = [
                f"#{(r << 16) + (g << 8) + b:06x}" if kind == "colours" else str(i)
                for i, (r, g, b) in COLOURS.items()
            ]
            assert (target.read() == np.array([order[i] for i in ids])[expected]).all()
    assert data.train.labels.all()  # every class is in every mask


def test_names_and_what_counts_for_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nvoid\nroad\n")
    data = open_dataset(tmp_path)
    assert data.classes == ["sky", "road"]
    assert data.class_ids == [0, 2]
    mask = data.train.targets[0].read()
    assert set(np.unique(mask)) == {0, 1, VOID}
    assert any("count for nothing" in remark.text for remark in data.remarks)


def test_names_by_colour(tmp_path: Path) -> None:
    write(tmp_path, kind="colours")
    lines = [f"kind {i} {r} {g} {b}" for i, (r, g, b) in COLOURS.items()]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    data = open_dataset(tmp_path)
    assert sorted(data.classes) == ["kind 0", "kind 1", "kind 2"]


def test_black_and_white_is_background_and_foreground(tmp_path: Path) -> None:
    write(tmp_path)
    for path in tmp_path.rglob("masks/*.png"):
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask > 1, 255, 0).astype(np.uint8)).save(path)
    data = open_dataset(tmp_path)
    assert data.classes == ["background", "foreground"]
    assert set(np.unique(data.train.targets[0].read())) == {0, 1}


def test_masks_may_have_an_ending(tmp_path: Path) -> None:
    write(tmp_path)
    for path in tmp_path.rglob("masks/*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert len(open_dataset(tmp_path).train) == 4


def spoil_size(root: Path) -> None:
    path = root / "train/masks/train1.png"
    Image.open(path).resize((8, 8)).save(path)


def spoil_class(root: Path) -> None:
    (root / "classes.txt").write_text("a\nb\nc\n")
    path = root / "train/masks/train1.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[0, 0] = 77
    Image.fromarray(mask).save(path)


def spoil_pair(root: Path) -> None:
    (root / "train/masks/train1.png").unlink()


def spoil_photo(root: Path) -> None:
    rng = np.random.default_rng(0)
    for path in root.rglob("masks/*.png"):
        noise = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_size, r"train/masks/train1.png: 8 x 8 pixels, its image 16 x 12"),
        (spoil_class, r"train/masks/train1.png: pixels of unknown class 77"),
        (spoil_class, r"export these again, .* or take them and their images out"),
        (spoil_pair, r"1 images in .*train/images have no mask .* train1.jpg"),
        (spoil_photo, r"more than 255 different colours .* no class masks"),
    ],
)
def test_bad_masks_are_named(tmp_path: Path, spoil: object, message: str) -> None:
    write(tmp_path, count=9)
    spoil(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=f"(?s){message}"):
        open_dataset(tmp_path)


def test_masks_without_an_image_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "val/images/val2.jpg").unlink()
    found = inspect_dataset(tmp_path)
    assert found.samples == {"train": 4, "val": 3}
    said = "1 masks have no image of their own and are left out: 'val/masks/val2.png'"
    assert said in found.to_dict()["warnings"]
    assert said not in found.to_dict()["notes"]


def with_boxes(root: Path, stems: Sequence[str]) -> Path:
    """Masks in `masks`, and beside them boxes of some images in `labels`."""
    for i in range(4):
        for kind in ("images", "masks", "labels"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 16, 3), 60 * i, np.uint8)).save(root / f"images/{i}.png")
        save_mask(truth(i), root / f"masks/{i}.png", "numbers")
    for stem in stems:
        (root / f"labels/{stem}.txt").write_text("0 0.5 0.5 0.3 0.3\n")
    return root


@pytest.mark.parametrize("stems", ["0123", "1"])
def test_masks_and_boxes_are_both_named(tmp_path: Path, stems: str) -> None:
    found = inspect_dataset(with_boxes(tmp_path, stems))
    assert found.task == "segment"
    lines = [remark.text for remark in found.warnings]
    (said,) = [line for line in lines if "more than one format" in line]
    assert "mask folders and YOLO; read as mask folders" in said
    assert "`--task detect` reads it as YOLO" in said


def test_masks_are_no_images_of_boxes(tmp_path: Path) -> None:
    data = open_dataset(with_boxes(tmp_path, "0123"), task="detect")
    names = sorted(name for split in data.splits.values() for name in split.names)
    assert names == [f"images/{i}.png" for i in range(4)]


def test_where_masks_fail_the_boxes_are_proposed(tmp_path: Path) -> None:
    (with_boxes(tmp_path, "0123") / "masks/2.png").unlink()
    with pytest.raises(DataError, match=r"(?s)no mask .* 2.png.*`--task detect` reads it as YOLO"):
        open_dataset(tmp_path)


def test_the_same_folders_can_be_read_as_classes(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path), task="classify")
    assert data.classes == ["images", "masks"]
