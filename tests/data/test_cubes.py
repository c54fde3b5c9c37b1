"""Hyperspectral scenes: their formats, and how their labelled pixels are divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from sinet.data import open_dataset
from sinet.data.cubes import CubeInput, is_cube, read_cube
from sinet.data.gs2 import draw_training
from sinet.data.image import ImageError
from sinet.data.inspection import inspect_dataset
from sinet.data.masks import VOID
from sinet.data.patches import Patches
from sinet.data.readers.cubes import divided
from sinet.errors import DataError

SHAPE = (20, 24, 6)


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four fields, unlabelled between them."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE[:2], np.uint8)
    labels[:9, :11], labels[:9, 12:], labels[10:, :11], labels[10:, 12:] = 1, 2, 3, 5
    spectra = rng.normal(0, 1, (6, SHAPE[2]))
    cube = (spectra[labels] + rng.normal(0, 0.3, SHAPE)) * 100 + 1000
    return cube.astype(np.int16), labels


def envi(folder: Path, cube: np.ndarray, order: str, big: bool) -> Path:
    axes = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}[order]
    binary = cube.transpose(axes).astype(">i2" if big else "<i2").tobytes()
    (folder / "scene.dat").write_bytes(b"skip" + binary)
    (folder / "scene.hdr").write_text(
        f"ENVI\ndescription = {{\n  made here}}\nsamples = {cube.shape[1]}\n"
        f"lines = {cube.shape[0]}\nbands = {cube.shape[2]}\nheader offset = 4\n"
        f"data type = 2\ninterleave = {order}\nbyte order = {int(big)}\n"
    )
    return folder / "scene.hdr"


@pytest.mark.parametrize("order", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("big", [False, True])
def test_envi_in_every_order(tmp_path: Path, order: str, big: bool) -> None:
    cube, labels = scene()
    path = envi(tmp_path, cube, order, big)
    assert is_cube(path)
    assert (read_cube(path) == cube).all()
    np.save(tmp_path / "scene_gt.npy", labels)
    assert open_dataset(tmp_path).channels == SHAPE[2]


def test_matlab_and_numpy_files_are_the_same_data(tmp_path: Path) -> None:
    cube, labels = scene()
    for kind in ("mat", "npy"):
        (tmp_path / kind).mkdir()
    savemat(tmp_path / "mat/Toy_corrected.mat", {"toy": cube, "note": "made here"})
    savemat(tmp_path / "mat/Toy_gt.mat", {"toy_gt": labels})
    np.save(tmp_path / "npy/Toy.npy", cube)
    np.save(tmp_path / "npy/Toy_gt.npy", labels)
    sets = [open_dataset(tmp_path / "mat"), open_dataset(tmp_path / "npy/Toy.npy")]
    for data in sets:
        assert data.task == "hyperspectral"
        assert data.class_ids == [1, 2, 3, 5]
        assert list(data.splits) == ["train", "val", "test"]
    masks = [[d.splits[s].targets[0].read() for s in d.splits] for d in sets]
    assert (np.array(masks[0]) == np.array(masks[1])).all()


def test_pixels_are_divided_and_none_is_in_two_splits(tmp_path: Path) -> None:
    cube, labels = scene()
    np.save(tmp_path / "a.npy", cube)
    np.save(tmp_path / "a_gt.npy", labels)
    (tmp_path / "classes.txt").write_text("corn\nwheat\nwater\nrock\nroad\n")
    data = open_dataset(tmp_path)
    assert data.classes == ["corn", "wheat", "water", "road"]
    masks = np.array([split.targets[0].read() for split in data.splits.values()])
    used = (masks != VOID).sum(0)
    assert (used == (labels > 0)).all()
    assert {split.targets[0].digest for split in data.splits.values()} != {""}
    assert inspect_dataset(tmp_path).leaked == []


def test_large_classes_give_the_published_split() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (40, 60))
    published, _ = draw_training(labels, 200)
    parts = divided(labels)
    assert (parts["train"] == published).all()
    together = np.concatenate(list(parts.values()))
    assert (np.sort(together) == np.flatnonzero(labels)).all()


def test_maps_of_the_users_own_splits(tmp_path: Path) -> None:
    cube, labels = scene()
    np.save(tmp_path / "a.npy", cube)
    upper, lower = labels.copy(), labels.copy()
    upper[:, 6:18], lower[:, :6], lower[:, 18:] = 0, 0, 0
    np.save(tmp_path / "a_gt_train.npy", upper)
    np.save(tmp_path / "a_gt_val.npy", lower)
    data = open_dataset(tmp_path)
    assert list(data.splits) == ["train", "val"]
    assert ((data.train.targets[0].read() != VOID) == (upper > 0)).all()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "scene.hdr"),
        (b"ENVI\nsamples = 3\n", "lacks"),
        (b"ENVI\nsamples = 3\nlines = 3\nbands = 2\ndata type = 4\n", "scene.dat or scene.img"),
    ],
)
def test_headers_that_do_not_do(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "scene.hdr").write_bytes(content)
    with pytest.raises(ImageError, match=says):
        read_cube(tmp_path / "scene.hdr")


def test_a_binary_that_is_cut_short(tmp_path: Path) -> None:
    path = envi(tmp_path, scene()[0], "bsq", False)
    (tmp_path / "scene.dat").write_bytes((tmp_path / "scene.dat").read_bytes()[:100])
    with pytest.raises(ImageError, match="is cut short"):
        read_cube(path)


def test_scenes_must_have_the_same_bands(tmp_path: Path) -> None:
    cube, labels = scene()
    for name, bands in (("a", 6), ("b", 6), ("c", 5)):
        np.save(tmp_path / f"{name}.npy", cube[..., :bands])
        np.save(tmp_path / f"{name}_gt.npy", labels)
    said = r"c\.npy has 5 bands, 2 of 3 scenes have 6; .* keep the same bands of all scenes"
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path)
    np.save(tmp_path / "c.npy", cube)
    assert open_dataset(tmp_path).channels == 6


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", scene()[0])
    np.save(tmp_path / "a_gt.npy", scene()[1][:-1])
    with pytest.raises(DataError, match="give its own map"):
        open_dataset(tmp_path)
    np.save(tmp_path / "a_gt.npy", np.ones(SHAPE[:2], np.uint8))
    with pytest.raises(DataError, match="at least two are needed"):
        open_dataset(tmp_path)
    savemat(tmp_path / "b.mat", {"flat": np.ones((3, 3))})
    with pytest.raises(ImageError, match="no array with 3 axes"):
        read_cube(tmp_path / "b.mat")
    with pytest.raises(DataError, match="the bands that it was trained with"):
        CubeInput(Patches(8, 5, (), (), sides=(8, 8))).read(scene()[0])
