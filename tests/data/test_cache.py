"""Batches from memory and on demand are the same; what cannot be decoded is dealt with."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sinet.data import EvalImages, ImageCache, Preprocess, PreprocessModule, Split
from sinet.data import cache as cache_module
from sinet.data.memory import available_bytes
from sinet.errors import DataError

SIZES = {"uniform": [(20, 20)], "varied": [(20, 20), (30, 44), (64, 24), (9, 12)]}


def jpeg(h: int, w: int, seed: int, format: str = "PNG") -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC).save(stream, format)
    return stream.getvalue()


def split_of(kind: str, n: int = 12, format: str = "PNG") -> Split:
    sizes = [SIZES[kind][i % len(SIZES[kind])] for i in range(n)]
    items: list[Path | bytes] = [jpeg(h, w, i, format) for i, (h, w) in enumerate(sizes)]
    return Split(items, np.arange(n) % 3, [f"{i}.png" for i in range(n)])


def array_split(channels: int, size: int = 20, n: int = 12) -> Split:
    shape = (n, size, size) if channels == 1 else (n, size, size, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Split(pixels, np.arange(n) % 3, [str(i) for i in range(n)], channels)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "available_bytes", lambda: 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_size_come_as_they_are(channels: int) -> None:
    split = split_of("uniform")
    cache = ImageCache(split, 16, channels)
    assert (cache.uniform, cache.in_memory, len(cache)) == (True, True, 12)
    batch = cache.batch([5, 0, 5])
    assert (batch.dtype, batch.shape) == (torch.uint8, (3, channels, 20, 20))
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), split.image(5, channels))
    assert torch.equal(batch[0], batch[2])
    assert cache.labels[[5, 0]].tolist() == [2, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_shared_not_copied(channels: int) -> None:
    split = array_split(channels)
    cache = ImageCache(split, 20, channels)
    split.items[3] = 7  # type: ignore[index]
    assert (cache.batch([3]) == 7).all()
    assert cache.batch(torch.tensor([1, 2])).shape == (2, channels, 20, 20)


def test_arrays_of_other_channels_or_too_large_are_converted() -> None:
    assert ImageCache(array_split(1), 20, 3).batch([0]).shape == (1, 3, 20, 20)
    assert ImageCache(array_split(3, 40), 16, 3).batch([0]).shape == (1, 3, 20, 20)


def test_large_images_are_reduced_to_what_crops_need() -> None:
    split = split_of("varied", format="JPEG")
    cache = ImageCache(split, 8, 3)
    assert [min(image.shape[1:]) for image in cache._images.store] == [10, 10, 10, 9] * 3  # type: ignore[union-attr]


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
def test_images_of_different_sizes_are_cropped_at_random(crop: str) -> None:
    cache = ImageCache(split_of("varied"), 16, 3, crop=crop)
    assert (cache.uniform, cache.in_memory) == (False, True)
    one, two, other = (
        cache.batch(range(12), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert (one.dtype, one.shape) == (torch.float32, (12, 3, 16, 16))
    assert one.min() >= 0
    assert one.max() <= 255
    assert torch.equal(one, two)
    assert torch.equal(one, other) == (crop == "none")
    assert cache.batch([0, 1], size=8).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.usefixtures("no_memory")
def test_on_demand_gives_the_same_as_from_memory(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_of(kind)
    cache = ImageCache(split, 16, 3)
    assert (cache.uniform, cache.in_memory) == (False, False)
    batch = cache.batch(range(12), generator=torch.Generator().manual_seed(0))
    assert (batch.dtype, batch.shape) == (torch.float32, (12, 3, 16, 16))
    on_demand = EvalImages(split, Preprocess(16, 3, (0.5,) * 3, (0.2,) * 3)).batch(range(12))
    monkeypatch.undo()
    if kind == "varied":
        stored = ImageCache(split, 16, 3)
        again = stored.batch(range(12), generator=torch.Generator().manual_seed(0))
        assert torch.equal(batch, again)
    kept = EvalImages(split, Preprocess(16, 3, (0.5,) * 3, (0.2,) * 3)).batch(range(12))
    torch.testing.assert_close(on_demand, kept, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("crop_pct", [1.0, 0.8])
@pytest.mark.parametrize("size", [12, 24])
def test_validation_images_are_preprocessed_exactly(kind: str, crop_pct: float, size: int) -> None:
    """Smaller than the network: to the bit. Larger: rounded to uint8, half a grey level."""
    split = split_of(kind)
    preprocess = Preprocess(size, 3, (0.5,) * 3, (0.2,) * 3, crop_pct)
    images = EvalImages(split, preprocess)
    module = PreprocessModule(preprocess)
    expected = torch.cat([module(torch.tensor(split.image(i))[None]) for i in range(12)])
    found = images.batch(range(12))
    assert torch.equal(torch.cat([x for x, _ in images.batches(5)]), found)
    assert [len(y) for _, y in images.batches(5)] == [5, 5, 2]
    if kind == "uniform" and size == 24:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    level = 1 / 255 / 0.2
    assert (found - expected).abs().max() <= 0.5 * level + 1e-5


@pytest.mark.parametrize("size", [8, 20, 30])
def test_validation_arrays(size: int) -> None:
    split = array_split(1)
    preprocess = Preprocess(size, 1, (0.3,), (0.3,))
    expected = PreprocessModule(preprocess)(torch.from_numpy(split.items)[..., None])  # type: ignore[arg-type]
    assert torch.equal(EvalImages(split, preprocess).batch(range(12)), expected)


def spoil(split: Split, *positions: int) -> Split:
    """Damage in the middle, which only decoding can find."""
    for i in positions:
        content = split.items[i]
        assert isinstance(content, bytes)
        split.items[i] = content[:60] + bytes(20) + content[80:]  # type: ignore[index]
    return split


@pytest.mark.parametrize("kind", SIZES)
def test_undecodable_images_are_left_out(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = ImageCache(spoil(split_of(kind), 4), 16, 3, max_bad_share=0.1)
    assert [name for name, _ in cache.skipped] == ["4.png"]
    assert len(cache) == len(cache.labels) == 11
    assert "4.png" not in cache.split.names
    assert "1 of 12 images cannot be decoded" in caplog.text
    good = ImageCache(split_of(kind), 16, 3, crop="none")
    spoilt = ImageCache(spoil(split_of(kind), 4), 16, 3, crop="none", max_bad_share=0.1)
    assert torch.equal(spoilt.batch([4]), good.batch([5]))


def test_too_many_undecodable_images_are_fatal() -> None:
    with pytest.raises(DataError, match="3 of 12 images cannot be read"):
        ImageCache(spoil(split_of("uniform"), 1, 4, 7), 16, 3)


@pytest.mark.usefixtures("no_memory")
def test_on_demand_another_image_of_the_class_stands_in(caplog: pytest.LogCaptureFixture) -> None:
    good = ImageCache(split_of("varied"), 16, 3, crop="none")
    cache = ImageCache(spoil(split_of("varied"), 4), 16, 3, crop="none")
    assert torch.equal(cache.batch([4]), good.batch([7]))
    assert "another image of its class is used instead" in caplog.text
    hopeless = ImageCache(spoil(split_of("varied"), 1, 4, 7, 10), 16, 3)
    with pytest.raises(DataError, match="cannot read image"):
        hopeless.batch([4])


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    ImageCache(split_of("uniform", 300), 16, 3, progress=lambda *done: seen.append(done))
    assert seen == [(256, 300), (300, 300)]


@pytest.mark.parametrize("kind", SIZES)
def test_a_cache_can_be_sent_to_a_worker(kind: str) -> None:
    cache = ImageCache(split_of(kind), 16, 3, crop="none")
    cache.batch([0])  # its threads are not sent along
    again = pickle.loads(pickle.dumps(cache))
    assert torch.equal(again.batch([1, 2]), cache.batch([1, 2]))


def test_a_strip_is_unreadable_rather_than_gigabytes() -> None:
    split = split_of("varied")
    split.items[0] = jpeg(2, 900, 0)  # type: ignore[index]
    images = EvalImages(split, Preprocess(8, 3, (0.5,) * 3, (0.2,) * 3), max_bad_share=0.1)
    assert images.skipped[0][0] == "0.png"
    assert "900 x 2 pixels" in images.skipped[0][1]


def test_available_memory_is_plausible() -> None:
    assert 2**20 < available_bytes() < 2**50
