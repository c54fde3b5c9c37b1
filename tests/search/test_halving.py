"""Successive halving on pretended training: no torch, a clock that we turn ourselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sinet.errors import BudgetError
from sinet.files import read_json
from sinet.measurement.latency import Latency
from sinet.models.spec import ModelSpec
from sinet.search.candidates import Candidate
from sinet.search.halving import FINAL_SHARE, Job, per_network, prior, successive_halving


def candidate(name: str, macs: int = 100, *, ms: float = 5.0, precision: str = "fp32",
              weights: str | None = None, fits: bool = True) -> Candidate:  # fmt: skip
    latency = Latency(ms, ms, ms, 10, 2)
    spec = ModelSpec(name, 32, weights=weights)
    return Candidate(
        spec, precision, latency, 1000, macs * 10**6, 1.0, None, fits, "" if fits else "slow"
    )


@dataclass
class Done:
    metrics: dict[str, float]
    seconds: float
    folder: Path


@dataclass
class World:
    """Networks with a true quality and a true training speed, and the time that passes."""

    folder: Path
    quality: dict[str, float]
    epoch_seconds: float = 30.0
    now: float = 0.0
    jobs: list[Job] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    die_at: int = -1
    begun: list[Job] = field(default_factory=list)

    def train(self, job: Job) -> Done:
        self.begun.append(job)
        if len(self.jobs) == self.die_at:
            raise KeyboardInterrupt
        self.jobs.append(job)
        seconds = job.epochs * self.epoch_seconds
        self.now += seconds
        name = job.candidate.spec.name
        top1 = self.quality[name] - 0.1 / (1 + job.epochs)
        return Done({"val/top1": top1}, seconds, self.folder / f"{name}-{job.rung}")

    def look(self, c: Candidate) -> float:
        self.looked.append(c.spec.name)
        self.now += 3
        return self.epoch_seconds

    def search(self, candidates: list[Candidate], minutes: float):
        return successive_halving(
            candidates,
            self.train,
            minutes,
            epoch_seconds=self.look,
            trials_path=self.folder / "trials.json",
            clock=lambda: self.now,
        )


NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, {n: 0.5 + 0.05 * i for i, n in enumerate(NAMES)})


def test_the_truly_best_of_the_first_rung_wins_and_gets_most_of_the_time(world: World) -> None:
    found = world.search([candidate(n, 100 + i) for i, n in enumerate(NAMES)], minutes=60)
    assert [j.rung for j in world.jobs] == [0, 0, 0, 0, 1, 1, 2]
    assert found.winner.spec.name == "f"
    assert found.folder == world.folder / "f-2"
    final = world.jobs[-1]
    assert final.final
    assert final.minutes >= 60 * FINAL_SHARE * 0.98
    assert final.init == world.folder / "f-1", "the winner goes on from its rung's weights"
    assert world.now <= 60 * 60, "the promise --minutes"
    kept = {(t.label, t.rung) for t in found.trials if t.kept}
    assert kept == {("e@32", 0), ("f@32", 0), ("f@32", 1), ("f@32", 2)}


@pytest.mark.parametrize(("minutes", "trials"), [(0.5, 1), (3, 1), (10, 1), (20, 7), (60, 7)])
def test_few_minutes_go_to_one_network(world: World, minutes: float, trials: int) -> None:
    world.epoch_seconds = 1.0
    world.search([candidate(n) for n in NAMES], minutes)
    assert len(world.jobs) == trials
    assert world.now <= minutes * 60


def test_a_killed_search_goes_on_where_it_was(world: World) -> None:
    candidates = [candidate(n, 100 + i) for i, n in enumerate(NAMES)]
    world.die_at = 3
    with pytest.raises(KeyboardInterrupt):
        world.search(candidates, 60)
    world.die_at = -1
    world.epoch_seconds = 31.0
    found = world.search(candidates, 60)
    assert world.begun[4] == world.begun[3], "the killed training is asked for again unchanged"
    trained = [(j.candidate.spec.name, j.rung) for j in world.jobs]
    assert len(trained) == len(set(trained)) == 7, "no trial twice"
    assert world.now <= 60 * 60 + 30
    again = world.search(candidates, 60)
    assert len(world.jobs) == 7, "a finished search trains nothing"
    assert again.folder == found.folder


def test_training_speed_is_measured_only_where_it_could_matter(world: World) -> None:
    world.quality = {f"n{i}": 0.5 for i in range(40)}
    world.search([candidate(n, 10 + i) for i, n in enumerate(world.quality)], 60)
    assert 4 <= len(world.looked) <= 8
    assert len(set(world.looked)) == len(world.looked)


def test_one_trial_starts_otherwise_than_the_rest(world: World) -> None:
    pretrained = [candidate(n, weights="package:w") for n in NAMES[:5]]
    world.search([*pretrained, candidate("f", 1)], 60)
    assert "f" in {j.candidate.spec.name for j in world.jobs if j.rung == 0}


def test_the_prior_weighs_capacity_against_what_can_be_trained() -> None:
    small, large = candidate("s", 50), candidate("l", 5000)
    assert prior(large, epochs=10) > prior(small, epochs=10)
    assert prior(large, epochs=0.5) < prior(small, epochs=10), "too large to be trained in time"
    assert prior(candidate("p", 50, weights="w"), 3) > prior(candidate("s", 200), 3)
    assert prior(small, 10, int8_only=True) < prior(small, 10)


def test_one_candidate_a_network_and_only_those_that_fit() -> None:
    both = [candidate("a", ms=4), candidate("a", ms=2, precision="int8")]
    picked = per_network([*both, candidate("b", fits=False)])
    assert [(c.spec.name, c.precision) for c in picked] == [("a", "int8")]


def test_nothing_fits(world: World) -> None:
    with pytest.raises(BudgetError, match="no candidate keeps the budget"):
        world.search([candidate("a", fits=False)], 10)


def test_trials_are_kept_as_the_report_reads_them(world: World) -> None:
    world.search([candidate("a")], 3)
    (trial,) = read_json(world.folder / "trials.json")
    expected = {
        "label",
        "spec",
        "minutes",
        "epochs",
        "metrics",
        "init",
        "latency_ms",
        "rung",
        "kept",
    }
    assert expected <= set(trial)
    assert trial["init"] == "scratch"
    assert trial["kept"] is True
