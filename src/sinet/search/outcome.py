"""What a search leaves for people: a table of its trials, and a picture of accuracy and latency."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinet.files import atomic_path, write_text
from sinet.search.budget import Budget

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def write_table(
    trials: Sequence[FrozenTrial], columns: Sequence[str], metric: str, path: Path
) -> Path:
    """A line a trial as CSV: number, state, the metric, user attributes, why not, parameters.

    Args:
        trials: of a study; those that nobody has begun are left out.
        columns: names of user attributes.
        metric: name of the value.
        path: the file.
    """
    trials = [t for t in trials if t.datetime_start is not None]
    names = sorted({name for t in trials for name in t.params})
    rows: list[list[Any]] = [["trial", "state", metric, *columns, "why", *names]]
    for t in trials:
        facts = [t.user_attrs.get(name, "") for name in (*columns, "why")]
        value = "" if t.value is None else t.value
        rows.append([t.number, t.state.name.lower(), value, *facts, *map(t.params.get, names)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return write_text(path, text.getvalue())


def draw(
    trials: Sequence[FrozenTrial], winner: FrozenTrial, budget: Budget, metric: str, path: Path
) -> Path:
    """Validation metric against measured latency of all trained candidates, a rung a tone.

    Args:
        trials: with a value; those without a latency are left out.
        winner: the one that was found.
        budget: its limit is a line.
        metric: name of the value.
        path: the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    timed = [t for t in trials if "ms" in t.user_attrs]
    for step in sorted({t.last_step or 0 for t in timed}):
        group = [t for t in timed if (t.last_step or 0) == step]
        tone = {0: "#777777", 1: "#cccccc", 3: "#999999"}.get(step, "#444444")
        points = [(t.user_attrs["ms"], t.value or 0.0) for t in group]
        axes.scatter(*zip(*points, strict=True), color=tone, label=f"{step} units of training")
    axes.scatter(winner.user_attrs["ms"], winner.value or 0.0, color="#009688", s=90, label="found")
    if budget.ms is not None:
        axes.axvline(budget.ms, color="#c62828", linewidth=1, label=f"budget {budget.ms:g} ms")
    axes.set_xlabel("latency of the exported candidate, ms", loc="right")
    axes.set_ylabel(metric, loc="top")
    axes.legend(frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path
