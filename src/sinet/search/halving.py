"""Spend the training minutes where they pay: successive halving over what keeps the budget.

A prior ranks the candidates; the first few train for a small share of the minutes, the better half
goes on, the winner gets what is left, three quarters or more, starting from the weights it has.
Nothing here knows how training works: the caller gives two functions.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sinet.errors import BudgetError
from sinet.files import read_json, write_json
from sinet.measurement.machine import fingerprint
from sinet.models.spec import ModelSpec
from sinet.search.candidates import Candidate

RUNG_SHARE = 0.04
"""Minutes of one trial before the winner's, as a share of all."""
FINAL_SHARE = 0.75
"""The least share of the minutes that the winner gets at the end."""
SAFETY = 0.9
"""Planned share of a trial's time; the rest is for validation, checkpoints and a noisy machine."""
FEWEST_MINUTES = 0.5
"""A trial shorter than this says nothing, so fewer candidates are tried instead."""
ENOUGH_EPOCHS = {"scratch": 10.0, "pretrained": 2.5}
"""Passes over the data after which a network's size, not its training, limits it."""


class Result(Protocol):
    """What a trainer returns; `sinet.training.Trained` is one."""

    metrics: dict[str, float]
    seconds: float
    folder: Path


@dataclass(frozen=True)
class Job:
    """One training to be done.

    Attributes:
        candidate: what to train.
        rung: 0 for the first round; the last rung is the winner's.
        epochs: passes over the data that fit into `minutes`.
        minutes: time it may take.
        init: folder of an earlier trial of the same network, or None.
        final: whether this is the winner's training.
    """

    candidate: Candidate
    rung: int
    epochs: float
    minutes: float
    init: Path | None
    final: bool

    @property
    def name(self) -> str:
        """A folder name that no other job of the search has."""
        spec = self.candidate.spec
        return f"{self.rung}-{spec.name}-{spec.size}-{_key(spec)[:6]}"


@dataclass(frozen=True)
class Trial:
    """One training done, as trials.json keeps it.

    `kept` says whether its network went on to the next rung; the final trial is kept.
    """

    label: str
    spec: dict[str, Any]
    precision: str
    rung: int
    minutes: float
    epochs: float
    metrics: dict[str, float]
    init: str
    latency_ms: float | None
    folder: str
    kept: bool
    final: bool
    metric: str = "val/top1"

    @property
    def score(self) -> float:
        """The validation metric that ranks the trials."""
        return self.metrics[self.metric]


@dataclass(frozen=True)
class Search:
    """The outcome: every trial, and the winning candidate with the folder of its last training."""

    trials: tuple[Trial, ...]
    winner: Candidate
    folder: Path


def per_network(candidates: Iterable[Candidate]) -> list[Candidate]:
    """One fitting candidate a network, in the order given: the faster precision if both fit."""
    best: dict[ModelSpec, Candidate] = {}
    for c in candidates:
        if not c.fits or c.latency is None:
            continue
        other = best.get(c.spec)
        if other is None or other.latency is None or c.latency.median_ms < other.latency.median_ms:
            best[c.spec] = c
    return list(best.values())


def prior(candidate: Candidate, epochs: float, int8_only: bool = False) -> float:
    """Expected rank of a network before training; larger is better, only the order matters.

    Capacity (the logarithm of multiply-adds) counts as far as it can be trained: the share of
    `ENOUGH_EPOCHS` that the minutes afford enters as a penalty that grows fast below a half.
    Pretrained weights are worth a tenfold of capacity on photos. A network that keeps the budget
    only in INT8 may yet fail the gate, which costs a little.

    Args:
        candidate: a network that fits.
        epochs: passes over the data that the winner's share of the minutes affords.
        int8_only: whether its FP32 file breaks the budget.
    """
    pretrained = candidate.spec.weights is not None
    enough = ENOUGH_EPOCHS["pretrained" if pretrained else "scratch"]
    trained = min(1.0, epochs / enough)
    capacity = math.log10(max(candidate.macs, 1))
    return capacity + pretrained - 4.0 * (1.0 - trained) ** 2 - 0.1 * int8_only


