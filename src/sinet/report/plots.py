"""The report's other figures, and the picture for a README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from sinet.files import atomic_path
from sinet.report.frontier import draw_trials, latency_axis
from sinet.report.reader import Run, read_run
from sinet.report.style import ACCENT, ALERT, FAINT, INK, MUTED, STYLE, note


def curves(run: Run) -> Figure:
    """Loss, and accuracy, of the chosen model by epoch."""
    figure = Figure(figsize=(9.2, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, run, {"train/loss": ("training", MUTED), "val/loss": ("validation", ACCENT)})
    task = run.task
    _lines(right, run, {task.metric: ("validation", ACCENT)}, scale=task.scale)
    left.set_title("Loss", loc="left", fontsize=10, weight="bold")
    title = f"{task.metric_name}, {task.unit}"
    title = title[0].upper() + title[1:]
    right.set_title(title, loc="left", fontsize=10, weight="bold")
    for axes in (left, right):
        axes.set_xlabel("epoch", loc="right")
    return figure


def _lines(axes: Axes, run: Run, names: dict[str, tuple[str, str]], scale: float = 1) -> None:
    """Lines, each named at its end instead of in a legend."""
    for name, (label, colour) in names.items():
        points = sorted(run.curves.get(name, []))
        if not points:
            continue
        x, y = np.array(points).T * [[1], [scale]]
        if len(x) > 60:  # the loss of single batches is noise: show its running mean
            window = max(len(x) // 30, 3)
            y = np.convolve(y, np.ones(window) / window, mode="valid")
            x = x[window - 1 :]
        axes.plot(x, y, color=colour, lw=1.6, marker="o" if len(x) < 40 else None, ms=3)
        value = f"{y[-1]:.1f}" if scale != 1 else f"{y[-1]:.3f}"
        end = (x[-1], y[-1])
        note(axes, f"{label} {value}", end, (6, 0), color=colour, fontsize=9, va="center")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.32 * (high - low))


def confusion(matrix: NDArray[Any], classes: Sequence[str]) -> Figure:
    """Rows = label, columns = answer; right answers in the accent, mistakes in the alert colour."""
    count = len(classes)
    side = min(10.0, 2.4 + 0.56 * count)
    figure = Figure(figsize=(side, side * 0.72), layout="constrained")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = np.full((count, count, 3), 0.968)  # an empty cell still shows that it is one
    for i, j in np.ndindex(count, count):
        colour, strength = (ACCENT, share[i, j] * 0.85) if i == j else (ALERT, share[i, j] ** 0.6)
        if matrix[i, j]:
            image[i, j] = 1 - min(strength, 1) * (1 - np.array(mpl.colors.to_rgb(colour)))
    axes.imshow(image, aspect="auto")
    names = [_short(c) for c in classes]
    size = 9 if count <= 16 else 7
    axes.set_xticks(range(count), names, rotation=40, ha="right", fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    axes.tick_params(colors=INK)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("answer", loc="left")
    axes.set_ylabel("label", loc="top")
    _cells(axes, matrix, share, size=9 if count <= 12 else 6.5)
    return figure


def _cells(axes: Axes, matrix: NDArray[Any], share: NDArray[Any], size: float) -> None:
    """Counts in the cells, where there is room; white lines between them."""
    count = len(matrix)
    for edge in np.arange(0.5, count - 1):
        axes.axhline(edge, color="white", lw=1.5)
        axes.axvline(edge, color="white", lw=1.5)
    for i, j in np.ndindex(count, count) if count <= 20 else ():
        if matrix[i, j]:
            dark = share[i, j] > (0.5 if i == j else 0.3)
            colour = "white" if dark else INK
            axes.text(
                j, i, f"{matrix[i, j]}", ha="center", va="center", fontsize=size, color=colour
            )


def _short(name: str, limit: int = 18) -> str:
    """A class name that fits beside an axis; `$` would start mathematics in matplotlib."""
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return name.replace("$", r"\$")


def draw_summary(run: Path, png: Path) -> Path:
    """The frontier and the export chain of a run as one picture, for a README or a slide.

    Raises:
        SinetError: `run` is not a run folder.
    """
    content = read_run(run)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 5), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=[2.2, 1])
        latency_axis(left, content)
        draw_trials(left, content)
        left.tick_params(labelbottom=True)
        for text in left.texts:
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        left.set_title("Everything that was trained", loc="left", weight="bold", fontsize=11)
        _chain_bars(right, content)
        with atomic_path(png) as temporary:
            figure.savefig(temporary, dpi=160)
    return png


def _chain_bars(axes: Axes, run: Run) -> None:
    """Latency of each link of the export chain, with its accuracy and size beside it."""
    rows = [r for r in run.chain if r.timing]
    for y, row in enumerate(rows):
        assert row.timing is not None
        axes.barh(y, row.timing.ms, height=0.26, color=ACCENT if row.shipped else FAINT)
        facts = [f"{row.timing.ms:.2f} ms"]
        facts += (
            [f"{run.task.scale * row.score:.1f}{run.task.unit}"] if row.score is not None else []
        )
        facts += [f"{row.file_mb:.1f} MB"] if row.file_mb else []
        weight = "bold" if row.shipped else "normal"
        axes.text(0, y - 0.2, f"{row.name}   " + "  ·  ".join(facts), va="bottom", weight=weight)
    axes.set_ylim(max(len(rows), 3) - 0.4, -0.5)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title("From training to the shipped file", loc="left", weight="bold", fontsize=11)
