from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sinet.data.gs2 import GS2, IGNORED, draw_training, strata
from sinet.errors import DataError, UsageError

# recorded from the authors' code
TRAINING = [6, 9, 10, 13, 17, 19, 21, 22, 23, 26, 35, 37, 38, 41, 49, 54, 59, 78, 79, 110, 112]
STRATA = [
    [17, 26, 35, 37, 38, 41, 54, 59, 112],
    [6, 9, 19, 21, 22, 23, 49, 78, 79],
    [10, 13, 110],
]


def published() -> np.ndarray:
    row, column = np.mgrid[:12, :10]
    below = np.where(column < 3, 3, 0)
    return np.where(row < 9, (10 * row + column) % 4, below)


def random_scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, some classes missing, and training pixels, of each class another number."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 6, (13, 17)) * (random.random((13, 17)) < 0.8)
    labels[labels == 4] = 0
    chosen = [random.permutation(np.flatnonzero(labels == c))[: 3 + 4 * c] for c in (1, 2, 3, 5)]
    return labels, np.concatenate(chosen)


def test_draws_as_published() -> None:
    training, test = draw_training(published(), 7)
    assert training.tolist() == TRAINING
    assert len(test) == 55
    assert not set(test) & set(training)


def test_cuts_as_published() -> None:
    found = strata(published(), np.array(TRAINING), 3, seed=11)
    assert [pixels.tolist() for pixels in found] == STRATA


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_stratum", [1, 4, 100])
def test_an_epoch_sees_every_pixel_once(seed: int, per_stratum: int) -> None:
    labels, training = random_scene(seed)
    sampler = GS2(labels, training, per_stratum, seed)
    order = sampler.order(seed)
    assert len(order) == len(sampler)
    assert sorted(np.concatenate(order).tolist()) == sorted(training.tolist())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_stratum", [1, 4, 7])
def test_strata_are_balanced(seed: int, per_stratum: int) -> None:
    labels, training = random_scene(seed)
    cut = strata(labels, training, per_stratum, seed)
    for label in (1, 2, 3, 5):
        total = int((labels.ravel()[training] == label).sum())
        counts = [int((labels.ravel()[pixels] == label).sum()) for pixels in cut]
        full, rest = divmod(total, per_stratum)
        wanted = [per_stratum] * full + [rest] * (rest > 0)
        assert counts == wanted + [0] * (len(cut) - len(wanted))
    largest = np.bincount(labels.ravel()[training]).max()
    assert len(cut) == -(-largest // per_stratum)


def test_epochs_differ_and_repeat() -> None:
    labels, training = random_scene(0)
    one, two = GS2(labels, training, 4), GS2(labels, training, 4)
    epochs = [[pixels.tolist() for pixels in one.order(epoch)] for epoch in range(4)]
    assert all(a != b for i, a in enumerate(epochs) for b in epochs[:i])
    assert [pixels.tolist() for pixels in two.order(3)] == epochs[3]
    assert [pixels.tolist() for pixels in GS2(labels, training, 4, 1).order(3)] != epochs[3]


def test_order_of_the_training_pixels_does_not_matter() -> None:
    labels, training = random_scene(1)
    one, two = strata(labels, training, 4, 0), strata(labels, training[::-1], 4, 0)
    assert [pixels.tolist() for pixels in one] == [pixels.tolist() for pixels in two]


def test_every_step_is_visited_at_every_place() -> None:
    """The short last stratum must not always come last."""
    labels, training = random_scene(2)
    sampler = GS2(labels, training, 4)
    places = {int(np.argmin([len(p) for p in sampler.order(epoch)])) for epoch in range(60)}
    assert places == set(range(len(sampler)))


def test_targets_hold_the_classes_of_the_stratum() -> None:
    labels, training = random_scene(3)
    sampler = GS2(labels, training, 4)
    for pixels, target in zip(sampler.order(2), sampler.epoch(2), strict=True):
        assert target.shape == labels.shape
        assert target.dtype == torch.int64
        flat = target.flatten().numpy()
        assert np.flatnonzero(flat != IGNORED).tolist() == pixels.tolist()
        assert (flat[pixels] == labels.ravel()[pixels] - 1).all()


def test_loss_is_the_weighted_mean_of_the_paper() -> None:
    labels, training = random_scene(4)
    target = next(iter(GS2(labels, training, 4).epoch(0)))
    logits = torch.randn(1, 5, *labels.shape, generator=torch.Generator().manual_seed(0))
    weight = (target != IGNORED).float()
    each = F.cross_entropy(logits, target.clamp(min=0)[None], reduction="none")[0]
    loss = F.cross_entropy(logits, target[None], ignore_index=IGNORED)
    torch.testing.assert_close(loss, (weight * each).sum() / weight.sum())


def test_published_setting_has_ten_steps() -> None:
    labels = np.repeat(np.arange(1, 10), 250).reshape(45, 50)
    training, test = draw_training(labels, 200)
    assert len(training) == 1800
    assert len(test) == 450
    assert len(GS2(labels, training)) == 10


def test_mistakes_are_explained() -> None:
    labels = published()
    with pytest.raises(DataError, match=r"class 1 has 23 labelled pixels, 200 for training"):
        draw_training(labels, 200)
    with pytest.raises(UsageError, match="per_stratum is 0"):
        GS2(labels, np.array(TRAINING), 0)
    with pytest.raises(DataError, match="no training pixels"):
        GS2(labels, np.empty(0, int))
    with pytest.raises(DataError, match="1 of 2 training pixels are unlabelled"):
        GS2(labels, np.array([0, 1]))
    with pytest.raises(DataError, match="run from 1 to 120, the scene has 120"):
        GS2(labels, np.array([1, 120]))
