"""Reads a run folder into plain rows; the one place that knows the names of its JSON fields.

A run may have been stopped, or may have failed at its budget: whatever is absent is listed in
`Run.missing` with what the report lacks because of it, and everything else is still read.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sinet.data.preprocess import Preprocess
from sinet.errors import SinetError
from sinet.files import read_json
from sinet.models.spec import ModelSpec
from sinet.report.evidence import Evidence, load_evidence
from sinet.report.predictions import Predictions, load_predictions
from sinet.tasks.signatures import Described, Signature, signature

T = TypeVar("T")

# File -> what the reader of the report does not get when it is absent.
FILES = {
    "config.yaml": "the settings of the run",
    "dataset.json": "the data summary",
    "candidates.json": "the candidates and their latencies",
    "trials.json": "what was trained and how well it did",
    "metrics.csv": "the learning curves",
    "chain.json": "the exported files and what shipped",
    "predictions.npz": "the confusions and the worst mistakes",
    "layers.json": "where the time goes",
    "machine.json": "the hardware and the versions",
    "card.json": "the model card",
}
EVIDENCE = "evidence/evidence.json"  # in the place of predictions.npz where there are no classes


@dataclass(frozen=True)
class Timing:
    """Median and quartiles of a latency, milliseconds."""

    ms: float
    q1: float
    q3: float
    runs: int | None = None
    threads: int | None = None
    batch: int | None = None
    spinning: bool | None = None
    engine: str | None = None


@dataclass(frozen=True)
class CandidateRow:
    """One model x resolution x precision, timed before any training."""

    label: str
    precision: str
    weights: str | None
    timing: Timing | None
    params: float | None
    macs: float | None
    file_mb: float | None
    memory_mb: float | None
    fits: bool
    why: str


@dataclass(frozen=True)
class TrialRow:
    """One candidate trained for one rung of the halving."""

    label: str
    rung: int
    kept: bool
    ms: float | None
    score: float | None
    minutes: float | None
    epochs: float | None
    init: str


@dataclass(frozen=True)
class ChainRow:
    """One link of eager / FP32 file / INT8 file."""

    name: str
    score: float | None
    low: float | None
    high: float | None
    difference: float | None
    timing: Timing | None
    file_mb: float | None
    memory_mb: float | None
    shipped: bool
    note: str = ""


@dataclass(frozen=True)
class LayerRow:
    """One layer of the shipped file: its share of the time and what it reached of the peak."""

    name: str
    op: str
    ms: float
    share: float
    efficiency: float | None


@dataclass
class Run:
    """Everything the report shows, as far as the run got."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    candidates: list[CandidateRow] = field(default_factory=list)
    trials: list[TrialRow] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    chain: list[ChainRow] = field(default_factory=list)
    verdict: dict[str, Any] = field(default_factory=dict)
    predictions: Predictions | None = None
    evidence: Evidence | None = None
    layers: list[LayerRow] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)

    @property
    def task(self) -> Signature:
        """What was learned, and what its numbers mean."""
        data = self.dataset
        names = list(self.classes)
        return signature(
            Described(
                task=str(data.get("task", "classify")),
                classes=names,
                class_ids=list(data.get("class_ids", names)),
                multilabel=bool(data.get("multilabel")),
                preprocess=Preprocess(1, 1, (0.0,), (1.0,)),  # no number depends on it
            )
        )

    @property
    def shipped(self) -> ChainRow | None:
        """The row of the file that shipped."""
        return next((row for row in self.chain if row.shipped), None)

    @property
    def why(self) -> str:
        """Why that file shipped, without a full stop."""
        return str(self.verdict.get("why") or "").rstrip(". ")

    @property
    def winner(self) -> TrialRow | None:
        """The trial that was kept through the last rung; the best of them if several were."""
        last = max((t.rung for t in self.trials), default=0)
        final = [t for t in self.trials if t.rung == last and t.score is not None]
        return max(final, key=lambda t: (t.kept, t.score or 0.0), default=None)

    @property
    def budget(self) -> dict[str, float]:
        """The limits asked for: `ms`, `mb`, `memory_mb`, those that were given."""
        given = self.config.get("budget") or {}
        if isinstance(given, str):
            given = _parse_budget(given)
        limits = {k: _number(given.get(k)) for k in ("ms", "mb", "memory_mb")}
        return {k: v for k, v in limits.items() if v is not None}

    @property
    def classes(self) -> list[str]:
        """Class names in label order; numbers where the run does not tell them."""
        names = self.dataset.get("classes") or self.card.get("classes") or []
        if isinstance(names, Mapping):
            names = list(names)
        names = [str(n["name"] if isinstance(n, Mapping) else n) for n in names]
        count = self.predictions.probability.shape[1] if self.predictions else len(names)
        return names if len(names) == count else [str(i) for i in range(count)]


