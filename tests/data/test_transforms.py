"""Augmentation: right shapes, random from torch's state alone, and no more than the recipe asks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sinet.data import BatchAugment, Preprocess, PreprocessModule
from sinet.data.crops import cut, random_areas, random_boxes, squares

OFF: dict[str, Any] = {
    "crop": "none",
    "crop_scale": 0.35,
    "flip": "none",
    "randaugment": 0.0,
    "color_jitter": 0.0,
    "random_erasing": 0.0,
}
EACH: list[dict[str, Any]] = [
    {},
    {"flip": "horizontal"},
    {"crop": "pad"},
    {"crop": "resized"},
    {"randaugment": 7.0},
    {"color_jitter": 0.4},
    {"random_erasing": 0.5},
    {"crop": "resized", "flip": "horizontal", "randaugment": 9.0, "color_jitter": 0.2,
     "random_erasing": 0.25},
]  # fmt: skip


def augment(size: int = 16, channels: int = 3, **changes: Any) -> BatchAugment:
    recipe = SimpleNamespace(**{**OFF, **changes})
    return BatchAugment(recipe, Preprocess(size, channels, (0.5,) * channels, (0.25,) * channels))


def pictures(n: int = 20, channels: int = 3, h: int = 16, w: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, h, w), dtype=torch.uint8, generator=generator)


def named(changes: dict[str, Any]) -> str:
    return "+".join(changes) or "off"


@pytest.mark.parametrize("changes", EACH, ids=named)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("images", ["uint8", "float"])
@pytest.mark.parametrize(("hw", "size"), [((16, 16), 16), ((12, 20), 16), ((40, 40), 16)])
def test_shape_range_and_determinism(
    changes: dict[str, Any], channels: int, images: str, hw: tuple[int, int], size: int
) -> None:
    batch = pictures(20, channels, *hw)
    if images == "float":
        batch = batch.float()
    before = batch.clone()
    run = augment(size, channels, **changes)
    torch.manual_seed(3)
    one = run(batch)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    two = run(batch)
    assert (one.dtype, one.shape) == (torch.float32, (20, channels, size, size))
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(batch, before)
    assert one.min() >= -2.001
    assert one.max() <= 2.001
    if changes and not (images == "float" and set(changes) == {"crop"}):
        assert not torch.equal(one, run(batch))


def test_other_generators_are_left_alone() -> None:
    """A resumed run seeds torch only."""
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    augment(**EACH[-1])(pictures())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


@pytest.mark.parametrize(("hw", "size"), [((16, 16), 16), ((16, 16), 32)])
def test_nothing_on_is_the_preprocessing(hw: tuple[int, int], size: int) -> None:
    batch = pictures(4, 3, *hw)
    run = augment(size)
    expected = PreprocessModule(run.preprocess)(batch.permute(0, 2, 3, 1))
    inner = slice(1, -1)  # at the edge, reflecting differs from repeating by a fraction of a pixel
    torch.testing.assert_close(
        run(batch)[..., inner, inner], expected[..., inner, inner], rtol=1e-4, atol=1e-4
    )


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    batch = pictures(400, 1, 8, 8)
    run = augment(8, 1, flip="horizontal")
    plain = augment(8, 1)(batch)
    mirrored = (run(batch) == plain.flip(-1)).flatten(1).all(1)
    kept = (run.__call__(batch) == plain).flatten(1).all(1)
    assert 150 < mirrored.sum() < 250
    assert 150 < kept.sum() < 250


def test_pad_shifts_by_whole_pixels_and_reflects() -> None:
    torch.manual_seed(0)
    batch = pictures(1, 1, 16, 16).expand(300, 1, 16, 16)
    out = augment(16, 1, crop="pad")(batch)
    padded = torch.nn.functional.pad(augment(16, 1)(batch[:1]), (2, 2, 2, 2), mode="replicate")
    shifts = set()
    for image in out:
        found = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if torch.allclose(
                image[0, 2:-2, 2:-2], padded[0, 0, dy + 2 : dy + 14, dx + 2 : dx + 14], atol=1e-3
            )
        ]
        shifts.update(found)
        assert found
    assert shifts == {(dy, dx) for dy in range(5) for dx in range(5)}


def test_erasing_fills_a_rectangle_with_the_mean() -> None:
    torch.manual_seed(0)
    batch = torch.full((200, 3, 24, 24), 255, dtype=torch.uint8)
    erased = augment(24, random_erasing=0.5)(batch) == 0
    assert torch.equal(erased[:, 0], erased[:, 2])
    touched = erased[:, 0].flatten(1).any(1)
    assert 70 < touched.sum() < 130
    for mask in erased[touched][:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()
        assert 0.01 <= mask.float().mean() <= 0.4


def test_random_numbers_differ_between_chunks() -> None:
    torch.manual_seed(0)
    batch = pictures(1, 3).expand(64, 3, 16, 16)
    out = augment(color_jitter=0.8)(batch)
    assert torch.equal(out[0], out[15])
    assert len({tuple(image.flatten()[:20].tolist()) for image in out}) == 4


def test_size_can_grow_during_training() -> None:
    run = augment(32, crop="resized")
    for size in (16, 24, 32):
        assert run(pictures(), size).shape == (20, 3, size, size)


sizes = st.integers(8, 60)


@settings(max_examples=50, deadline=None)
@given(h=sizes, w=sizes, least=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_random_areas_lie_inside(h: int, w: int, least: float, seed: int) -> None:
    n = 50
    generator = torch.Generator().manual_seed(seed)
    boxes = random_areas(torch.full((n,), float(h)), torch.full((n,), float(w)), (least, 1.0),
                         generator=generator)  # fmt: skip
    top, left, height, width = boxes.unbind(1)
    assert (boxes >= 0).all()
    assert (top + height <= h + 1e-3).all()
    assert (left + width <= w + 1e-3).all()
    assert (height * width <= h * w * 1.001).all()
    free = (height < h * 0.999) & (width < w * 0.999)  # not cut down to fit
    assert (height[free] * width[free] >= least * h * w * 0.999).all()
    assert ((width / height)[free] <= 4 / 3 + 1e-3).all()


@given(h=sizes, w=sizes, kind=st.sampled_from(["pad", "none"]))
def test_squares(h: int, w: int, kind: str) -> None:
    heights, widths = torch.full((30,), float(h)), torch.full((30,), float(w))
    inside = random_boxes(kind, heights, widths, 0.35, overhang=False)
    assert (inside[:, 2] == inside[:, 3]).all()
    assert (inside[:, :2] >= 0).all()
    assert (inside[:, 0] + inside[:, 2] <= h).all()
    assert (inside[:, 1] + inside[:, 3] <= w).all()
    moved = squares(heights, widths, 1.0, 0.125)
    assert (moved[:, :2] == moved[:, :2].round()).all()
    assert (moved[:, 0] >= -min(h, w) // 8).all()


def test_cut_is_the_crop() -> None:
    """A box of whole pixels, of the size of the result, is copied; mirrored, it is reversed."""
    batch = pictures(2, 3, 20, 30)
    boxes = torch.tensor([[3.0, 5, 15, 15], [5, 15, 15, 15]])
    out = cut(batch, boxes, torch.tensor([False, True]), 15)
    torch.testing.assert_close(out[0], batch[0, :, 3:18, 5:20].float(), rtol=0, atol=1e-2)
    torch.testing.assert_close(out[1], batch[1, :, 5:, 15:].flip(-1).float(), rtol=0, atol=1e-2)
