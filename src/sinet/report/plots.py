"""The report's figures, drawn with matplotlib's object interface and returned as inline SVG."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sinet.files import atomic_path
from sinet.report.reader import Run, TrialRow

INK, MUTED, FAINT, GRID = "#16191d", "#6b7280", "#c3c9d1", "#e8ebef"
ACCENT, ALERT = "#0f6b5c", "#c2410c"

STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, and set in the page's own font
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "lines.solid_capstyle": "round",
}


def as_svg(name: str, draw: Callable[[], Figure]) -> str:
    """The figure as an `<svg>` element; `name` keeps its ids apart from those of other figures."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        text = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        draw().savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'id="(figure|axes|patch|text|matplotlib|ytick|xtick|line2d)[^"]*"', "", svg)
    return svg[svg.index("<svg") :]


def frontier(run: Run) -> Figure:
    """Accuracy against latency of everything trained, above the latencies of everything timed."""
    trained = bool(_scored(run))
    figure = Figure(figsize=(9.2, 4.9 if trained else 1.5), layout="constrained")
    if trained:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[9, 1])
        _latency_axis(lower, run)
        _trials(upper, run)
    else:
        lower = figure.subplots()
        _latency_axis(lower, run)
    _strip(lower, run)
    return figure


def _scored(run: Run) -> list[TrialRow]:
    return [t for t in run.trials if t.score is not None and t.ms is not None]


def _latency_axis(axes: Axes, run: Run) -> None:
    """A logarithmic latency axis with round tick labels."""
    times = [c.timing.ms for c in run.candidates if c.timing]
    times += [t.ms for t in _scored(run) if t.ms]
    times += [run.budget["ms"]] if "ms" in run.budget else []
    low, high = (min(times) * 0.85, max(times) * 1.35) if times else (1.0, 10.0)
    if "ms" in run.budget:  # candidates far beyond the budget would squeeze those that matter
        high = min(high, max(6 * run.budget["ms"], *(1.35 * (t.ms or 0) for t in _scored(run)), low))
        high = max(high, 1.35 * min(times))
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    every = [d * 10.0**e for e in range(-3, 5) for d in (1, 2, 3, 5, 7)]
    ticks = [t for t in every if low <= t <= high]
    if len(ticks) > 9:
        ticks = [t for t in ticks if f"{t:e}"[0] in "125"]
    axes.set_xticks(ticks, [f"{t:g} ms" for t in ticks])
    axes.set_xticks([], minor=True)


def _strip(axes: Axes, run: Run) -> None:
    """One tick for each timed candidate; those beyond the budget in the colour of the budget."""
    for fits, colour in ((True, MUTED), (False, ALERT)):
        times = [c.timing.ms for c in run.candidates if c.timing and c.fits is fits]
        axes.vlines(times, 0.15, 0.85, color=colour, lw=1.3, alpha=0.75 if fits else 0.5)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    timed = [c for c in run.candidates if c.timing]
    fitting = sum(c.fits for c in timed)
    beyond = sum(c.timing.ms > axes.get_xlim()[1] for c in timed if c.timing)
    text = f"every candidate timed before training: {len(timed)}, of which {fitting} fit"
    text += f"; {beyond} slower than this axis" if beyond else ""
    axes.set_xlabel(text, loc="left", fontsize=9)
    if "ms" in run.budget:
        axes.axvline(run.budget["ms"], color=ALERT, lw=1.2)


def _trials(axes: Axes, run: Run) -> None:
    """Trained candidates: one column of dots each, a dot a rung, the last one named."""
    scored, winner, shipped = _scored(run), run.winner, run.shipped
    last: dict[tuple[str, float], TrialRow] = {}
    for trial in sorted(scored, key=lambda t: t.rung):
        key = (trial.label, trial.ms or 0.0)
        if key in last:
            axes.plot([trial.ms] * 2, [_pct(last[key]), _pct(trial)], color=FAINT, lw=1, zorder=1)
            axes.plot(trial.ms, _pct(last[key]), "o", ms=3.5, color=FAINT, zorder=2)
        last[key] = trial
    _staircase(axes, list(last.values()))
    for trial in last.values():
        chosen = winner is not None and (trial.label, trial.ms) == (winner.label, winner.ms)
        colour = ACCENT if chosen else INK
        face = "white" if trial.init == "scratch" else colour
        axes.plot(trial.ms, _pct(trial), "o", ms=8 if chosen else 6, mfc=face, mec=colour, mew=1.5)
    if shipped and shipped.score is not None and shipped.timing:
        axes.plot(shipped.timing.ms, 100 * shipped.score, "D", ms=8, color=ACCENT, zorder=5)
    axes.margins(y=0.12)
    if "ms" in run.budget:
        budget = run.budget["ms"]
        axes.axvline(budget, color=ALERT, lw=1.2)
        axes.axvspan(budget, axes.get_xlim()[1], color=ALERT, alpha=0.045, lw=0)
        place = {"xytext": (5, 6), "textcoords": "offset points"}
        words, frame = f"budget {budget:g} ms", axes.get_xaxis_transform()
        axes.annotate(words, (budget, 0), xycoords=frame, color=ALERT, **place)
    _name_points(axes, run, list(last.values()))
    axes.set_ylabel("accuracy, %")
    axes.tick_params(labelbottom=False)


