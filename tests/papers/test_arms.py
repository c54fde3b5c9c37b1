"""Arms that are trained alike, and what their differences decide."""

from __future__ import annotations

import math

import pytest

from sinet.papers._arms import Contest, beats


def contest(ours: list[float], theirs: list[float]) -> Contest:
    return Contest({"ours": ours, "theirs": theirs}, {"epochs": 5})


def test_a_difference_of_exactly_half_a_point_is_half_a_point() -> None:
    # 1,000 images, as float32 gives 767 / 1000 and its like
    ours = [76.70000195503235, 76.8999993801117, 77.49999761581421]
    theirs = [77.60000228881836, 77.70000100135803, 77.30000019073486]
    assert contest(ours, theirs).gain("ours", "theirs") == -0.5


def test_the_error_is_that_of_the_difference_of_means() -> None:
    found = contest([70.0, 71.0, 72.0], [60.0, 62.0, 64.0])
    assert found.error("ours", "theirs") == pytest.approx(math.sqrt(1 / 3 + 4 / 3))


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        ([70.0, 71.0, 72.0], "confirmed"),
        ([79.5, 80.5, 81.5], "not decided"),
        ([90.0, 91.0, 92.0], "refuted"),
        ([70.0], "confirmed"),
    ],
)
def test_an_arm_wins_beyond_a_pooled_error(theirs: list[float], verdict: str) -> None:
    found = beats("ours is better", "by 1", contest([80.0, 81.0, 82.0], theirs), "ours", ["theirs"])
    assert found.verdict == verdict
    assert found.measured["epochs"] == 5


def test_one_seed_decides_nothing() -> None:
    assert beats("", "", contest([80.0], [70.0]), "ours", ["theirs"]).verdict == "not decided"
