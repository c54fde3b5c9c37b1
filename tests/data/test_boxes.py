"""Boxes in three formats: what is recognised, what comes back, what is repaired or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sinet.data import open_dataset
from sinet.data.boxes import Boxes, box_iou, repaired, summary
from sinet.data.readers import readers
from sinet.errors import DataError

HEIGHT, WIDTH = 40, 60
NAMES = {3: "cat", 7: "dog"}  # ids that are no indices
Sample = tuple[str, str, list[tuple[int, tuple[int, int, int, int]]]]


def samples() -> list[Sample]:
    """(split, file, [(id, corners)]), among them one without a box."""
    rng = np.random.default_rng(0)
    found: list[Sample] = []
    for split, count in (("train", 6), ("val", 3)):
        for i in range(count):
            boxes = []
            for key in (3, 7)[: 1 + i % 2] if i else ():
                x, y = int(rng.integers(0, 30)), int(rng.integers(0, 20))
                boxes.append((key, (x, y, x + int(rng.integers(5, 30)), y + 20)))
            found.append(
                (split, f"{split}{i}.png", boxes or ([] if split == "val" else [(3, (0, 0, 9, 9))]))
            )
    found.append(("train", "bare.png", []))
    return found


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def coco(root: Path, style: str = "plain") -> Path:
    categories = [{"id": key, "name": name} for key, name in NAMES.items()]
    for split in ("train", "val"):
        images, annotations = [], []
        for i, (part, file, boxes) in enumerate(samples()):
            if part != split:
                continue
            folder = {"plain": f"{split}2017", "roboflow": split, "images": "images"}[style]
            picture(root / folder / file, i)
            images.append({"id": 100 + i, "file_name": file, "width": WIDTH, "height": HEIGHT})
            for key, (x1, y1, x2, y2) in boxes:
                box = [x1, y1, x2 - x1, y2 - y1]
                annotations.append({"id": len(annotations), "image_id": 100 + i,
                                    "category_id": key, "bbox": box, "iscrowd": 0,
                                    "segmentation": [[x1, y1, x2, y1, x2, y2]]})  # fmt: skip
        content = {"images": images, "annotations": annotations, "categories": categories}
        where = {
            "plain": f"annotations/instances_{split}2017.json",
            "roboflow": f"{split}/_annotations.coco.json",
            "images": f"{split}.json",
        }[style]
        (root / where).parent.mkdir(parents=True, exist_ok=True)
        (root / where).write_text(json.dumps(content))
    return root


def yolo(root: Path, style: str = "below") -> Path:
    order = list(NAMES)
    for i, (split, file, boxes) in enumerate(samples()):
        image, label = {
            "below": (f"images/{split}/{file}", f"labels/{split}/{file}"),
            "above": (f"{split}/images/{file}", f"{split}/labels/{file}"),
            "beside": (f"{split}/{file}", f"{split}/{file}"),
        }[style]
        picture(root / image, i)
        path = (root / label).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for key, (x1, y1, x2, y2) in boxes:
            centre = (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT
            size = (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT
            lines.append(" ".join(map(str, (order.index(key), *centre, *size))))
        path.write_text("\n".join(lines))
    if style == "beside":
        (root / "classes.txt").write_text("cat\ndog\n")
    else:
        train = "images/train" if style == "below" else "../train/images"
        val = "images/val" if style == "below" else "../val/images"
        (root / "data.yaml").write_text(f"train: {train}\nval: {val}\nnames: [cat, dog]\nnc: 2\n")
    return root


def voc(root: Path, style: str = "main") -> Path:
    lists: dict[str, list[str]] = {}
    for i, (split, file, boxes) in enumerate(samples()):
        image = f"JPEGImages/{file}" if style == "main" else f"{split}/{file}"
        sheet = f"Annotations/{file}" if style == "main" else f"{split}/{file}"
        picture(root / image, i)
        lists.setdefault(split, []).append(Path(file).stem)
        objects = "".join(
            f"<object><name>{NAMES[key]}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>"
            for key, (x1, y1, x2, y2) in boxes
        )
        path = (root / sheet).with_suffix(".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        path.write_text(f"<annotation><filename>{file}</filename>{size}{objects}</annotation>")
    if style == "main":
        (root / "ImageSets/Main").mkdir(parents=True)
        for split, stems in lists.items():
            (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems))
    return root


WRITERS: dict[str, tuple[Callable[..., Path], str, list[int | str]]] = {
    "COCO": (coco, "plain roboflow images", [3, 7]),
    "YOLO": (yolo, "below above beside", [0, 1]),
    "Pascal VOC": (voc, "main folders", ["cat", "dog"]),
}


@pytest.mark.parametrize(
    ("form", "style"), [(form, s) for form, (_, all_, _) in WRITERS.items() for s in all_.split()]
)
def test_what_was_written_is_read(tmp_path: Path, form: str, style: str) -> None:
    write, _, ids = WRITERS[form]
    data = open_dataset(write(tmp_path, style))
    assert (data.format, data.task, data.multilabel) == (form, "detect", True)
    assert data.classes == ["cat", "dog"]
    assert data.class_ids == ids
    expected = {file: boxes for _, file, boxes in samples()}
    own = dict(zip(NAMES, range(2), strict=True))
    assert sum(len(split) for split in data.splits.values()) == len(expected)
    for split, part in data.splits.items():
        for name, target, row in zip(part.names, part.targets, part.labels, strict=True):
            boxes = expected[Path(name).name]
            assert target.labels.tolist() == [own[key] for key, _ in boxes], (split, name)
            np.testing.assert_allclose(
                target.corners, np.reshape([box for _, box in boxes], (-1, 4)), atol=1e-3
            )
            assert set(np.flatnonzero(row)) == set(target.labels.tolist())
    assert any("no box" in remark.text for remark in data.remarks)
    assert data.fingerprint() == open_dataset(tmp_path).fingerprint()


def test_whatever_else_a_coco_file_says_stays_reachable(tmp_path: Path) -> None:
    data = open_dataset(coco(tmp_path))
    first = next(target for target in data.train.targets if len(target))
    assert first.annotations[0]["segmentation"][0]


def change_json(root: Path, change: Callable[[dict[str, list[dict[str, object]]]], object]) -> None:
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


HANDLED: dict[str, tuple[Callable[[dict], object], str]] = {
    "outside": (lambda c: c["annotations"][0].update(bbox=[200, 5, 10, 10]), "1 boxes lie outside"),
    "cut": (lambda c: c["annotations"][0].update(bbox=[50, 5, 30, 10]), "1 boxes reach out of"),
    "inverted": (lambda c: c["annotations"][0].update(bbox=[30, 5, -9, 10]), "1 boxes have their"),
    "empty": (lambda c: c["annotations"][0].update(bbox=[30, 5, 0, 10]), "1 boxes have no area"),
    "unnamed": (lambda c: c["annotations"][0].update(category_id=9), "1 class ids have no name"),
    "lost": (lambda c: c["annotations"][0].update(image_id=1), "belong to no image"),
    "absent": (lambda c: c["images"][1].update(file_name="gone.png"), "are not there.*gone.png"),
    "unlisted": (lambda c: c["images"].pop(), "are in no JSON file.*bare.png"),
}


@pytest.mark.parametrize("case", HANDLED)
def test_what_can_be_repaired_is_and_is_said(tmp_path: Path, case: str) -> None:
    change, message = HANDLED[case]
    change_json(coco(tmp_path), change)
    data = open_dataset(tmp_path)
    import re

    assert any(re.search(message, remark.text) for remark in data.remarks), data.remarks
    if case == "unnamed":
        assert data.classes == ["cat", "dog", "9"]
        assert data.class_ids == [3, 7, 9]


def spoil_json(root: Path) -> None:
    coco(root)
    (root / "annotations/instances_train2017.json").write_text('{"images": [], "bbox"')


def spoil_lists(root: Path) -> None:
    change_json(coco(root), lambda content: content.pop("categories"))


def spoil_twice(root: Path) -> None:
    change_json(coco(root), lambda content: content["images"].append(content["images"][0]))


def spoil_number(root: Path) -> None:
    change_json(coco(root), lambda content: content["annotations"][0].update(bbox=[1, 2, 3]))


def spoil_files(root: Path) -> None:
    coco(root)
    path = root / "annotations/instances_train2017.json"
    for name in ("train_a.json", "train_b.json"):
        (path.parent / name).write_text(path.read_text())
    path.unlink()


def spoil_names(root: Path) -> None:
    change_json(coco(root), lambda content: content["categories"][0].update(name="cow"))


def spoil_size(root: Path) -> None:
    change_json(coco(root), lambda content: content["images"][1].update(width=200))


def spoil_xml(root: Path) -> None:
    voc(root)
    (root / "Annotations/train1.xml").write_text("<annotation><object>")


def spoil_corner(root: Path) -> None:
    path = voc(root) / "Annotations/train1.xml"
    path.write_text(path.read_text().replace("<ymin>", "<ymin>x"))


def spoil_pixels(root: Path) -> None:
    (yolo(root) / "labels/train/train1.txt").write_text("0 31 22 10 12\n")


def spoil_words(root: Path) -> None:
    (yolo(root) / "labels/train/train1.txt").write_text("0 0.5 0.5 0.1 0.1\ncat 0.5 0.5 0.1 0.1\n")


def spoil_columns(root: Path) -> None:
    (yolo(root) / "labels/train/train1.txt").write_text("0 0.5 0.5 0.1 0.1 0.9\n")


def spoil_mixture(root: Path) -> None:
    voc(root)
    (root / "Annotations/train1.xml").unlink()
    (root / "JPEGImages/train1.txt").write_text("0 0.5 0.5 0.1 0.1\n")


def spoil_mixture_of_json(root: Path) -> None:
    change_json(coco(root), lambda content: content["images"].pop())
    (root / "train2017/bare.xml").write_text("<annotation></annotation>")


def spoil_everything(root: Path) -> None:
    for path in coco(root).rglob("*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_json, r"instances_train2017.json is not valid JSON.*export it again"),
        (spoil_lists, r"instances_train2017.json has no list categories"),
        (spoil_twice, r"has image id 100 twice \(train0.png\)"),
        (spoil_number, r"annotation 0: bbox is \[1, 2, 3\]"),
        (spoil_files, r"2 COCO files for train: .*train_a.json, .*keep one"),
        (spoil_names, r"class 3 is 'cow' in one file and 'cat' in"),
        (spoil_size, r"made for 200 x 40 pixels, train1.png has 60 x 40"),
        (spoil_xml, r"Annotations/train1.xml is not well-formed XML"),
        (spoil_corner, r"Annotations/train1.xml, object 1: could not convert"),
        (spoil_pixels, r"labels/train/train1.txt:1: 31 is no share of an image"),
        (spoil_words, r"labels/train/train1.txt:2: could not convert string to float: 'cat'"),
        (spoil_columns, r"labels/train/train1.txt:1: 6 numbers; 5 are a box"),
        (spoil_mixture, r"train1.png: train1.txt \(YOLO txt\)\n.*mixed formats"),
        (spoil_mixture_of_json, r"bare.png: bare.xml \(Pascal VOC\)\n.*mixed formats"),
        (spoil_everything, r"none of the annotated images is there"),
    ],
)
def test_what_cannot_be_repaired_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(tmp_path)
    with pytest.raises(DataError, match=f"(?s){message}"):
        open_dataset(tmp_path, task="detect")


def test_annotations_and_images_without_each_other(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "JPEGImages/train1.png").unlink()
    (tmp_path / "Annotations/train2.xml").unlink()
    said = "\n".join(remark.text for remark in open_dataset(tmp_path).remarks)
    assert "1 XML files have no image and are left out: 'Annotations/train1.xml'" in said
    assert "1 images have no XML file and are left out: 'JPEGImages/train2.png'" in said
    assert "2 names in ImageSets/Main have no annotated image" in said


def test_two_formats_of_one_task_are_both_named(tmp_path: Path) -> None:
    data = open_dataset(voc(coco(tmp_path)))
    said = "COCO and Pascal VOC; read as COCO: to choose, take the files of the other formats away"
    assert data.format == "COCO"
    (remark,) = [remark for remark in data.remarks if said in remark.text]
    assert "Pascal VOC: Annotations/*.xml" in remark.text


def test_polygons_of_yolo_become_boxes(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "labels/train/train1.txt").write_text("1 0.1 0.2 0.5 0.2 0.5 0.75\n")
    data = open_dataset(tmp_path)
    place = next(i for i, name in enumerate(data.train.names) if name.endswith("train1.png"))
    target = data.train.targets[place]
    np.testing.assert_allclose(target.corners, [[6, 8, 30, 30]], atol=1e-3)
    assert len(target.annotations[0]["polygon"]) == 6


def test_images_without_a_text_file_are_background(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "labels/train/train1.txt").unlink()
    assert any(
        "nothing is in them: 'images/train/train1.png'" in remark.text
        for remark in open_dataset(tmp_path).remarks
    )


def test_boxes_drawn_before_images_were_resized_are_scaled(tmp_path: Path) -> None:
    coco(tmp_path)
    path = tmp_path / "train2017/train1.png"
    Image.open(path).resize((WIDTH // 2, HEIGHT // 2)).save(path)
    data = open_dataset(tmp_path)
    place = next(i for i, name in enumerate(data.train.names) if name.endswith("train1.png"))
    (_, first), *_ = next(boxes for _, file, boxes in samples() if file == "train1.png")
    np.testing.assert_allclose(data.train.targets[place].corners[0], np.array(first) / 2)


def test_repairs_of_boxes() -> None:
    given = [(10, 10, 5, 5), (0, 0, 0, 9), (-20, 0, -1, 9), (50, 30, 70, 39), (0, 0, 60.4, 40),
             (np.nan, 0, 1, 1)]  # fmt: skip
    whole, faults = repaired(Boxes.of("a.xml", given, range(6)), HEIGHT, WIDTH)
    assert whole.labels.tolist() == [0, 3, 4]
    assert whole.corners.tolist() == [[5, 5, 10, 10], [50, 30, 60, 39], [0, 0, 60, 40]]
    assert sorted(fault.kind for fault in faults) == [
        "cut",
        "empty",
        "inverted",
        "outside",
        "unread",
    ]
    assert all("a.xml, box" in remark.text and remark.flaw for remark in summary(faults))
    boxes = {fault.kind: fault.box for fault in faults}
    assert boxes["inverted"] == (10, 10, 5, 5)  # as it was given
    assert boxes["unread"] == ()


def test_overlap() -> None:
    one = np.array([[0, 0, 2, 2], [5, 5, 6, 6]])
    assert box_iou(one, one).tolist() == [[1, 0], [0, 1]]
    assert box_iou(one, np.array([[1, 0, 3, 2]]))[0, 0] == pytest.approx(1 / 3)


def test_the_three_readers_are_found() -> None:
    assert {"COCO", "YOLO", "Pascal VOC"} <= {reader.FORMAT for reader in readers("detect")}
