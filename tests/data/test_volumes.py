"""Volumes: their readers, their grid, and the windows that slide over them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from sinet.data import open_dataset
from sinet.data.image import ImageError
from sinet.data.inputs import preprocess_from
from sinet.data.inspection import inspect_dataset
from sinet.data.masks import VOID
from sinet.data.patches import Patches, centres, gaussian, padded_to, places_of, slide
from sinet.data.volumes import (
    Volume,
    VolumeInput,
    planes_of,
    read_volume,
    resampled,
    turned,
    turned_back,
    write_labels,
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
    assert any("without a label" in note for note in data.notes)
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


def test_files_of_a_list_must_exist(brain: Path, tmp_path: Path) -> None:
    (tmp_path / "brain.json").write_bytes((brain / "brain.json").read_bytes())
    with pytest.raises(DataError, match="12 files of the list do not exist"):
        open_dataset(tmp_path / "brain.json")


def test_a_label_that_the_list_lacks(tmp_path: Path) -> None:
    content = {"labels": {"0": "background", "1": "body"}, "training": write(tmp_path)}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"hold \[2\], which the list of labels lacks"):
        open_dataset(tmp_path)


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


@pytest.mark.parametrize("sides", [(16, 16, 16), (8, 32, 4), (20, 37, 9), (5, 7)])
def test_windows_slide_as_those_of_monai(sides: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.inferers import sliding_window_inference
    torch.manual_seed(0)
    flat = len(sides) == 2
    network = (torch.nn.Conv2d if flat else torch.nn.Conv3d)(2, 3, 3, padding=1)
    array = np.random.default_rng(0).standard_normal((2, 20, 37, 9)[: 3 if flat else 4])
    array = array.astype(np.float32)
    with torch.no_grad():
        ours = slide(lambda p: network(torch.from_numpy(p)).numpy(), array, sides, 0.5)
        theirs = sliding_window_inference(
            torch.from_numpy(array)[None], sides, 1, network, overlap=0.5, mode="gaussian"
        )[0].numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-5


def test_slices_of_a_volume_are_seen_one_by_one() -> None:
    array = np.random.default_rng(0).standard_normal((1, 9, 10, 5)).astype(np.float32)
    found = slide(lambda p: p * 2, array, (4, 4), 0.5)
    assert np.allclose(found, 2 * array, atol=1e-5)


def test_every_pixel_is_the_centre_of_one_patch() -> None:
    array = np.random.default_rng(0).standard_normal((2, 7, 9)).astype(np.float32)
    found = centres(lambda p: p[:, :, 2:3, 2:3], array, (5, 5))
    assert (found == array).all()


def test_windows_cover_everything() -> None:
    places = places_of((33, 16), (16, 16), 0.25)
    seen = np.zeros((1, 33, 16))
    for place in places:
        seen[place] += 1
        assert seen[place].shape == (1, 16, 16)
    assert (seen > 0).all()
    weight = gaussian((16, 16))
    assert weight.max() == weight[8, 8]
    assert weight.min() >= 1e-3


def test_what_is_small_is_padded_on_both_ends() -> None:
    label = np.ones((1, 3, 9), np.uint8)
    padded, inside = padded_to(label, (8, 8), VOID)
    assert padded.shape == (1, 8, 9)
    assert (padded[inside] == label).all()
    assert (padded[0, 0] == VOID).all()
    assert (padded[0, -1] == VOID).all()


def test_patches_are_kept_as_plain_values() -> None:
    patches = Patches(8, 2, (1.0, 2.0), (3.0, 4.0), sides=(8, 8, 4), low=-1, high=9.5)
    assert preprocess_from(json.loads(json.dumps(patches.to_dict()))) == patches
    assert patches.shape == (8, 8, 4)
    for wrong in ({"sides": ()}, {"mean": (0.0,)}, {"overlap": 1.0}, {"channels": 0}):
        with pytest.raises(ValueError, match="expected"):
            Patches(**{**patches.to_dict(), **wrong})


def test_values_are_normalised_by_their_own_or_by_the_datas() -> None:
    array = np.array([[0, 0, 10, 20, 30]], np.float32)
    own = Patches(8, 1, (), (), sides=(8, 8)).normalised(array)
    assert own[0, :2].tolist() == [0, 0]  # what is outside of a scan
    assert own[0, 2:].mean() == pytest.approx(0)
    assert own[0, 2:].std() == pytest.approx(1)
    data = Patches(8, 1, (10.0,), (5.0,), sides=(8, 8), low=5, high=20).normalised(array)
    assert data[0].tolist() == [-1, -1, 0, 2, 2]


def test_a_picture_shows_three_planes() -> None:
    image, label = volume()
    picture, painted = planes_of(image), planes_of(label, labels=True)
    assert picture.shape == (*painted.shape, 1)
    assert set(np.unique(painted)) <= {0, 1, 2, VOID}
