"""One rule for size and crop, and a module that follows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from sinet.data import Preprocess, PreprocessModule
from sinet.data.preprocess import AnyShape
from sinet.errors import DataError

sides = st.integers(1, 700)
crops = st.sampled_from([1.0, 0.95, 0.9, 0.875, 0.5])
PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # leaves the 0..255 scale


def make(size: int, crop_pct: float = 1.0, channels: int = 3) -> Preprocess:
    return Preprocess(size, channels, (0.4,) * channels, (0.2,) * channels, crop_pct)


@given(h=sides, w=sides, size=st.integers(1, 300), crop_pct=crops)
def test_geometry(h: int, w: int, size: int, crop_pct: float) -> None:
    preprocess = make(size, crop_pct)
    if max(h, w) > 100 * min(h, w):
        with pytest.raises(DataError, match=rf"an image of {w} x {h} pixels .* cannot be used"):
            preprocess.resized(h, w)
        return
    new_h, new_w = preprocess.resized(h, w)
    assert min(new_h, new_w) == preprocess.short_side >= size
    assert abs(new_h / new_w - h / w) <= (h / w + 1) / min(new_h, new_w)
    assert preprocess.resized(w, h) == (new_w, new_h)
    assert preprocess.resized(new_h, new_w) == (new_h, new_w)


@settings(max_examples=40, deadline=None)
@given(h=st.integers(4, 90), w=st.integers(4, 90), size=st.integers(4, 48), crop_pct=crops)
def test_module_agrees_with_the_rule(h: int, w: int, size: int, crop_pct: float) -> None:
    preprocess = make(size, crop_pct)
    images = torch.randint(0, 256, (2, h, w, 3), dtype=torch.uint8)
    out = PreprocessModule(preprocess)(images)
    assert (out.dtype, out.shape) == (torch.float32, (2, 3, size, size))
    assert torch.isfinite(out).all()
    low, high = (-0.4 / 0.2, 0.6 / 0.2)
    assert out.min() >= low - 1e-4
    assert out.max() <= high + 1e-4
    # The same by hand, one image at a time.
    new_h, new_w = preprocess.resized(h, w)
    planes = images[1:].permute(0, 3, 1, 2).float()
    planes = F.interpolate(planes, (new_h, new_w), mode="bilinear", antialias=True)
    top, left = (new_h - size) // 2, (new_w - size) // 2
    byhand = planes[:, :, top : top + size, left : left + size] / 255
    torch.testing.assert_close(out[1:], (byhand - 0.4) / 0.2, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(h=st.integers(8, 90), w=st.integers(8, 90), value=st.integers(0, 255))
def test_a_flat_picture_stays_flat(h: int, w: int, value: int) -> None:
    out = PreprocessModule(Preprocess(16, 3, **PLAIN))(
        torch.full((1, h, w, 3), value, dtype=torch.uint8)
    )
    torch.testing.assert_close(out, torch.full_like(out, value), rtol=1e-4, atol=1e-3)


def test_the_right_size_is_left_as_it_is() -> None:
    images = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    out = PreprocessModule(Preprocess(16, 3, **PLAIN))(images)
    torch.testing.assert_close(out, images.permute(0, 3, 1, 2).float(), rtol=1e-5, atol=1e-4)


def test_it_is_pillows_resize() -> None:
    """Antialiased as Pillow does it, but for rounding: a photo shrinks without artefacts."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((43, 32), Image.Resampling.BILINEAR)
    expected = np.asarray(image)[:, 5:37].transpose(2, 0, 1)
    out = PreprocessModule(Preprocess(32, 3, **PLAIN))(torch.from_numpy(pixels)[None])
    assert np.abs(out[0].numpy() - expected).max() <= 1


@pytest.mark.parametrize(("size", "crop_pct", "short"), [(224, 0.875, 256), (224, 0.95, 236),
                         (32, 1.0, 32), (28, 0.9, 31), (5, 0.5, 10)])  # fmt: skip
def test_short_side(size: int, crop_pct: float, short: int) -> None:
    assert make(size, crop_pct).short_side == short


def test_round_trip_through_json() -> None:
    preprocess = make(64, 0.9, 1)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (8, 8, 3), (1, 3, 8, 8)])
def test_wrong_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"images of shape .* given; \(N, H, W, 3\) expected"):
        PreprocessModule(make(8))(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    "changes", [{"size": 0}, {"channels": 4}, {"crop_pct": 0}, {"crop_pct": 1.2},
                {"mean": (0.5,)}, {"std": (0.0, 1.0, 1.0)}, {"multiple": 0}, {"multiple": 2}],
)  # fmt: skip
def test_impossible_values_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Preprocess(**{"size": 8, "channels": 3, "mean": (0.5,) * 3, "std": (1.0,) * 3, **changes})


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 70), w=st.integers(1, 70), multiple=st.integers(1, 9))
def test_none_leaves_the_size_or_repeats_the_edge(h: int, w: int, multiple: int) -> None:
    preprocess = Preprocess(24, 3, **PLAIN, width=40, fit="none", multiple=multiple)
    images = torch.randint(0, 256, (2, h, w, 3), dtype=torch.uint8)
    out = PreprocessModule(preprocess)(images)
    high, wide = out.shape[2:]
    assert high % multiple == wide % multiple == 0
    assert 0 <= high - h < multiple
    assert 0 <= wide - w < multiple
    planes = images.permute(0, 3, 1, 2).float()
    torch.testing.assert_close(out[..., :h, :w], planes, rtol=1e-5, atol=1e-4)
    assert (out[..., h:, :] == out[..., h - 1 : h, :]).all()
    assert (out[..., :, w:] == out[..., :, w - 1 : w]).all()
    assert isinstance(preprocess.shape, AnyShape)
    assert not isinstance(make(24).shape, AnyShape)


def test_none_takes_strips_but_nothing_empty() -> None:
    preprocess = Preprocess(8, 3, **PLAIN, fit="none")
    assert preprocess.resized(1, 900) == (1, 900)
    with pytest.raises(DataError, match="0 x 5"):
        preprocess.resized(5, 0)
