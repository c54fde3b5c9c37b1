"""Whatever is wrong is named with its file, handled, and drawn among the first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sinet.cli.inspect import _painter
from sinet.data import draw_sheet, inspect_dataset, open_dataset
from sinet.data.sheet import suspects
from sinet.errors import DataError

from . import test_boxes, test_coco_masks, test_cubes, test_instances, test_masks, test_volumes
from .clip_files import bar, video
from .writers import folders, parquet, png, samples, table

GREY = np.full((40, 60, 3), 90, np.uint8)


def save(path: Path, pixels: np.ndarray = GREY) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def coco_box(*box: float) -> Callable[[Path], object]:
    """COCO, the first training box as x, y, width, height."""
    return lambda root: test_boxes.change_json(
        test_boxes.coco(root), lambda c: c["annotations"][0].update(bbox=list(box))
    )


def coco_id(root: Path) -> None:
    test_boxes.change_json(
        test_boxes.coco(root), lambda c: c["annotations"][0].update(category_id=9)
    )


def coco_lost(root: Path) -> None:
    test_boxes.change_json(test_boxes.coco(root), lambda c: c["annotations"][0].update(image_id=1))


def coco_absent(root: Path) -> None:
    (test_boxes.coco(root) / "train2017/train1.png").unlink()


def coco_bare(root: Path) -> None:
    save(test_boxes.coco(root) / "val2017/more.png")


def yolo_lonely(root: Path) -> None:
    (test_boxes.yolo(root) / "labels/val/more.txt").write_text("0 0.5 0.5 0.2 0.2\n")


def yolo_bare(root: Path) -> None:
    (test_boxes.yolo(root) / "labels/train/train1.txt").unlink()


def yolo_list(root: Path) -> None:
    test_boxes.yolo(root)
    names = sorted(path.name for path in (root / "images/train").iterdir())
    lines = [f"./images/train/{name}" for name in (*names, "gone.png")]
    (root / "train.txt").write_text("\n".join(lines))
    about = root / "data.yaml"
    about.write_text(about.read_text().replace("train: images/train", "train: train.txt"))


def voc_lonely(root: Path) -> None:
    (test_boxes.voc(root) / "JPEGImages/train1.png").unlink()


def voc_bare(root: Path) -> None:
    (test_boxes.voc(root) / "Annotations/train1.xml").unlink()


def voc_unlisted(root: Path) -> None:
    (test_boxes.voc(root) / "ImageSets/Main/val.txt").write_text("val0\nval1\n")


def segments_id(root: Path) -> None:
    test_coco_masks.change(
        test_coco_masks.panoptic(root),
        lambda c: c["annotations"][1]["segments_info"][2].update(category_id=9),
    )


def segments_bare(root: Path) -> None:
    test_coco_masks.image(test_coco_masks.panoptic(root) / "train2017/more.jpg")


def segments_lost(root: Path) -> None:
    test_coco_masks.change(
        test_coco_masks.panoptic(root), lambda c: c["annotations"][1].update(image_id=77)
    )


def mask_lonely(root: Path) -> None:
    (test_masks.write(root) / "val/images/val2.jpg").unlink()


def mask_second(root: Path) -> None:
    masks = test_masks.write(root) / "val/masks"
    (masks / "val2_mask.png").write_bytes((masks / "val2.png").read_bytes())


def mask_of_some(root: Path) -> None:
    save(test_masks.write(root, "none") / "JPEGImages/more.jpg")


def objects_lonely(root: Path) -> None:
    test_instances.mask(test_instances.numbered(root) / "PedMasks/more_mask.png", GREY[..., 0])


def objects_bare(root: Path) -> None:
    (test_instances.numbered(root, "classes") / "instances/cat/4.png").unlink()


def objects_loose(root: Path) -> None:
    test_instances.mask(test_instances.numbered(root, "classes") / "instances/4.png", GREY[..., 0])


def objects_listed(root: Path) -> None:
    names = "\n".join(f"F{i}" for i in range(9))
    (test_instances.numbered(root) / "train.txt").write_text(f"{names}\nF77\n")


def volume_spacing(root: Path) -> None:
    test_volumes.write(root)
    coarse = test_volumes.AFFINE @ np.diag([1, 1, 2.0, 1])
    for name, array in zip(("imagesTr", "labelsTr"), test_volumes.volume(2), strict=True):
        test_volumes.save(root / name / "case2.nii.gz", array, coarse)


def volume_lonely(root: Path) -> None:
    test_volumes.write(root)
    test_volumes.save(root / "labelsTr/more.nii.gz", test_volumes.volume()[1])


def volume_bare(root: Path) -> None:
    entries = test_volumes.write(root)
    del entries[5]["label"]
    (root / "dataset.json").write_text(json.dumps({"training": entries}))


def cube_id(root: Path) -> None:
    cube, labels = test_cubes.scene()
    np.save(root / "a.npy", cube)
    np.save(root / "a_gt.npy", labels)
    (root / "classes.txt").write_text("corn\nwheat\nwater\n")


def cube_alone(root: Path) -> None:
    cube_id(root)
    np.save(root / "b.npy", test_cubes.scene()[0])


def rows(root: Path) -> None:
    parquet(root, [*samples([0, 1], ("train",)), *samples([-1], ("test",), 1)])


def rows_of_a_file(root: Path) -> None:
    from pyarrow import parquet as pq

    parquet(root, samples([0, 1], ("train", "test")))
    path = root / "data/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns("label"), path)


def csv_bare(root: Path) -> None:
    table(root / "csv", samples(["a", "b"], ("train", "val")))
    (root / "csv/pictures/more.png").write_bytes(png(GREY))


def class_loose(root: Path) -> None:
    folders(root, samples(["a", "b"], ("train", "val")))
    (root / "val/more.png").write_bytes(png(GREY))


def clip_short(root: Path) -> None:
    clip_loose(root)
    path = root / "train/left/0.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])


def clip_loose(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("left", "right"):
            frames = rng.integers(0, 256, (20, 64, 64, 3), np.uint8)
            for i in range(2):
                video(root / split / name / f"{i}.mp4", frames[:, i:])
    video(root / "train/more.mp4", bar(3, 6))


CASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "box outside": (coco_box(200, 5, 10, 10), "box outside", "train2017/train0.png"),
    "box cut": (coco_box(50, 5, 30, 10), "box cut", "train2017/train0.png"),
    "box inverted": (coco_box(30, 5, -9, 10), "corners swapped", "train2017/train0.png"),
    "box empty": (coco_box(30, 5, 0, 10), "box empty", "train2017/train0.png"),
    "id of boxes": (coco_id, "class unnamed", "train2017/train0.png"),
    "id of segments": (segments_id, "class unnamed", "train2017/train1.jpg"),
    "id of pixels": (cube_id, "class unnamed", "a.npy:train"),
    "COCO, annotation": (coco_lost, "no image", "annotation 0 of image id 1"),
    "COCO, absent": (coco_absent, "not there", "train1.png"),
    "COCO, image": (coco_bare, "in no JSON file", "val2017/more.png"),
    "YOLO, text": (yolo_lonely, "no image", "labels/val/more.txt"),
    "YOLO, image": (yolo_bare, "no text file", "images/train/train1.png"),
    "YOLO, list": (yolo_list, "not there", "./images/train/gone.png"),
    "VOC, XML": (voc_lonely, "no image", "Annotations/train1.xml"),
    "VOC, image": (voc_bare, "no XML file", "JPEGImages/train1.png"),
    "VOC, list": (voc_unlisted, "in no list", "JPEGImages/val2.png"),
    "segments, image": (segments_bare, "in no JSON file", "train2017/more.jpg"),
    "segments, annotation": (segments_lost, "no image", "annotation of image id 77"),
    "mask": (mask_lonely, "no image", "val/masks/val2.png"),
    "mask, second": (mask_second, "no image", "val/masks/val2.png"),
    "mask, image": (mask_of_some, "no mask", "JPEGImages/more.jpg"),
    "objects, mask": (objects_lonely, "no image", "PedMasks/more_mask.png"),
    "objects, image": (objects_bare, "no mask", "images/4.png"),
    "objects, class": (objects_loose, "of no class", "instances/4.png"),
    "objects, list": (objects_listed, "in no list", "PNGImages/F9.png"),
    "objects, name": (objects_listed, "no image", "F77"),
    "volume, spacing": (volume_spacing, "other spacing", "imagesTr/case2.nii.gz"),
    "volume, map": (volume_lonely, "no volume", "labelsTr/more.nii.gz"),
    "volume, volume": (volume_bare, "no label", "./imagesTr/case5.nii.gz"),
    "scene": (cube_alone, "no pair", "b.npy"),
    "rows": (rows, "no label", "test-00000-of-00001.parquet, row 1"),
    "rows of a file": (rows_of_a_file, "no labels", "data/test-00000-of-00001.parquet"),
    "table, image": (csv_bare, "in no table", "pictures/more.png"),
    "class folders": (class_loose, "of no class", "val/more.png"),
    "clip ends early": (clip_short, "unreadable", "train/left/0.mp4"),
    "clip, loose": (clip_loose, "of no class", "train/more.mp4"),
}
"""What is wrong -> who writes it, what the sheet says, and the file that is named."""

BOXES = {
    "box outside": (200, 5, 210, 15),
    "box cut": (50, 5, 80, 15),
    "box inverted": (30, 5, 21, 15),
    "box empty": (30, 5, 30, 15),
    "id of boxes": (0, 0, 9, 9),
}
DRAWN = {
    *("COCO, image", "VOC, image", "VOC, list", "segments, image", "mask, image"),
    *("objects, list", "volume, volume", "rows", "table, image", "class folders", "clip, loose"),
}
"""Pictures that are in no split, but there."""
PINK = (245, 208, 208)


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named_and_drawn(tmp_path: Path, case: str) -> None:
    write, short, name = CASES[case]
    root = tmp_path / "data"
    root.mkdir()
    write(root)
    found = inspect_dataset(root)
    named = [r for r in found.warnings if r.short == short and name in {s.name for s in r.spots}]
    assert len(named) == 1
    assert name in named[0].text or case in BOXES
    assert named[0] not in found.notes
    bad = suspects(found.warnings)
    assert short in bad[name].why
    assert [tuple(box) for box in bad[name].boxes] == ([BOXES[case]] if case in BOXES else [])
    column = list(bad).index(name)
    with Image.open(draw_sheet(found, tmp_path / "sheet.png", _painter(found))) as sheet:
        middle = sheet.convert("RGB").getpixel((190 + 102 * column + 48, 6 + 48))
    there = any(name in split.names for split in found.data.splits.values())
    assert (middle != PINK) == (there or case in DRAWN)


def test_names_of_pictures_do_not_mix_splits_up(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(3):
            save(tmp_path / f"images/{split}/{i}.png", GREY + i)
            path = tmp_path / f"labels/{split}/{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{i % 2} 0.5 0.5 0.2 0.2\n")
    (tmp_path / "labels/val/1.txt").write_text("1 0.9 0.5 0.4 0.2\n")
    bad = suspects(inspect_dataset(tmp_path).warnings)
    assert [name for name, suspect in bad.items() if suspect.boxes] == ["images/val/1.png"]


def voc_tree(root: Path, images: str) -> Path:
    """Pascal VOC as it is published: boxes of all images, masks of some."""
    test_boxes.voc(root)
    (root / "JPEGImages").rename(root / images)
    for i in range(4):
        for kind in ("SegmentationClass", "SegmentationObject"):
            pixels = np.zeros((40, 60), np.uint8)
            pixels[5:20, 5 : 20 + 5 * i] = 1
            save(root / f"{kind}/train{i}.png", pixels)
    return root


@pytest.mark.parametrize("images", ["JPEGImages", "images"])
def test_masks_of_voc_are_no_images_without_boxes(tmp_path: Path, images: str) -> None:
    data = open_dataset(voc_tree(tmp_path, images), task="detect")
    names = [name for split in data.splits.values() for name in split.names]
    assert len(names) == len(test_boxes.samples())
    assert {name.split("/")[0] for name in names} == {images}
    assert not [remark.text for remark in data.remarks if remark.flaw]


def test_images_of_voc_without_masks_are_said(tmp_path: Path) -> None:
    data = open_dataset(voc_tree(tmp_path, "JPEGImages"))
    assert (data.format, len(data.train) + len(data.val)) == ("mask folders", 4)
    said = [remark.text for remark in data.remarks if remark.flaw]
    assert len(said) == 2
    assert said[0].startswith("6 images have no mask and are left out: 'JPEGImages/bare.png'")
    assert "`--task detect` reads it as Pascal VOC" in said[1]


def test_ids_without_any_name_are_said(tmp_path: Path) -> None:
    test_boxes.yolo(tmp_path, "beside")
    (tmp_path / "classes.txt").unlink()
    (said,) = [r for r in open_dataset(tmp_path).remarks if "have no name" in r.text]
    assert said.text.startswith("2 class ids have no name and are called by their number: 0 in ")
    assert not said.flaw


def test_a_label_that_the_schema_does_not_name(tmp_path: Path) -> None:
    parquet(tmp_path, samples([0, 2], ("train", "test")), ["cat", "dog"])
    said = r"test-00000-of-00001.parquet, row 4: label 2, but .* names 2 classes, 0 to 1; correct"
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)


def test_large_pictures_without_a_small_one(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / f"HR/{i}.png")
        if i < 4:
            save(tmp_path / f"LR/{i}.png", GREY[::2, ::2])
    data = open_dataset(tmp_path, task="superres")
    said = "1 large pictures have no small one and are left out: 'HR/4.png'"
    assert said in [remark.text for remark in data.remarks]


def test_pictures_without_a_number(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / f"{i}.png")
    (tmp_path / "numbers.csv").write_text("name,number\n0.png,12\n1.png,3\n2.png,4\n3.png,4\n")
    data = open_dataset(tmp_path, task="digits")
    said = "1 pictures are not in numbers.csv and are left out: '4.png'"
    assert said in [remark.text for remark in data.remarks]
