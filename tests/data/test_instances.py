"""Objects and their pixels: what the formats say, what is repaired or refused, what moves along."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sinet.data import open_dataset
from sinet.data.dataset import Split
from sinet.data.instances import Instances, draw_instances
from sinet.data.mosaic import Jitter, Scenes
from sinet.data.preprocess import Preprocess
from sinet.data.regions import Region
from sinet.errors import DataError

HEIGHT, WIDTH = 40, 60
NAMES = {3: "cat", 7: "dog"}  # ids that are no indices
SHARED = [[5, 5, 25, 5, 25, 35, 5, 35], [20, 10, 50, 10, 35, 30]]
"""Outlines of a cat and of a dog, which overlap."""


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, numbers: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers.astype(np.uint8)).save(path)


def coco(root: Path) -> Path:
    """Four images and three; the second object is given as run lengths in every other image."""
    categories = [{"id": key, "name": name} for key, name in NAMES.items()]
    for split, count in (("train", 4), ("val", 3)):
        images, annotations = [], []
        for i in range(count):
            file = f"{split}{i}.png"
            picture(root / split / file, i)
            images.append({"id": i, "file_name": file, "width": WIDTH, "height": HEIGHT})
            for key, outline in zip(NAMES, SHARED, strict=True):
                points = np.reshape(outline, (-1, 2))
                low, sides = points.min(0), np.ptp(points, 0)
                annotation = {"id": len(annotations), "image_id": i, "category_id": key,
                              "bbox": [*low.tolist(), *sides.tolist()],
                              "segmentation": [outline]}  # fmt: skip
                if key == 7 and i % 2:
                    rle = region(outline).rle((HEIGHT, WIDTH))
                    annotation["segmentation"] = rle
                annotations.append(annotation)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def region(outline: list[int]) -> Region:
    from sinet.data.regions import filled

    return filled([outline], (HEIGHT, WIDTH))


def yolo(root: Path) -> Path:
    for split, count in (("train", 4), ("val", 3)):
        for i in range(count):
            picture(root / f"images/{split}/{i}.png", i)
            lines = [
                f"{k} "
                + " ".join(str(v) for v in (np.reshape(o, (-1, 2)) / (WIDTH, HEIGHT)).ravel())
                for k, o in enumerate(SHARED)
            ]
            path = root / f"labels/{split}/{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


@pytest.mark.parametrize(("write", "ids"), [(coco, [3, 7]), (yolo, [0, 1])])
def test_outlines_are_filled(tmp_path: Path, write: Callable[[Path], Path], ids: list[int]) -> None:
    data = open_dataset(write(tmp_path), task="instances")
    assert (data.task, data.classes, data.class_ids) == ("instances", ["cat", "dog"], ids)
    for split in data.splits.values():
        for target in split.targets:
            found = target.read()
            assert found.size == (HEIGHT, WIDTH)
            assert found.labels.tolist() == [0, 1]
            for inside, outline in zip(found.masks(), SHARED, strict=True):
                assert (inside == region(outline).full(found.size)).all()
            np.testing.assert_allclose(found.corners, target.corners, atol=1.01)
    assert data.fingerprint() == open_dataset(tmp_path, task="instances").fingerprint()


def test_boxes_are_read_unless_outlines_are_asked_for(tmp_path: Path) -> None:
    data = open_dataset(coco(tmp_path))
    assert data.task == "detect"
    assert any("--task instances" in remark.text for remark in data.remarks)


def change(root: Path, what: Callable[[dict], object]) -> None:
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    what(content)
    path.write_text(json.dumps(content))


HANDLED: dict[str, tuple[Callable[[dict], object], str]] = {
    "few": (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 9, 9]]),
            "1 outlines have fewer than three points and are left out: .*train0.png.*object 1"),
    "bare": (lambda c: c["annotations"][0].pop("segmentation"), "1 objects have no outline"),
    "flat": (lambda c: c["annotations"][0].update(segmentation=SHARED[0]), "14 objects"),
    "part": (lambda c: c["annotations"][0].update(segmentation=[SHARED[0], [1, 2]]), "14 objects"),
    "outside": (lambda c: c["annotations"][0].update(bbox=[200, 5, 10, 10]), "1 boxes lie outside"),
    "unnamed": (lambda c: c["annotations"][0].update(category_id=9), "1 class ids have no name"),
    "lost": (lambda c: c["annotations"][0].update(image_id=77), "belong to no image"),
    "absent": (lambda c: c["images"][0].update(file_name="gone.png"), "are not there.*gone.png"),
}  # fmt: skip


@pytest.mark.parametrize("case", HANDLED)
def test_what_can_be_repaired_is_and_is_said(tmp_path: Path, case: str) -> None:
    what, message = HANDLED[case]
    change(coco(tmp_path), what)
    data = open_dataset(tmp_path, task="instances")
    assert any(re.search(message, remark.text) for remark in data.remarks), data.remarks
    assert all(len(t.read()) == len(t) for s in data.splits.values() for t in s.targets)


def test_outlines_follow_images_that_were_resized(tmp_path: Path) -> None:
    coco(tmp_path)
    for path in tmp_path.rglob("*.png"):
        Image.open(path).resize((WIDTH * 2, HEIGHT * 2)).save(path)
    for target in open_dataset(tmp_path, task="instances").train.targets:
        found = target.read()
        assert found.size == (2 * HEIGHT, 2 * WIDTH)
        for inside, outline in zip(found.regions, SHARED, strict=True):
            assert inside.area == pytest.approx(4 * region(outline).area, rel=0.08)


def test_without_any_outline_boxes_are_proposed(tmp_path: Path) -> None:
    coco(tmp_path)
    for path in (tmp_path / "annotations").glob("*.json"):
        path.write_text(path.read_text().replace("segmentation", "nothing"))
    with pytest.raises(DataError, match="without a single usable outline"):
        open_dataset(tmp_path, task="instances")


def test_run_lengths_that_are_none_are_named(tmp_path: Path) -> None:
    rle = {"size": [HEIGHT, WIDTH], "counts": [3, 4]}
    change(coco(tmp_path), lambda c: c["annotations"][0].update(segmentation=rle))
    data = open_dataset(tmp_path, task="instances")
    with pytest.raises(DataError, match=r"train0.png: a mask cannot be read: runs of 7 pixels"):
        next(t for t in data.train.targets if "train0" in t.name).read()


def numbered(root: Path, style: str = "pennfudan") -> Path:
    """Ten images with two objects each, the last with none."""
    for i in range(10):
        numbers = np.zeros((HEIGHT, WIDTH), int)
        if i < 9:
            numbers[5:20, 5:20], numbers[10:30, 30:50] = 1, 7
        if style == "pennfudan":
            picture(root / f"PNGImages/F{i}.png", i)
            mask(root / f"PedMasks/F{i}_mask.png", numbers)
        elif style == "splits":
            part = "train" if i % 2 else "val"
            picture(root / f"{part}/images/{i}.jpg", i)
            mask(root / f"{part}/instances/{i}.png", numbers)
        else:
            picture(root / f"images/{i}.png", i)
            mask(root / f"instances/cat/{i}.png", numbers)
            if i % 2:
                mask(root / f"instances/dog/{i}.png", np.roll(numbers, 3, 1))
    return root


@pytest.mark.parametrize(
    ("style", "classes"),
    [("pennfudan", ["ped"]), ("splits", ["object"]), ("classes", ["cat", "dog"])],
)
def test_numbered_objects(tmp_path: Path, style: str, classes: list[str]) -> None:
    data = open_dataset(numbered(tmp_path, style))
    assert (data.task, data.format, data.classes) == ("instances", "instance masks", classes)
    assert sum(len(split) for split in data.splits.values()) == 10
    objects = 0
    for split in data.splits.values():
        for target in split.targets:
            found = target.read()
            objects += len(found)
            assert found.size == (HEIGHT, WIDTH)
            np.testing.assert_array_equal(found.corners, target.corners)
            assert {r.area for r in found.regions} <= {15 * 15, 20 * 20}
    assert objects == (18 if style != "classes" else 26)
    if style == "splits":
        assert set(data.splits) == {"train", "val"}
    if style != "classes":
        assert any("1 images have no object" in remark.text for remark in data.remarks)


def test_lists_say_the_splits_and_a_file_the_class(tmp_path: Path) -> None:
    numbered(tmp_path)
    (tmp_path / "test.txt").write_text("F0\nF1.png\nF2\n")
    (tmp_path / "classes.txt").write_text("pedestrian\n")
    data = open_dataset(tmp_path)
    assert data.classes == ["pedestrian"]
    assert [Path(name).stem for name in data.test.names] == ["F0", "F1", "F2"]
    assert len(data.train) + len(data.val) == 7
    (tmp_path / "train.txt").write_text("\n".join(f"F{i}" for i in range(2, 8)))
    with pytest.raises(DataError, match=r"F2.png is in the lists of test and train"):
        open_dataset(tmp_path)


def spoil_size(root: Path) -> None:
    mask(numbered(root) / "PedMasks/F3_mask.png", np.ones((9, 9)))


def spoil_absent(root: Path) -> None:
    (numbered(root) / "PedMasks/F3_mask.png").unlink()


def spoil_numbers(root: Path) -> None:
    numbers = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.int32)
    path = numbered(root) / "PedMasks/F3_mask.png"
    Image.fromarray(numbers.astype(np.uint16)).save(path)


def spoil_nothing(root: Path) -> None:
    for path in (numbered(root) / "PedMasks").iterdir():
        mask(path, np.zeros((HEIGHT, WIDTH)))


def spoil_classes(root: Path) -> None:
    (numbered(root) / "classes.txt").write_text("cat\ndog\n")


REFUSED = [
    (spoil_size, r"1 masks cannot be used.*F3_mask.png has 9 x 9 pixels, the image 60 x 40"),
    (spoil_absent, r"1 images .* have no mask of the same name.*F3.png"),
    (spoil_numbers, r"F3_mask.png has 2399 different numbers"),
    (spoil_nothing, r"the masks are all 0"),
    (spoil_classes, r"classes.txt names 2 classes, but the masks tell no class"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(tmp_path)
    with pytest.raises(DataError, match=f"(?s){message}"):
        open_dataset(tmp_path)


def objects(count: int = 6, shape: tuple[int, int] = (90, 120)) -> Split:
    """Black images with a red disc and a green one, and their pixels."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, *shape, 3), np.uint8)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    targets = []
    for image in images:
        regions = []
        for kind in range(2):
            middle = rng.uniform(25, shape[0] - 25, 2) + np.array([0 if kind else 25, 0])
            inside = np.hypot(x - middle[0], y - middle[1]) < 18
            image[inside] = 0
            image[inside, kind] = 255
            regions.append(Region.of(inside))
        regions[0] = Region.of(regions[0].full(shape) & ~regions[1].full(shape))
        targets.append(Instances.found("", regions, np.arange(2), np.zeros(2, bool), shape))
    return Split(images, np.ones((count, 2), np.float32), list(map(str, range(count))), 3, targets)


