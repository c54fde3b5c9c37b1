"""Volumes: their readers and their grid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sinet.data import open_dataset
from sinet.data.image import ImageError
from sinet.data.inspection import inspect_dataset
from sinet.data.masks import VOID
from sinet.data.patches import Patches
from sinet.data.volume_files import read_volume, write_labels
from sinet.data.volumes import (
    Volume,
    VolumeInput,
    misplaced,
    planes_of,
    resampled,
    turned,
    turned_back,
)
from sinet.errors import DataError, UsageError

# left, posterior, superior, with other axes first and millimetres of its own
AFFINE = np.array([[0, -2.0, 0, 9], [-1.0, 0, 0, 4], [0, 0, 3.0, -7], [0, 0, 0, 1]])
CASES = 6


def volume(seed: int = 0, sides: tuple[int, int, int] = (18, 22, 14)) -> tuple[np.ndarray, ...]:
    """A body with a core at a random place."""
    rng = np.random.default_rng(seed)
    label = np.zeros(sides, np.uint8)
    x = int(rng.integers(3, 9))
    label[x : x + 7, 5:15, 3:11] = 1
    label[x : x + 4, 5:10, 3:8] = 2
    return (label * 100.0 + rng.normal(50, 8, sides)).astype(np.float32), label


def write(root: Path, affine: np.ndarray = AFFINE) -> list[dict[str, str]]:
    """`imagesTr` and `labelsTr`; the entries of a list."""
    entries = []
    for i in range(CASES):
        image, label = volume(i)
        entry = {"image": f"./imagesTr/case{i}.nii.gz", "label": f"./labelsTr/case{i}.nii.gz"}
        for array, name in ((image, entry["image"]), (label, entry["label"])):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), root / name)
        entries.append(entry)
    return entries


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brain")
    entries = write(root)
    content = {
        "labels": {"0": "background", "1": "body", "2": "core"},
        "modality": {"0": "MRI"},
        "training": entries[:4],
        "validation": entries[4:],
        "test": ["./imagesTs/unlabelled.nii.gz"],
    }
    (root / "brain.json").write_text(json.dumps(content))
    return root


def test_a_decathlon_list_is_read(brain: Path) -> None:
    data = open_dataset(brain / "brain.json", task="volume")
    assert data.task == "volume"
    assert data.classes == ["background", "body", "core"]
    assert data.class_ids == [0, 1, 2]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "val": 2}
    assert data.channels == 1
    said = "1 volumes have no label and are left out: './imagesTs/unlabelled.nii.gz'"
    assert said in [remark.text for remark in data.remarks]
    assert (data.val.targets[0].read() == volume(4)[1]).all()
    assert data.val.image(0).dtype == np.uint8


def test_names_may_come_before_numbers(tmp_path: Path) -> None:
    content = {"labels": {"background": 0, "core": 2, "body": 1}, "training": write(tmp_path)}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    data = open_dataset(tmp_path)
    assert data.format == "decathlon list"
    assert data.classes == ["background", "body", "core"]
    assert len(data.train) + len(data.val) == CASES


def test_folders_of_pairs_are_read_and_labels_learned(tmp_path: Path) -> None:
    write(tmp_path)
    data = open_dataset(tmp_path)
    assert data.format == "volume folders"
    assert data.classes == ["background", "label 1", "label 2"]
    (tmp_path / "imagesTr").rename(tmp_path / "images")
    (tmp_path / "labelsTr").rename(tmp_path / "labels")
    (tmp_path / "classes.txt").write_text("air\nbody\ncore\n")
    assert open_dataset(tmp_path).classes == ["air", "body", "core"]


def test_an_inspection_finds_nothing_wrong(brain: Path) -> None:
    found = inspect_dataset(brain / "brain.json")
    assert not found.unreadable
    assert not found.leaked
    assert found.modes == {"float32": CASES}


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda root: (root / "labelsTr/case1.nii.gz").unlink(), "no label map of the same name"),
        (
            lambda root: nib.save(
                nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), AFFINE),
                root / "labelsTr/case1.nii.gz",
            ),
            "4 x 4 x 4 voxels, its volume 18 x 22 x 14",
        ),
        (lambda root: (root / "imagesTr/case1.nii.gz").write_bytes(b"no"), "case1.nii.gz"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, break_it: object, says: str) -> None:
    write(tmp_path)
    break_it(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=says):
        open_dataset(tmp_path)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


MOVED, MIRRORED = AFFINE.copy(), AFFINE @ np.diag([1, -1.0, 1, 1])
MOVED[2, 3] += 3


@pytest.mark.parametrize(
    ("name", "array", "affine", "says", "remedy"),
    [
        ("labelsTr", volume(1)[1], MOVED, "origin differs by 3 mm$", "resample the labels onto"),
        ("labelsTr", volume(1)[1], MIRRORED, "axis 1 mirrored$", "resample the labels onto"),
        ("labelsTr", volume(1)[1][:-1], AFFINE, "17 x 22 x 14 voxels", "resample the labels onto"),
        ("labelsTr", np.stack([volume(1)[1]] * 3, -1), AFFINE, "channels: 3, of a label map: 1",
         "label maps one"),
        ("imagesTr", np.stack([volume(1)[0]] * 2, -1), AFFINE,
         "channels: 2, of most volumes: 1", "give all volumes the same channels"),
    ],
)  # fmt: skip
def test_a_pair_that_does_not_fit_says_what_to_do(
    tmp_path: Path, name: str, array: np.ndarray, affine: np.ndarray, says: str, remedy: str
) -> None:
    write(tmp_path)
    save(tmp_path / name / "case1.nii.gz", array, affine)
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path)
    first, problem, *remedies = str(raised.value).splitlines()
    assert "1 volumes cannot be used" in first
    assert problem.startswith(f"  {name}/case1.nii.gz")
    assert re.search(says, problem)
    assert remedies[0].startswith(remedy) or remedies[0].endswith(remedy)


def test_the_place_of_labels_in_words() -> None:
    assert misplaced(AFFINE, AFFINE.astype(np.float32) * (1 + 1e-6)) == []
    near = AFFINE.copy()
    near[:3, 3] += 5e-4  # half a thousandth of the smallest voxel, which is 1 mm
    assert misplaced(AFFINE, near) == []
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    about = np.diag([1.0, 1, 2, 1])
    words = [f"axis {axis} turned by 11.5 degrees" for axis in (0, 1)]
    assert misplaced(about, turn @ about) == words
    assert misplaced(about, np.diag([1, 1, 2.5, 1])) == ["axis 2 has 2.5 mm a voxel, not 2 mm"]
    other = about[:, [1, 0, 2, 3]]
    assert misplaced(about, other) == [f"axis {axis} turned by 90 degrees" for axis in (0, 1)]
    assert misplaced(about, np.zeros((4, 4))) == ["its header gives the voxels no place"]


def test_other_spacings_are_said(tmp_path: Path) -> None:
    write(tmp_path)
    coarse = AFFINE @ np.diag([1, 1, 2.0, 1])
    for name, array in zip(("imagesTr", "labelsTr"), volume(2), strict=True):
        save(tmp_path / name / "case2.nii.gz", array, coarse)
    notes = [remark.text for remark in open_dataset(tmp_path).remarks]
    (note,) = [note for note in notes if "spacing" in note]
    assert note.startswith("1 of 6 volumes do not have the median spacing, 2 x 1 x 3 mm")
    assert "imagesTr/case2.nii.gz with 2 x 1 x 6 mm" in note


def test_label_maps_without_a_volume_are_said(tmp_path: Path) -> None:
    write(tmp_path)
    save(tmp_path / "labelsTr/alone.nii.gz", volume()[1])
    save(tmp_path / "labelsTr/case0_seg.nii.gz", volume()[1])  # a second one of case0
    data = open_dataset(tmp_path)
    assert len(data.train) + len(data.val) == CASES
    (note,) = [remark.text for remark in data.remarks if "left out" in remark.text]
    assert note.startswith("2 label maps have no volume of their own")
    assert "labelsTr/alone.nii.gz" in note


def test_files_of_a_list_must_exist(brain: Path, tmp_path: Path) -> None:
    (tmp_path / "brain.json").write_bytes((brain / "brain.json").read_bytes())
    with pytest.raises(DataError, match="12 files of the list do not exist"):
        open_dataset(tmp_path / "brain.json")


def test_a_label_that_the_list_lacks(tmp_path: Path) -> None:
    content = {"labels": {"0": "background", "1": "body"}, "training": write(tmp_path)}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"hold \[2\], which the list of labels lacks") as raised:
        open_dataset(tmp_path)
    assert "such as labelsTr/case0.nii.gz\nadd the labels to the list" in str(raised.value)


def test_turning_and_back() -> None:
    array = volume()[0][None]
    given = Volume(array, AFFINE)
    right = turned(given)
    assert right.shape == (1, 22, 18, 14)
    assert (np.diag(right.affine)[:3] > 0).all()
    assert right.spacing == (2.0, 1.0, 3.0)
    assert (turned_back(right.array, AFFINE) == array).all()
    voxel = np.array([3, 5, 2, 1])
    corner = AFFINE @ voxel
    there = np.linalg.solve(right.affine, corner).round().astype(int)
    assert right.array[0][tuple(there[:3])] == array[0, 3, 5, 2]


def test_answers_come_back_to_the_files_own_grid() -> None:
    image, label = volume()
    given = Volume(image[None], AFFINE)
    reader = VolumeInput(Patches(8, 1, (), (), sides=(8, 8, 8), spacing=(1.0, 1.0, 1.0)))
    ready = reader.ready(given)
    assert ready.shape == (1, 44, 18, 42)
    right = turned(Volume(label[None], AFFINE)).array
    hot = np.stack([resampled((right == c)[0][None], ready.shape[1:])[0] for c in range(3)])
    back = reader.own_grid(hot, given).argmax(0)
    assert back.shape == label.shape
    assert (back == label).mean() > 0.98


def test_labels_are_written_with_their_place(tmp_path: Path) -> None:
    label = volume()[1]
    path = write_labels(tmp_path / "out" / "a.nii.gz", label, AFFINE)
    again = nib.load(path)
    assert np.allclose(again.affine, AFFINE)
    assert again.get_data_dtype() == np.uint8
    assert (np.asarray(again.dataobj) == label).all()


def test_unreadable_volumes_say_why(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"not a volume")
    write(tmp_path / "good")
    whole = (tmp_path / "good/imagesTr/case0.nii.gz").read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    names = ("a.nii", "absent.nii.gz", "short.nii.gz", "good")
    for path in (tmp_path / name for name in names):
        with pytest.raises(ImageError):
            read_volume(path)
    with pytest.raises(DataError, match="channels given"):
        VolumeInput(Patches(8, 2, (), (), sides=(8, 8, 8))).read(volume()[0])


def test_a_series_needs_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slice").write_bytes(bytes(128) + b"DICM")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'sinet\[medical\]'"):
        read_volume(tmp_path)


def test_a_picture_shows_three_planes() -> None:
    image, label = volume()
    picture, painted = planes_of(image), planes_of(label, labels=True)
    assert picture.shape == (*painted.shape, 1)
    assert set(np.unique(painted)) <= {0, 1, 2, VOID}