def read_run(folder: Path) -> Run:
    """Read whatever a run left in its folder.

    Raises:
        SinetError: there is no such folder, or nothing of a run in it.
    """
    run = Run(folder)
    if not any((folder / name).exists() for name in FILES):
        raise SinetError(
            f"{folder} holds no run: expected one of {', '.join(FILES)}; "
            "give the folder that `sinet fit` wrote"
        )
    run.config = _read(run, "config.yaml", _yaml) or {}
    run.dataset = _read(run, "dataset.json", read_json) or {}
    run.candidates = _read(run, "candidates.json", lambda p: _rows(read_json(p), _candidate)) or []
    run.trials = _read(run, "trials.json", lambda p: _rows(read_json(p), _trial)) or []
    run.curves = _read(run, "metrics.csv", _curves) or {}
    run.chain, run.verdict = _read(run, "chain.json", _chain) or ([], {})
    if run.dataset.get("task", "classify") == "classify":
        run.predictions = _read(run, "predictions.npz", load_predictions)
    else:
        run.evidence = _read(run, EVIDENCE, load_evidence)
    run.layers = _read(run, "layers.json", lambda p: _rows(read_json(p), _layer)) or []
    run.machine = _read(run, "machine.json", read_json) or {}
    run.card = _read(run, "card.json", read_json) or {}
    return run


def _read(run: Run, name: str, reader: Callable[[Path], T]) -> T | None:
    """The file's content; None, and a line in `missing`, where it is absent or damaged."""
    path, what = run.folder / name, FILES.get(name, "the classes and the worst answers")
    if not path.exists():
        run.missing.append((name, what))
        return None
    try:
        return reader(path)
    except (ValueError, KeyError, TypeError, OSError, EOFError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        run.missing.append((name, f"{what} (cannot be read: {reason})"))
        return None


def _yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def _rows(value: Any, row: Callable[[Mapping[str, Any]], T]) -> list[T]:
    """A list of objects, bare or under the only list of an object."""
    if isinstance(value, Mapping):
        value = next(v for v in value.values() if isinstance(v, list))
    return [row(v) for v in value]


def _number(value: Any) -> float | None:
    """A finite float, or None: JSON writers spell 'not measured' in several ways."""
    if value is None or isinstance(value, str):
        return None
    return float(value) if math.isfinite(value) else None


def _timing(value: Any) -> Timing | None:
    if isinstance(value, int | float):
        return Timing(float(value), float(value), float(value))
    if not value or _number(value.get("median_ms")) is None:
        return None
    ms = float(value["median_ms"])
    rest = {k: value.get(k) for k in ("runs", "threads", "batch", "spinning", "engine")}
    return Timing(ms, float(value.get("q1_ms", ms)), float(value.get("q3_ms", ms)), **rest)


def _label(spec: Mapping[str, Any]) -> str:
    return ModelSpec.from_dict({**spec, "weights": None}).label


def _candidate(value: Mapping[str, Any]) -> CandidateRow:
    spec = value["spec"]
    return CandidateRow(
        label=_label(spec),
        precision=str(value.get("precision", "fp32")),
        weights=spec.get("weights"),
        timing=_timing(value.get("latency")),
        params=_number(value.get("params")),
        macs=_number(value.get("macs")),
        file_mb=_number(value.get("file_mb")),
        memory_mb=_number(value.get("memory_mb")),
        fits=bool(value.get("fits")),
        why=str(value.get("why") or ""),
    )


def _trial(value: Mapping[str, Any]) -> TrialRow:
    spec = value.get("spec")
    # A later rung goes on from the rung before: what counts is what the first one started from.
    origin = spec.get("weights") if isinstance(spec, Mapping) else value.get("init")
    return TrialRow(
        label=_label(spec) if isinstance(spec, Mapping) else str(value["label"]),
        rung=int(value.get("rung", 0)),
        kept=bool(value.get("kept")),
        ms=_number(value.get("latency_ms")),
        score=_number((value.get("metrics") or {}).get(value.get("metric", "val/top1"))),
        minutes=_number(value.get("minutes")),
        epochs=_number(value.get("epochs")),
        init=str(origin or "scratch"),
    )


def _chain(path: Path) -> tuple[list[ChainRow], dict[str, Any]]:
    """The rows, and the rest of the verdict: shipped, why, metric_name, images."""
    value = dict(read_json(path))
    shipped = str(value.get("shipped") or "")
    rows = [
        ChainRow(
            name=str(r["name"]),
            score=_number(r.get("metric")),
            low=_number(r.get("low")),
            high=_number(r.get("high")),
            difference=_number(r.get("max_difference")),
            timing=_timing(r.get("latency")),
            file_mb=_number(r.get("file_mb")),
            memory_mb=_number(r.get("memory_mb")),
            shipped=str(r["name"]) == shipped,
            note=str(r.get("note") or ""),
        )
        for r in value["rows"]
    ]
    return rows, value


def _layer(value: Mapping[str, Any]) -> LayerRow:
    return LayerRow(
        name=str(value["name"]),
        op=str(value.get("op") or ""),
        ms=float(value["ms"]),
        share=float(value["share"]),
        efficiency=_number(value.get("efficiency")),
    )


def _curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Column -> points (epoch, value); cells of a row that were not logged are empty."""
    curves: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            x = _cell(line.get("epoch")) if line.get("epoch") else _cell(line.get("step"))
            for name, text in line.items():
                value = _cell(text)
                if x is not None and value is not None and name not in ("epoch", "step"):
                    curves.setdefault(name, []).append((x, value))
    return curves


def _cell(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _parse_budget(text: str) -> dict[str, float | None]:
    from sinet.search.budget import Budget

    budget = Budget.parse(text)
    return {"ms": budget.ms, "mb": budget.mb, "memory_mb": budget.memory_mb}
