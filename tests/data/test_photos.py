"""Bicubic as MATLAB has it, photographs as data, and windows of both sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from sinet.data.bicubic import _taps, cropped, enlarge, resize, shrink
from sinet.data.dataset import open_dataset
from sinet.data.image import ImageError
from sinet.data.photos import PhotoPairs
from sinet.data.readers import readers
from sinet.data.views import Part
from sinet.errors import DataError


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def by_hand(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """torch's antialiased bicubic is the same kernel; mirrored far enough, borders agree too."""
    far = 48
    wide = np.pad(image.astype(np.float64), ((far, far), (far, far), (0, 0)), mode="symmetric")
    planes = torch.from_numpy(wide).permute(2, 0, 1)[None]
    sides = [n * (s + 2 * far) // s for n, s in zip((height, width), image.shape, strict=False)]
    out = F.interpolate(planes, sides, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
    return out[top : top + height, left : left + width]


@pytest.mark.parametrize(("scale", "sides"), [(2, (48, 96)), (3, (48, 96)), (4, (48, 96))])
@pytest.mark.parametrize("larger", [False, True])
def test_the_kernel_and_the_border(scale: int, sides: tuple[int, int], larger: bool) -> None:
    image = noise(*sides)
    height, width = (s * scale if larger else s // scale for s in sides)
    if not larger:
        np.testing.assert_allclose(
            resize(image, height, width), by_hand(image, height, width), atol=1e-3
        )
        return
    # torch's antialiased and plain kernels differ when enlarging (a = -0.75): weights by hand
    weights, places = _taps(sides[0], height)
    assert weights.shape[1] <= 4 + (scale % 2 == 0)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    assert places.min() >= 0
    assert places.max() < sides[0]
    np.testing.assert_allclose(resize(np.full((8, 9, 3), 77.0), 8 * scale, 9 * scale), 77.0)


def test_the_weights_of_half_the_size() -> None:
    """Published with MATLAB's `imresize`: eight taps, symmetric, of these numerators over 256."""
    weights, places = _taps(64, 32)
    inner = weights[10][weights[10] != 0] * 256
    np.testing.assert_allclose(inner, [-3, -9, 29, 111, 111, 29, -9, -3], atol=1e-9)
    assert set(places[0][weights[0] != 0]) == {0, 1, 2, 3, 4}  # mirrored at the border


@settings(max_examples=20, deadline=None)
@given(h=st.integers(4, 40), w=st.integers(4, 40), scale=st.sampled_from([2, 3, 4]))
def test_sizes(h: int, w: int, scale: int) -> None:
    image = noise(h, w)
    small = shrink(image, scale)
    assert small.shape == (h // scale, w // scale, 3)
    assert enlarge(small, scale).shape == cropped(image, scale).shape
    assert (shrink(np.full_like(image, 200), scale) == 200).all()


def test_nothing_is_left_of_a_tiny_picture() -> None:
    with pytest.raises(ImageError, match="3 x 2 pixels are too few"):
        shrink(noise(2, 3), 3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(6):
        folder = tmp_path / f"kind{i % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(noise(30 + i, 41, i)).save(folder / f"{i}.png")
    return tmp_path


def test_photographs_have_small_versions(photos: Path) -> None:
    data = open_dataset(photos, task="superres")
    assert (data.task, data.format) == ("superres", "photographs")
    assert (data.classes, data.class_ids) == (["x2"], [2])
    assert len(data.train) + len(data.val) == 6
    for split in (data.train, data.val):
        for i in range(len(split)):
            large = split.targets[i].read()
            assert (split.image(i) == shrink(large, 2)).all()
    assert len(data.train.subset(np.array([1])).views) == 1
    (photos / "scale.txt").write_text("3\n")
    assert open_dataset(photos, task="superres").class_ids == [3]
    (photos / "scale.txt").write_text("7")
    with pytest.raises(DataError, match=r"scale\.txt holds '7'; one of 2, 3, 4 expected"):
        open_dataset(photos, task="superres")


def test_pictures_alone_are_never_taken_for_this(photos: Path) -> None:
    assert open_dataset(photos).task == "classify"
    assert "photographs" not in [reader.FORMAT for reader in readers()]


def pairs(root: Path, scale: int = 2, odd: int = 0) -> Path:
    for split in ("train", "val"):
        for kind in ("HR", "LR"):
            (root / split / kind).mkdir(parents=True)
        for i in range(3):
            large = noise(24, 36 + odd * i, i)
            Image.fromarray(large).save(root / split / "HR" / f"{i}.png")
            Image.fromarray(large[::scale, ::scale]).save(root / split / "LR" / f"{i}x2.png")
    return root


def test_pairs_are_found_by_name(tmp_path: Path) -> None:
    data = open_dataset(pairs(tmp_path), task="superres")
    assert data.class_ids == [2]
    assert (data.val.image(1) == data.val.targets[1].read()[::2, ::2]).all()


def test_pairs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pairs(tmp_path)
    Image.fromarray(noise(20, 36)).save(tmp_path / "val" / "HR" / "1.png")
    with pytest.raises(DataError, match=r"1\.png has 36 x 20 pixels and .* 18 x 12; all large"):
        open_dataset(tmp_path, task="superres")
    (tmp_path / "val" / "HR" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1 pictures in .*LR have no large one.*1x2\.png"):
        open_dataset(tmp_path, task="superres")


def test_windows_show_the_same_in_both_sizes(photos: Path) -> None:
    split = open_dataset(photos, task="superres").train
    held = PhotoPairs(split, 3)
    draws = torch.Generator().manual_seed(0)
    small, large = held.random([0, 1], 8, 3, draws)
    assert (small.shape, large.shape) == ((6, 3, 8, 8), (6, 3, 16, 16))
    whole, big = held[0]
    spots = [
        (top, left)
        for top in range(whole.shape[0] - 7)
        for left in range(whole.shape[1] - 7)
        if (whole[top : top + 8, left : left + 8] == small[0].permute(1, 2, 0).numpy()).all()
    ]
    ((top, left),) = spots
    same = big[2 * top : 2 * top + 16, 2 * left : 2 * left + 16]
    assert (same == large[0].permute(1, 2, 0).numpy()).all()
    held.store = None  # as if they did not fit into memory
    again = held.random([0, 1], 8, 3, torch.Generator().manual_seed(0))
    assert (again[0] == small).all()
    small, large = held.middle([0], 64)  # larger than the picture: mirrored
    assert (small.shape, large.shape) == ((1, 3, 64, 64), (1, 3, 128, 128))
    side = whole.shape[0]
    assert (small[0, :, side] == small[0, :, side - 1]).all()


def test_a_part_ends_at_the_border() -> None:
    image = noise(10, 12)
    assert Part(-3, 5, 4, 99)(image).shape == (4, 7, 3)
    with pytest.raises(ImageError, match="outside of the picture"):
        Part(-9, 0, -2, 5)(image)
