"""Boxes stay with their pixels, whatever is done to the image."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from sinet.data.boxes import Boxes
from sinet.data.dataset import Split
from sinet.data.mosaic import Jitter, Scenes
from sinet.data.preprocess import Preprocess, PreprocessModule

CHANGES = {
    "none": Jitter(),
    "shift": Jitter(shift=0.2),
    "scale": Jitter(scale=1.7),
    "flip": Jitter(flip=True),
    "mosaic": Jitter(mosaic=1.0),
    "all": Jitter(mosaic=0.5, scale=1.5, flip=True),
}


def split(count: int = 6, channels: int = 3, shape: tuple[int, int] = (90, 120)) -> Split:
    """Black images, in each two rectangles; that of class 0 is red, that of class 1 green."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, *shape, channels), np.uint8)
    targets = []
    for i, image in enumerate(images):
        corners = []
        for kind, left in enumerate((5, 65)):
            x, y = left + rng.integers(0, 12), rng.integers(5, 40)
            wide, high = rng.integers(20, 36), rng.integers(20, 40)
            image[y : y + high, x : x + wide, kind % channels] = 255
            corners.append((x, y, x + wide, y + high))
        targets.append(Boxes.of(str(i), corners, [0, 1]))
    names = [str(i) for i in range(count)]
    return Split(images, np.ones((count, 2), np.float32), names, channels, targets)


def preprocess(high: int = 64, wide: int = 96, channels: int = 3) -> Preprocess:
    return Preprocess(high, channels, (0.5,) * channels, (0.5,) * channels, width=wide, fit="pad")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", [(64, 96), (96, 64)])
def test_boxes_hold_their_pixels(change: str, shape: tuple[int, int]) -> None:
    scenes = Scenes(split(), preprocess(*shape), spare=1.25)
    seen = 0
    for seed in range(8):
        draws = torch.Generator().manual_seed(seed)
        images, boxes = scenes.jittered([0, 1, 2, 3], CHANGES[change], draws)
        assert images.shape == (4, 3, *shape)
        for image, found in zip(images.numpy(), boxes, strict=True):
            for corners, label in zip(found.corners, found.labels, strict=True):
                x1, y1, x2, y2 = corners
                assert 0 <= x1 < x2 <= shape[1]
                assert 0 <= y1 < y2 <= shape[0]
                inner = image[label, round(y1 + 1) : round(y2 - 1), round(x1 + 1) : round(x2 - 1)]
                assert inner.size == 0 or inner.mean() > 230  # full of its own colour
                seen += 1
            other = image.astype(float)
            for corners, label in zip(found.corners, found.labels, strict=True):
                x1, y1, x2, y2 = corners
                other[
                    label, int(max(0, y1 - 1)) : int(y2 + 2), int(max(0, x1 - 1)) : int(x2 + 2)
                ] = 0
            # what is left of each colour is grey padding, or rests too small to be a box
            bright = (other[:2] > 200).sum()
            assert bright <= 0.05 * other[0].size
    assert seen > 40


def test_nothing_random_is_what_the_network_sees() -> None:
    data, fitted = split(), preprocess()
    images, boxes = Scenes(data, fitted).batch([0, 1])
    plain, same = Scenes(data, fitted, 1.6).jittered([0, 1], Jitter(), torch.Generator())
    assert (plain.int() - images.int()).abs().max() <= 40  # resized twice at edges
    for one, other in zip(boxes, same, strict=True):
        np.testing.assert_allclose(one.corners, other.corners, atol=0.5)
    exact = PreprocessModule(fitted).fit(torch.from_numpy(data.items[:2]).permute(0, 3, 1, 2))
    assert (exact - images.float()).abs().max() <= 1.5


def test_mixup_has_the_boxes_of_both() -> None:
    scenes = Scenes(split(), preprocess())
    images, boxes = scenes.jittered([0, 1], Jitter(mixup=8.0), torch.Generator().manual_seed(0))
    assert [len(found) for found in boxes] == [4, 4]
    assert ((images > 60) & (images < 200)).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_follows_from_the_generator(channels: int) -> None:
    scenes = Scenes(split(channels=channels), preprocess(channels=channels))
    jitter = Jitter(0.5, 0.5, 0.5, 1.5, 0.0, True, 0.4)
    one, again, other = (
        scenes.jittered([0, 1, 2], jitter, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(one[0], again[0])
    assert [repr(b) for b in one[1]] == [repr(b) for b in again[1]]
    assert not torch.equal(one[0], other[0])


def test_processes_that_read_images_get_them() -> None:
    scenes = Scenes(split(), preprocess())
    copy = pickle.loads(pickle.dumps(scenes))
    assert torch.equal(copy.batch([1])[0], scenes.batch([1])[0])


def test_images_of_several_sizes() -> None:
    shapes = [(40, 200), (300, 50), (90, 120), (10, 12)]
    parts = [split(1, shape=(90, 120)) for _ in shapes]
    items = [np.full((*shape, 3), 80, np.uint8) for shape in shapes]
    boxes = [Boxes.of("", [(1, 1, w - 1, h - 1)], [0]) for h, w in shapes]

    class Several(Split):
        def image(self, i: int, channels: int | None = None, at_least: int | None = None):  # type: ignore[no-untyped-def]
            return items[i]

    data = Several(parts[0].items, np.ones((4, 2), np.float32), list("abcd"), targets=boxes)
    images, found = Scenes(data, preprocess()).jittered(
        [0, 1, 2, 3], CHANGES["all"], torch.Generator().manual_seed(3)
    )
    assert images.shape == (4, 3, 64, 96)
    assert all(len(b) for b in found)
