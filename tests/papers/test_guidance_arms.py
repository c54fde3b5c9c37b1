"""The guidance experiment: who guides whom, and which learning rate an arm is judged at."""

from __future__ import annotations

from pathlib import Path

import pytest

from sinet.models.spec import ModelSpec
from sinet.papers import guidance
from sinet.papers.base import Setting
from sinet.training.guidance import Guidance


@pytest.fixture(scope="module")
def full() -> guidance.Experiment:
    return guidance.experiment(Setting(False, Path()))


def test_the_images_that_choose_a_rate_neither_train_nor_judge(full: guidance.Experiment) -> None:
    train, held, val = full.data.train, full.held, full.data.val
    assert (len(train), len(held)) == (5_000, 2_000)
    names = [set(split.names) for split in (train, held)]
    assert not names[0] & names[1]
    assert len(names[0]) == 5_000
    assert val is full.data.splits["val"]


def test_the_target_is_the_cards_network(full: guidance.Experiment) -> None:
    network = full.target.create(10, 3)
    assert [len(layer.fc.bias) for layer in network.layers] == [256] + [128] * 24
    assert full.target.size == 28, "the bundled images are grey, of 28 px"


def test_the_network_alone_has_every_rate_that_the_guided_have(full: guidance.Experiment) -> None:
    assert set(full.lrs) == set(guidance.ARMS)
    assert all(
        set(rates) < set(full.lrs["none"]) for arm, rates in full.lrs.items() if arm != "none"
    )


def test_who_guides(full: guidance.Experiment) -> None:
    made = {arm: guidance.guidance_of(arm, full, Path("t"), 1) for arm in guidance.ARMS}
    assert [arm for arm, who in made.items() if who is None] == ["none", "distilled"]
    assert made["trained_cnn"] == Guidance(Path("t"))
    assert made["random_fcn"] == Guidance(full.target, seed=101)
    first, always = made["random_cnn_first"], made["random_cnn"]
    assert first is not None
    assert always is not None
    assert (first.guide, first.seed) == (always.guide, always.seed)
    assert round(first.share * 400) == 100
    assert always.share == 1
    cnn = always.guide
    assert isinstance(cnn, ModelSpec)
    assert cnn.kwargs["zero_init_last"] is False, "else its residual branches are silent"


def row(top1: float, held: float) -> dict[str, float]:
    return {"top1": top1, "held": held, "train": 99.0, "cka": 0.5}


def test_an_arm_is_judged_at_the_rate_that_the_held_images_choose(
    full: guidance.Experiment,
) -> None:
    found = {
        arm: {1e-3: [row(60, 50), row(62, 54)], 1e-4: [row(70, 51), row(72, 52)]}
        for arm in guidance.ARMS
    }
    made = guidance._contest(full, found)
    assert made.top1["none"] == [60, 62]
    assert made.conditions["lr"]["none"] == 1e-3
    assert made.conditions["top1_by_lr"]["none"] == {"0.001": 61, "0.0001": 71}
    assert made.conditions["gap_points"]["none"] == 38


def test_the_verdicts_are_those_of_the_card(full: guidance.Experiment) -> None:
    top1 = {"none": 70.0, "trained_cnn": 75.0, "random_cnn": 74.0, "random_fcn": 71.0,
            "random_cnn_first": 70.2, "distilled": 76.0}  # fmt: skip
    found = {arm: {1e-3: [row(v - 1, v), row(v + 1, v)]} for arm, v in top1.items()}
    made = guidance._findings(guidance._contest(full, found))
    verdicts = ["confirmed", "confirmed", "confirmed", "not decided", "not decided"]
    assert [finding.verdict for finding in made] == verdicts
    assert [finding.claim for finding in made] == list(guidance.CARD.claims)
