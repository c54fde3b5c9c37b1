"""A data set that is refused is drawn: the first samples that are wrong, where there is a picture.

What is said of each is tested beside its reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sinet.cli.inspect import inspect
from sinet.data.sheet import draw_refusal, suspects
from sinet.errors import DataError
from sinet.road import choose
from sinet.road.config import FitConfig
from sinet.road.run import Run

from . import test_boxes, test_cubes, test_instances, test_masks, test_volumes
from .clip_files import bar, video
from .test_remarks import GREY, save


def mask_pair(root: Path) -> None:
    test_masks.spoil_pair(test_masks.write(root))


def mask_size(root: Path) -> None:
    test_masks.spoil_size(test_masks.write(root))


def mask_class(root: Path) -> None:
    test_masks.spoil_class(test_masks.write(root))


def objects_size(root: Path) -> None:
    masks = test_instances.numbered(root) / "PedMasks"
    test_instances.mask(masks / "F1_mask.png", GREY[:9, :9, 0])


def boxes_none(root: Path) -> None:
    def empty(content: dict[str, list[dict[str, object]]]) -> None:
        for entry in content["annotations"]:
            entry.update(bbox=[30, 5, 0, 10])

    test_boxes.change_json(test_boxes.coco(root), empty)
    path = root / "annotations/instances_val2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))


def volume(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        test_volumes.write(root)
        change(root)

    return write


def volume_place(root: Path) -> None:
    label = test_volumes.volume(1)[1]
    test_volumes.save(root / "labelsTr/case1.nii.gz", label, test_volumes.AFFINE + np.eye(4))


def volume_size(root: Path) -> None:
    test_volumes.save(root / "labelsTr/case1.nii.gz", test_volumes.volume(1)[1][:-1])


def volume_damaged_map(root: Path) -> None:
    (root / "labelsTr/case1.nii.gz").write_bytes(b"no map")


def volume_channels(root: Path) -> None:
    image = test_volumes.volume(1)[0]
    test_volumes.save(root / "imagesTr/case1.nii.gz", np.stack([image, image], -1))


def volume_without_map(root: Path) -> None:
    (root / "labelsTr/case1.nii.gz").unlink()


def volume_label(root: Path) -> None:
    (root / "classes.txt").write_text("background\nbody\n")


def scenes(root: Path) -> np.ndarray:
    cube, labels = test_cubes.scene()
    for name in "abc":
        np.save(root / f"{name}.npy", cube)
        np.save(root / f"{name}_gt.npy", labels)
    return cube


def cube_bands(root: Path) -> None:
    np.save(root / "c.npy", scenes(root)[..., :-1])


def cube_shape(root: Path) -> None:
    scenes(root)
    np.save(root / "b_gt.npy", test_cubes.scene()[1][:-1])


def clip_frames(root: Path) -> None:
    for name in ("left", "right"):
        video(root / name / "0.mp4", bar(3, 6))
    save(root / "left/loose.png")


def pairs_size(root: Path) -> None:
    for i in range(4):
        save(root / f"HR/{i}.png")
        save(root / f"LR/{i}.png", GREY[:: 2 + i // 3, :: 2 + i // 3])


def pairs_name(root: Path) -> None:
    pairs_size(root)
    (root / "HR/1.png").unlink()


CASES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "mask, pair": (mask_pair, "segment", "no mask", "images/train1.jpg"),
    "mask, size": (mask_size, "segment", "other size", "train/images/train1.jpg"),
    "mask, class": (mask_class, "segment", "mask unusable", "train/images/train1.jpg"),
    "objects, size": (objects_size, "instances", "mask unusable", "PNGImages/F1.png"),
    "COCO, number": (test_boxes.spoil_number, "detect", "bad bbox", "train2017/train0.png"),
    "COCO, twice": (test_boxes.spoil_twice, "detect", "id twice", "train2017/train0.png"),
    "COCO, size": (test_boxes.spoil_size, "detect", "other size", "train2017/train1.png"),
    "COCO, no box": (boxes_none, "detect", "box empty", "train2017/train0.png"),
    "VOC, corner": (test_boxes.spoil_corner, "detect", "bad object", "JPEGImages/train1.png"),
    "YOLO, line": (test_boxes.spoil_words, "detect", "bad line", "images/train/train1.png"),
    "two formats": (test_boxes.spoil_mixture, "detect", "other format", "JPEGImages/train1.png"),
    "volume, place": (volume(volume_place), "volume", "other place", "imagesTr/case1.nii.gz"),
    "volume, size": (volume(volume_size), "volume", "other size", "imagesTr/case1.nii.gz"),
    "volume, map": (volume(volume_damaged_map), "volume", "unreadable", "imagesTr/case1.nii.gz"),
    "volume, channels": (volume(volume_channels), "volume", "channels", "imagesTr/case1.nii.gz"),
    "volume, pair": (volume(volume_without_map), "volume", "no label map", "imagesTr/case1.nii.gz"),
    "volume, label": (volume(volume_label), "volume", "unknown label", "imagesTr/case0.nii.gz"),
    "scene, bands": (cube_bands, "hyperspectral", "other bands", "c.npy"),
    "scene, shape": (cube_shape, "hyperspectral", "other size", "b.npy"),
    "clip, frames": (clip_frames, "video", "of no clip", "left/loose.png"),
    "large and small": (pairs_size, "superres", "other size", "HR/3.png"),
    "no large one": (pairs_name, "superres", "no large one", "LR/1.png"),
}  # fmt: skip
"""What is refused -> who writes it, its task, what the sheet says, and the sample that is drawn."""

PINK, WHITE, RED = (245, 208, 208), (255, 255, 255), (255, 0, 0)


def tile(sheet: Path, column: int = 0) -> np.ndarray:
    left = 190 + 102 * column
    with Image.open(sheet) as image:
        return np.asarray(image.convert("RGB"))[6 : 6 + 96, left : left + 96]


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused_is_drawn(tmp_path: Path, case: str) -> None:
    write, task, short, name = CASES[case]
    root = tmp_path / "data"
    root.mkdir()
    write(root)
    with pytest.raises(DataError) as raised:
        inspect(root, tmp_path / "out", task)
    bad = suspects(raised.value.faults)
    assert bad[name].why == [short]
    shown = tile(tmp_path / "out/sheet.png", list(bad).index(name))
    assert tuple(shown[48, 48].tolist()) not in (PINK, WHITE)
    marked = (shown == RED).all(-1).any()
    assert marked == (case in ("mask, class", "COCO, no box"))


def test_pixels_of_an_unknown_class_are_marked(tmp_path: Path) -> None:
    mask_class(tmp_path)
    with pytest.raises(DataError) as raised:
        inspect(tmp_path, tmp_path / "out", "segment")
    assert suspects(raised.value.faults)["train/images/train1.jpg"].boxes == [(0, 0, 1, 1)]
    red = (tile(tmp_path / "out/sheet.png") == RED).all(-1)
    rows, columns = np.nonzero(red)  # 16 x 12 pixels fill 96 x 72, so each measures 6
    assert (rows.min(), columns.min()) == (12, 0)
    assert (rows.max(), columns.max()) == (18, 6)


def test_where_nothing_can_be_drawn_nothing_is(tmp_path: Path) -> None:
    test_boxes.spoil_json(tmp_path)
    with pytest.raises(DataError, match="not valid JSON") as raised:
        inspect(tmp_path, tmp_path / "out", "detect")
    assert not (tmp_path / "out").exists()
    assert draw_refusal(raised.value, tmp_path / "sheet.png") is None
    volume(volume_damaged_map)(tmp_path / "volumes")
    (tmp_path / "volumes/imagesTr/case1.nii.gz").write_bytes(b"no volume")
    with pytest.raises(DataError, match="replace damaged files"):
        inspect(tmp_path / "volumes", tmp_path / "out", "volume")
    assert not (tmp_path / "out").exists()


def test_the_task_that_is_proposed_instead_does_not_hide_the_picture(tmp_path: Path) -> None:
    (test_masks.with_boxes(tmp_path, "0123") / "masks/2.png").unlink()
    with pytest.raises(DataError, match="`--task detect` reads it as YOLO"):
        inspect(tmp_path, tmp_path / "out")
    assert tuple(tile(tmp_path / "out/sheet.png")[48, 48].tolist()) == (120, 120, 120)


def test_a_run_draws_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask_size(tmp_path / "data")
    run = Run(FitConfig(data=str(tmp_path / "data"), out=str(tmp_path / "run")), None)
    with pytest.raises(DataError, match="8 x 8 pixels"):
        choose.inspect(run)
    assert "what is wrong is drawn in" in " ".join(capsys.readouterr().out.split())
    assert tuple(tile(run.folder / "sheet.png")[48, 48].tolist()) not in (PINK, WHITE)