def _pct(trial: TrialRow) -> float:
    return 100 * (trial.score or 0.0)


def _staircase(axes: Axes, trials: Sequence[TrialRow]) -> None:
    """The best accuracy to be had at each latency."""
    best, xs, ys = -1.0, [], []
    for trial in sorted(trials, key=lambda t: (t.ms or 0.0, -_pct(t))):
        if _pct(trial) > best:
            best = _pct(trial)
            xs.append(trial.ms)
            ys.append(best)
    if len(xs) > 1:
        axes.step(xs, ys, where="post", color=ACCENT, lw=1.2, alpha=0.45, zorder=1)


def _name_points(axes: Axes, run: Run, trials: Sequence[TrialRow]) -> None:
    """Names beside the points, best first; a name that would lie on another is left out."""
    axes.figure.draw_without_rendering()  # settles the layout, so that pixels mean something
    points = [(t.ms, _pct(t), t.label, INK, "normal") for t in trials]
    winner, shipped = run.winner, run.shipped
    points.sort(key=lambda p: -p[1])
    if winner:
        points.sort(key=lambda p: p[2] != winner.label)
        points = [(*p[:3], ACCENT, "bold") if p[2] == winner.label else p for p in points]
    if shipped and shipped.score is not None and shipped.timing:
        name = f"shipped: {shipped.name}"
        points.insert(0, (shipped.timing.ms, 100 * shipped.score, name, ACCENT, "bold"))
    scale = axes.figure.dpi / 72
    taken = [_box(axes, x, y, 8 * scale, 8 * scale, 0, 0) for x, y, *_ in points]
    for index, (x, y, name, colour, weight) in enumerate(points):
        width, height = 5.4 * scale * len(name), 11 * scale
        others = taken[:index] + taken[index + 1 :]
        for dx, dy, side in _places(width, scale):
            box = _box(axes, x, y, width, height, dx, dy)
            if _inside(axes, box) and not any(_overlap(box, other) for other in others):
                offset = (dx - width / 2 if side == "left" else dx + width / 2) / scale
                place = {"xytext": (offset, dy / scale), "textcoords": "offset points"}
                style = {"color": colour, "weight": weight, "ha": side, "va": "center"}
                axes.annotate(name, (x, y), fontsize=9, **place, **style)
                taken.append(box)
                break


def _places(width: float, scale: float) -> list[tuple[float, float, str]]:
    """Offsets (pixels) of a label's centre from its point, the best places first."""
    near = 8 * scale + width / 2
    rows = [dy * scale for dy in (0, 9, -9, 16, -16, 23, -23)]
    return [(sign * near, dy, side) for dy in rows for sign, side in ((1, "left"), (-1, "right"))]


def _box(
    axes: Axes, x: Any, y: float, width: float, height: float, dx: float, dy: float
) -> tuple[float, float, float, float]:
    px, py = axes.transData.transform((x, y))
    return (
        px + dx - width / 2,
        py + dy - height / 2,
        px + dx + width / 2,
        py + dy + height / 2,
    )


def _inside(axes: Axes, box: tuple[float, float, float, float]) -> bool:
    frame = axes.get_window_extent()
    return box[0] >= frame.x0 and box[2] <= frame.x1 and box[1] >= frame.y0 and box[3] <= frame.y1


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def curves(run: Run) -> Figure:
    """Loss, and accuracy, of the chosen model by epoch."""
    figure = Figure(figsize=(9.2, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, run, {"train/loss": ("training", MUTED), "val/loss": ("validation", ACCENT)})
    score = "val/top1" if "val/top1" in run.curves else "val/map"
    _lines(right, run, {score: ("validation", ACCENT)}, scale=100)
    left.set_title("Loss", loc="left", fontsize=10, weight="bold")
    title = "Accuracy, %" if score == "val/top1" else "Mean average precision, %"
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
        value = f"{y[-1]:.1f}" if scale == 100 else f"{y[-1]:.3f}"
        place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{label} {value}", (x[-1], y[-1]), color=colour, fontsize=9, **place)
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
            axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", fontsize=size, color=colour)


def _short(name: str, limit: int = 18) -> str:
    """A class name that fits beside an axis; `$` would start mathematics in matplotlib."""
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return name.replace("$", r"\$")


def draw_summary(run: Path, png: Path) -> Path:
    """The frontier and the export chain of a run as one picture, for a README or a slide.

    Raises:
        SinetError: `run` is not a run folder.
    """
    from sinet.report.reader import read_run

    content = read_run(run)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 5), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=[2.2, 1])
        _latency_axis(left, content)
        _trials(left, content)
        left.tick_params(labelbottom=True)
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
        axes.barh(y, row.timing.ms, height=0.5, color=ACCENT if row.shipped else FAINT)
        facts = [f"{row.timing.ms:.2f} ms"]
        facts += [f"{100 * row.score:.1f}%"] if row.score is not None else []
        facts += [f"{row.file_mb:.1f} MB"] if row.file_mb else []
        weight = "bold" if row.shipped else "normal"
        axes.text(0, y - 0.33, f"{row.name}   " + "  ·  ".join(facts), va="bottom", weight=weight)
    axes.set_ylim(len(rows) - 0.4, -0.75)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title("From training to the shipped file", loc="left", weight="bold", fontsize=11)
