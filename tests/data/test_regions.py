"""Pixels of objects: the same run lengths, outlines and overlaps as pycocotools has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinet.data.regions import Region, filled, from_rle, from_text, overlap, region_iou, to_text

theirs = pytest.importorskip("pycocotools.mask")


def masks(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = rng.integers(1, 40, (count, 2))
    return [rng.random(shape) < rng.choice([0, 0.05, 0.5, 0.95, 1]) for shape in shapes]


def encoded(mask: np.ndarray) -> dict[str, object]:
    return theirs.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_run_lengths_are_those_of_pycocotools() -> None:
    for mask in masks(150):
        region = Region.of(mask)
        rle = region.rle(mask.shape)
        expected = encoded(mask)
        assert rle["counts"] == expected["counts"].decode()
        assert rle["size"] == expected["size"]
        assert region.area == theirs.area(expected)
        assert (from_rle(rle) == mask).all()
        assert (from_rle({**rle, "counts": from_text(rle["counts"]).tolist()}) == mask).all()
        assert (from_rle(expected) == mask).all()  # bytes
        assert (region.full(mask.shape) == mask).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2**40), max_size=12))
def test_text_holds_any_numbers(runs: list[int]) -> None:
    assert from_text(to_text(np.array(runs, np.int64))).tolist() == runs


@pytest.mark.parametrize("whole", [True, False])
def test_filled_outlines_are_those_of_pycocotools(whole: bool) -> None:
    rng = np.random.default_rng(0)
    for i in range(250):
        height, width = (int(side) for side in rng.integers(5, 70, 2))
        parts = []
        for _ in range(1 + i % 3):
            points = rng.uniform(-15, 85, (rng.integers(3, 12), 2))
            parts.append((points.round() if whole else points).ravel().tolist())
        if i % 5 == 0:
            parts[0] += parts[0][-2:]  # a point twice
        merged = theirs.merge(theirs.frPyObjects(parts, height, width))
        ours = filled(parts, (height, width))
        assert ours.rle((height, width))["counts"] == merged["counts"].decode()


def test_outlines_outside_of_the_image_are_nothing() -> None:
    assert filled([[50, 50, 60, 50, 60, 60]], (40, 40)).area == 0
    assert filled([], (40, 40)).area == 0


def test_overlaps_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    size = (50, 60)
    several = []
    for _ in range(2):
        regions = []
        for _ in range(8):
            top, left = (int(v) for v in rng.integers(0, 40, 2))
            regions.append(Region.of(rng.random(rng.integers(3, 20, 2)) < 0.7, top, left))
        several.append([r if r.top + r.pixels.shape[0] <= 50 else Region.of(r.full(size))
                        for r in regions])  # fmt: skip
    one, other = several
    crowd = rng.random(8) < 0.5
    rles = [[region.rle((80, 80)) for region in part] for part in several]
    expected = theirs.iou(*rles, crowd.astype(np.uint8).tolist())
    np.testing.assert_allclose(region_iou(one, other, crowd), expected, atol=1e-12)
    both = one[0].full((80, 80)) & other[0].full((80, 80))
    assert overlap(one[0], other[0]) == both.sum()


def test_a_region_is_cut_at_the_border() -> None:
    region = Region(-2, 3, np.ones((5, 5), bool))
    assert region.full((10, 6)).sum() == 3 * 3
    assert region.corners == (3, -2, 8, 3)
    assert Region.of(np.zeros((4, 4))).area == 0
    assert (
        Region.of(np.zeros((4, 4))).rle((4, 4))["counts"]
        == encoded(np.zeros((4, 4)))["counts"].decode()
    )


def test_a_resized_image_has_resized_regions() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    small = Region.of(mask).resized((40, 60), (20, 30))
    assert small.corners == (10, 5, 25, 15)


def test_runs_that_do_not_fill_the_mask_are_refused() -> None:
    with pytest.raises(ValueError, match="runs of 7 pixels for a mask of 2 x 2"):
        from_rle({"size": [2, 2], "counts": [3, 4]})
