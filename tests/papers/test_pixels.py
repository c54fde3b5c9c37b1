"""What the reproductions beyond classification share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sinet.papers import _pixels
from sinet.papers._pixels import _apart, _places, exactly, fit, outdoes, scenes, trials
from sinet.papers.base import Setting


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        ([1.0, 1.1, 1.2], "confirmed"),
        ([2.0, 2.1, 2.2], "not decided"),
        ([3.0, 3.1, 3.2], "refuted"),
    ],
)
def test_a_gain_counts_beyond_its_error(theirs: list[float], verdict: str) -> None:
    scores = {"ours": [2.0, 2.1, 2.2], "theirs": theirs}
    found = outdoes("c", "p", scores, "ours", ["theirs"], "dB", {"steps": 3})
    assert found.verdict == verdict
    assert found.measured["steps"] == 3
    assert found.measured["dB by arm"] == scores


def test_one_seed_decides_nothing() -> None:
    found = outdoes("c", "p", {"a": [9.0], "b": [1.0]}, "a", ["b"], "dB", {})
    assert found.verdict == "not decided"
    assert found.why == "a 9.00 dB; +8.00 +- 0.00 against b"


def test_counts_agree_exactly_or_not() -> None:
    assert exactly("c", "p", {"x": 3}, {"x": 3}).verdict == "confirmed"
    assert exactly("c", "p", {"x": 3}, {"x": 4}).verdict == "refuted"


@pytest.mark.parametrize(("quick", "seeds"), [(True, [0]), (False, [0, 1])])
def test_finished_trials_are_read(quick: bool, seeds: list[int], tmp_path: Path) -> None:
    calls: list[int] = []

    def measure(seed: int) -> dict[str, float]:
        calls.append(seed)
        return {"psnr": 30.0 + seed}

    for _ in range(2):
        found = trials(Setting(quick, tmp_path), {"arm": measure}, (0, 1))
        assert found == {"psnr": {"arm": [30.0 + seed for seed in seeds]}}
    assert calls == seeds


def test_the_loop_learns_and_ends_in_evaluation() -> None:
    torch.manual_seed(0)
    network, x = nn.Linear(3, 1), torch.randn(64, 3)
    wanted = x.sum(1, keepdim=True)
    fit(network, lambda step: (network(x) - wanted).square().mean(), 200, 0.05)
    torch.testing.assert_close(network.weight, torch.ones(1, 3), atol=0.05, rtol=0)
    assert not network.training


def test_scenes_repeat_and_hold_their_items() -> None:
    first, again = (scenes(6, 64, (8, 32), train=False) for _ in range(2))
    assert first.pixels.equal(again.pixels)
    assert first.size == 64
    assert not first.pixels.equal(scenes(6, 64, (8, 32), train=True).pixels)
    for boxes, labels in zip(first.boxes, first.labels, strict=True):
        assert len(boxes) == len(labels) > 0
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= 64).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, 2:] - boxes[:, :2]).amax() <= 32


def test_items_apart_from_rows_do_not_hide_each_other() -> None:
    random = _pixels.np.random.default_rng(0)
    for _ in range(50):
        places = _places(random, 96, (8, 48))
        assert all(_apart(a, b) for i, a in enumerate(places) for b in places[:i])
