"""Patches: the windows that slide over large samples, and their plain values."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from sinet.data.inputs import preprocess_from
from sinet.data.masks import VOID
from sinet.data.patches import Patches, centres, gaussian, padded_to, places_of, slide


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