def successive_halving(
    candidates: Sequence[Candidate],
    trainer: Callable[[Job], Result],
    minutes: float,
    *,
    epoch_seconds: Callable[[Candidate], float],
    trials_path: Path,
    metric: str = "val/top1",
    most: int = 4,
    looks: int = 8,
    clock: Callable[[], float] = time.monotonic,
    on_trial: Callable[[Trial], None] | None = None,
) -> Search:
    """Find and train the best candidate within the minutes.

    Trials that `trials_path` already holds are not repeated; their minutes count as spent. What was
    measured and planned lies beside it in plan.json, so that a killed search goes on with the very
    trainings it had begun.

    Args:
        candidates: timed; those that do not fit are passed over.
        trainer: runs a job to its end; given the same job again it resumes.
        minutes: for everything here, the measuring of `epoch_seconds` included.
        epoch_seconds: seconds of one pass over the training data.
        trials_path: where the trials are kept, trials.json.
        metric: of validation, by which the trials are ranked; larger is better.
        most: networks in the first rung.
        looks: networks whose training speed is measured, at most.
        clock: seconds, monotonic.
        on_trial: told of each finished trial.

    Raises:
        BudgetError: no candidate fits.
    """
    fitting = per_network(candidates)
    if not fitting:
        raise BudgetError("no candidate keeps the budget; allow more or give a smaller image size")
    run = _Run(trainer, minutes, trials_path, metric, clock, on_trial)
    fp32 = {c.spec for c in candidates if c.fits and c.precision == "fp32"}
    width = _width(minutes, min(most, len(fitting)))
    alive, rung = _first_rung(fitting, fp32, width, epoch_seconds, looks, run), 0
    while len(alive) > 1:
        done = [(run.train(c, rung, minutes * RUNG_SHARE), c) for c in alive]
        best = sorted(done, key=lambda pair: -pair[0].score)
        alive = [c for _, c in best[: len(alive) // 2]]
        run.keep(rung, {c.spec for c in alive})
        rung += 1
    left = max(run.left(), minutes * FINAL_SHARE * 0.5)
    last = run.train(alive[0], rung, left, final=True)
    return Search(tuple(run.trials), alive[0], Path(last.folder))


def _width(minutes: float, most: int) -> int:
    """Networks in the first rung: a power of two that leaves the winner its share."""
    width = 1
    # The rungs of 2 n networks take 2 n + n + ... + 2 = 4 n - 2 trials before the winner's.
    while width * 2 <= most and (4 * width - 2) * RUNG_SHARE <= 1 - FINAL_SHARE:
        if minutes * RUNG_SHARE < FEWEST_MINUTES:
            break
        width *= 2
    return width


def _first_rung(
    fitting: Sequence[Candidate],
    fp32: set[ModelSpec],
    width: int,
    epoch_seconds: Callable[[Candidate], float],
    looks: int,
    run: _Run,
) -> list[Candidate]:
    """The `width` most promising networks, best first.

    Measuring how fast a network trains takes seconds, so it is done only for those that lead the
    ranking; the others' speed is estimated by their multiply-adds until they come to lead it.
    """
    affordable = run.minutes * 60 * FINAL_SHARE * SAFETY
    per_mac: list[float] = []

    def rank(c: Candidate) -> float:
        guess = statistics.median(per_mac) * c.macs if per_mac else 0.0
        seconds = run.seconds.get(c.spec) or guess
        epochs = affordable / seconds if seconds else math.inf
        return -prior(c, epochs, int8_only=c.spec not in fp32)

    while True:
        chosen = _mixed(sorted(fitting, key=rank), width)
        unknown = [c for c in chosen if c.spec not in run.seconds]
        if not unknown:
            return chosen
        if len(run.seconds) >= looks:
            measured = [c for c in sorted(fitting, key=rank) if c.spec in run.seconds]
            return _mixed(measured, width)
        look = unknown[0]
        run.look(look, epoch_seconds)
        per_mac.append(run.seconds[look.spec] / max(look.macs, 1))


def _mixed(ranked: Sequence[Candidate], width: int) -> list[Candidate]:
    """The first `width`; of four or more, one at least starts as the others do not.

    The prior may be wrong about pretrained weights on these images; one trial finds out.
    """
    chosen = list(ranked[:width])
    if width < 4:
        return chosen
    pretrained = chosen[0].spec.weights is not None
    if all((c.spec.weights is not None) == pretrained for c in chosen):
        other = [c for c in ranked if (c.spec.weights is not None) != pretrained]
        chosen[-1:] = other[:1] or chosen[-1:]
    return chosen


class _Run:
    """Runs trials, keeps them on disk, keeps the time."""

    def __init__(
        self,
        trainer: Callable[[Job], Result],
        minutes: float,
        path: Path,
        metric: str,
        clock: Callable[[], float],
        on_trial: Callable[[Trial], None] | None,
    ) -> None:
        self.trainer, self.minutes, self.path = trainer, minutes, path
        self.metric = metric
        self.clock, self.on_trial = clock, on_trial
        stored: Sequence[Mapping[str, Any]] = read_json(path) if path.is_file() else []
        self.trials = [Trial(**values) for values in stored]
        self.plan_path = path.with_name("plan.json")
        plan = read_json(self.plan_path) if self.plan_path.is_file() else {}
        self.measured: dict[str, float] = plan.get("epoch_seconds", {})
        self.planned: dict[str, list[float]] = plan.get("jobs", {})
        self.before = sum(t.minutes for t in self.trials)
        self.start = clock()
        self.seconds: dict[ModelSpec, float] = {}

    def left(self) -> float:
        """Minutes not yet spent, earlier runs of the same search counted in."""
        return self.minutes - self.before - (self.clock() - self.start) / 60

    def look(self, candidate: Candidate, epoch_seconds: Callable[[Candidate], float]) -> None:
        """Measure how long a pass over the data takes, unless that is on record."""
        key = _key(candidate.spec)
        if key not in self.measured:
            self.measured[key] = epoch_seconds(candidate)
            self._save_plan()
        self.seconds[candidate.spec] = self.measured[key]

    def known_seconds(self, candidate: Candidate) -> float | None:
        """Seconds an epoch took in a trial that is on record."""
        spec = candidate.spec.to_dict()
        times = [t.minutes * 60 / t.epochs for t in self.trials if t.spec == spec and t.epochs > 0]
        return times[-1] if times else None

    def plan(self, candidate: Candidate, rung: int, minutes: float) -> tuple[float, float]:
        """(epochs, minutes) of a job: as planned before, or as fits into the minutes."""
        key = f"{_key(candidate.spec)}/{rung}"
        if key not in self.planned:
            epoch = self.known_seconds(candidate) or self.seconds[candidate.spec]
            self.planned[key] = [max(minutes * 60 * SAFETY / epoch, 1e-3), minutes]
            self._save_plan()
        epochs, planned = self.planned[key]
        return epochs, planned

    def train(self, candidate: Candidate, rung: int, minutes: float, final: bool = False) -> Trial:
        """Train for so many minutes, or read the trial if it is on record."""
        spec = candidate.spec.to_dict()
        earlier = [t for t in self.trials if t.spec == spec]
        for trial in earlier:
            if trial.rung == rung:
                return trial
        epochs, minutes = self.plan(candidate, rung, minutes)
        init = Path(earlier[-1].folder) if earlier else None
        begun = candidate.spec.weights or "scratch"
        job = Job(candidate, rung, epochs, minutes, init, final)
        before = self.clock()
        result = self.trainer(job)
        trial = Trial(
            label=candidate.spec.label,
            spec=spec,
            precision=candidate.precision,
            rung=rung,
            # After a resumption the clock saw only a part of the training.
            minutes=max(self.clock() - before, result.seconds) / 60,
            epochs=epochs,
            metrics=dict(result.metrics),
            init=f"{begun}, then rung {earlier[-1].rung}" if earlier else begun,
            latency_ms=candidate.latency.median_ms if candidate.latency else None,
            folder=str(result.folder),
            kept=final,
            final=final,
            metric=self.metric,
        )
        self.trials.append(trial)
        self._save()
        if self.on_trial is not None:
            self.on_trial(trial)
        return trial

    def keep(self, rung: int, specs: set[ModelSpec]) -> None:
        """Mark which trials of a rung went on."""
        labels = [s.to_dict() for s in specs]
        self.trials = [
            replace(t, kept=t.spec in labels) if t.rung == rung else t for t in self.trials
        ]
        self._save()

    def _save(self) -> None:
        write_json(self.path, [asdict(t) for t in self.trials])

    def _save_plan(self) -> None:
        plan = {"epoch_seconds": self.measured, "jobs": self.planned}
        write_json(self.plan_path, plan)


def _key(spec: ModelSpec) -> str:
    return fingerprint(spec.to_dict())
