"""The accuracy/latency frontier: everything trained, above everything timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sinet.report.reader import Run, TrialRow
from sinet.report.style import ACCENT, ALERT, FAINT, INK, MUTED, note


def frontier(run: Run) -> Figure:
    """Accuracy against latency of everything trained, above the latencies of everything timed."""
    trained = bool(_scored(run))
    figure = Figure(figsize=(9.2, 4.9 if trained else 1.5), layout="constrained")
    if trained:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[9, 1])
        latency_axis(lower, run)
        draw_trials(upper, run)
    else:
        lower = figure.subplots()
        latency_axis(lower, run)
    _strip(lower, run)
    return figure


def _scored(run: Run) -> list[TrialRow]:
    return [t for t in run.trials if t.score is not None and t.ms is not None]


def _ms(trial: TrialRow) -> float:
    return trial.ms or 0.0


def latency_axis(axes: Axes, run: Run) -> None:
    """A logarithmic latency axis with round tick labels."""
    times = [c.timing.ms for c in run.candidates if c.timing]
    times += [t.ms for t in _scored(run) if t.ms]
    times += [run.budget["ms"]] if "ms" in run.budget else []
    low, high = (min(times) * 0.85, max(times) * 1.35) if times else (1.0, 10.0)
    if "ms" in run.budget and _scored(run):
        # Candidates far beyond the budget would squeeze those that matter.
        needed = [6 * run.budget["ms"], 6 * min(times), *(1.35 * _ms(t) for t in _scored(run))]
        high = min(high, max(needed))
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
        budget = run.budget["ms"]
        axes.axvline(budget, color=ALERT, lw=1.2)
        if not _scored(run):
            note(axes, f"budget {budget:g} ms", (budget, 1), (5, -6), color=ALERT)


def draw_trials(axes: Axes, run: Run) -> None:
    """Trained candidates: one column of dots each, a dot a rung, the last one named."""
    scored, winner, shipped = _scored(run), run.winner, run.shipped
    last: dict[tuple[str, float], TrialRow] = {}
    for trial in sorted(scored, key=lambda t: t.rung):
        key = (trial.label, _ms(trial))
        if key in last:
            axes.plot(
                [_ms(trial)] * 2,
                [_height(run, last[key]), _height(run, trial)],
                color=FAINT,
                lw=1,
                zorder=1,
            )
            axes.plot(_ms(trial), _height(run, last[key]), "o", ms=3.5, color=FAINT, zorder=2)
        last[key] = trial
    _staircase(axes, [(_ms(t), _height(run, t)) for t in last.values()])
    for trial in last.values():
        chosen = winner is not None and (trial.label, trial.ms) == (winner.label, winner.ms)
        colour = ACCENT if chosen else INK
        face = "white" if trial.init == "scratch" else colour
        size = 8 if chosen else 6
        place = _ms(trial), _height(run, trial)
        axes.plot(*place, "o", ms=size, mfc=face, mec=colour, mew=1.5)
    if shipped and shipped.score is not None and shipped.timing:
        axes.plot(
            shipped.timing.ms, run.task.scale * shipped.score, "D", ms=8, color=ACCENT, zorder=5
        )
    axes.margins(y=0.12)
    if "ms" in run.budget:
        budget = run.budget["ms"]
        axes.axvline(budget, color=ALERT, lw=1.2)
        axes.axvspan(budget, axes.get_xlim()[1], color=ALERT, alpha=0.045, lw=0)
        frame = axes.get_xaxis_transform()
        note(axes, f"budget {budget:g} ms", (budget, 0), (5, 6), xycoords=frame, color=ALERT)
    _name_points(axes, run, list(last.values()))
    axes.set_ylabel(f"{run.task.metric_name}, {run.task.unit}")
    axes.tick_params(labelbottom=False)


def _height(run: Run, trial: TrialRow) -> float:
    """The trial's score as it is shown."""
    return run.task.scale * (trial.score or 0.0)


def _staircase(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """The best score to be had at each latency."""
    best = float("-inf")
    xs: list[float] = []
    ys: list[float] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if y > best:
            best = y
            xs.append(x)
            ys.append(y)
    if len(xs) > 1:
        axes.step(xs, ys, where="post", color=ACCENT, lw=1.2, alpha=0.45, zorder=1)


def _name_points(axes: Axes, run: Run, trials: Sequence[TrialRow]) -> None:
    """Names beside the points, best first; a name that would lie on another is left out."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles the layout, so that pixels mean something
    points = [(_ms(t), _height(run, t), t.label, INK, "normal") for t in trials]
    winner, shipped = run.winner, run.shipped
    points.sort(key=lambda p: -p[1])
    if winner:
        points.sort(key=lambda p: p[2] != winner.label)
        points = [(*p[:3], ACCENT, "bold") if p[2] == winner.label else p for p in points]
    if shipped and shipped.score is not None and shipped.timing:
        name = f"shipped: {shipped.name}"
        points.insert(0, (shipped.timing.ms, run.task.scale * shipped.score, name, ACCENT, "bold"))
    scale = figure.dpi / 72
    taken = [_box(axes, x, y, 8 * scale, 8 * scale, 0, 0) for x, y, *_ in points]
    for index, (x, y, name, colour, weight) in enumerate(points):
        width, height = 5.4 * scale * len(name), 11 * scale
        others = taken[:index] + taken[index + 1 :]
        for dx, dy, side in _places(width, scale):
            box = _box(axes, x, y, width, height, dx, dy)
            if _inside(axes, box) and not any(_overlap(box, other) for other in others):
                edge = (dx - width / 2 if side == "left" else dx + width / 2) / scale
                style = {"color": colour, "weight": weight, "ha": side, "va": "center"}
                note(axes, name, (x, y), (edge, dy / scale), fontsize=9, **style)
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
    across = box[0] >= frame.x0 and box[2] <= frame.x1
    return bool(across and box[1] >= frame.y0 and box[3] <= frame.y1)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