@pytest.mark.parametrize(
    "jitter",
    [Jitter(), Jitter(flip=True), Jitter(scale=1.7, flip=True), Jitter(mosaic=1.0, scale=1.3)],
)
def test_masks_hold_their_pixels(jitter: Jitter) -> None:
    fitted = Preprocess(64, 3, (0.5,) * 3, (0.5,) * 3, width=96, fit="pad")
    scenes, seen = Scenes(objects(), fitted, spare=1.25), 0
    for seed in range(4):
        draws = torch.Generator().manual_seed(seed)
        images, found = scenes.jittered([0, 1, 2], jitter, draws)
        for image, part in zip(images.numpy(), found, strict=True):
            assert isinstance(part, Instances)
            assert part.size == (64, 96)
            for inside, label, corners in zip(part.masks(), part.labels, part.corners, strict=True):
                assert (image[label] > 100)[inside].mean() > 0.95
                rows, columns = np.nonzero(inside)
                around = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                assert corners.tolist() == list(map(float, around))
                seen += 1
            covered = np.zeros((2, 64, 96), bool)
            for inside, label in zip(part.masks(), part.labels, strict=True):
                covered[label] |= inside
            assert ((image[:2] > 160) & ~covered).mean() < 0.03  # rests too small to be objects
    assert seen > 15


def test_validation_sees_objects_of_the_networks_size() -> None:
    fitted = Preprocess(45, 3, (0.5,) * 3, (0.5,) * 3, width=60, fit="pad")
    split = objects(2)
    _, found = Scenes(split, fitted).batch([0, 1])
    for small, large in zip(found, split.targets, strict=True):
        assert small.size == (45, 60)
        for one, other in zip(small.regions, large.regions, strict=True):
            assert one.area == pytest.approx(other.area / 4, rel=0.1)


def test_objects_are_drawn() -> None:
    split = objects(1)
    target = split.targets[0]
    drawn = draw_instances(
        split.image(0), target.corners, target.labels, target.regions, ["a", "b"]
    )
    assert (np.asarray(drawn) != split.image(0))[target.masks()[0]].any(1).mean() > 0.9
    nothing = target.select(np.zeros(2, bool))
    assert nothing.masks().shape == (0, 90, 120)
