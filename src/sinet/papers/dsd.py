"""DSD: how many samples networks need that share weights, that only look locally, or neither."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sinet.files import atomic_path, read_json, write_json
from sinet.measurement.results import results_dir
from sinet.papers._arms import complete
from sinet.papers._signal import Images, Method, Task, draw, learned, samples_needed
from sinet.papers.base import Card, Finding, Outcome, Setting
from sinet.report.style import ACCENT, ALERT, INK, STYLE, note

CARD = Card(
    slug="dsd",
    title=(
        "Role of Locality and Weight Sharing in Image-Based Tasks: A Sample Complexity Separation "
        "between CNNs, LCNs, and FCNs"
    ),
    authors="A. Lahoti, S. Karp, E. Winston, A. Singh, Y. Li",
    year=2024,
    venue="ICLR",
    url="https://arxiv.org/abs/2403.15707",
    licence="no code published; written from the definitions, Apache-2.0",
    idea=(
        "A signal stands somewhere in noise. Networks whose best predictor is the same need very "
        "different numbers of samples to find it: local filters save a factor of about the number "
        "of patches, and one filter shared by all patches saves as much again."
    ),
    equations=(
        "x = y e_t(w*) + z;  y = +-1, t uniform in 1 .. k, z ~ N(0, sigma^2 I), w* in R^d",
        "phi_b(z) = relu(z - b) - relu(-z - b)",
        "FCN: sum_i phi_b(w_i . x);  LCN: sum_i phi_b(w_i . x^(i));  CNN: sum_i phi_b(w . x^(i))",
    ),
    claims=(
        "a CNN needs fewer samples than an LCN, and an LCN fewer than an FCN",
        "sharing weights saves more the more patches there are: a factor of about k",
        "looking locally saves more the more patches there are: a factor of up to k",
        "all three need more samples in patches of more dimensions",
    ),
    models=(),
    parity=(
        "no reference code; moments of the task, equality of the nested networks, and that "
        "rotating data and start rotates what gradient descent finds, to 1e-10"
    ),
)
SEEDS = (11, 12, 13, 14, 15)
"""Not those of the trials that the setting was chosen by."""

KINDS = ("cnn", "lcn", "fcn")
RATES = (0.1, 0.01, 0.001)
"""The rates that the authors tried for weights."""
BIAS = 1 / 3
"""Share of it for b, as in the trials."""
VAL, TEST = 2000, 4000
MOST = 8192
"""Samples above which no network is tried."""
SLOPE = 0.6
"""Least growth, as a power of k, that counts for "a factor of about k" over so few patches."""
FLAT = 0.1
"""Growth below this power is none."""


def _adam(kind: str, k: int) -> Method:
    return Method("adam", RATES, BIAS, 200)


def _gradient_descent(kind: str, k: int) -> Method:
    # in an LCN a filter sees one patch, which varies k times less than all together
    factor = k if kind == "lcn" else 1
    return Method("gd", tuple(factor * rate for rate in (0.3, 0.1, 0.03)), BIAS, 400)


@dataclass(frozen=True)
class Protocol:
    """One way to measure; fixed before the seeds of this file were first run.

    Attributes:
        name: for files.
        label: for people.
        sigma: deviation of the noise for k patches.
        target: test accuracy to be reached.
        method: (kind, k) -> how it learns.
        ks: numbers of patches, at `d` dimensions.
        ds: dimensions of a patch, at `k` patches.
        k: of the points that vary d.
        d: of the points that vary k.
    """

    name: str
    label: str
    sigma: Callable[[int], float]
    target: float
    method: Callable[[str, int], Method]
    ks: tuple[int, ...] = (5, 10, 20)
    ds: tuple[int, ...] = ()
    k: int = 10
    d: int = 20

    @property
    def points(self) -> list[tuple[int, int]]:
        """All (k, d), each once."""
        return list(dict.fromkeys([(k, self.d) for k in self.ks] + [(self.k, d) for d in self.ds]))


def _scaled(k: int) -> float:
    """The noise under which the best linear rule has the same accuracy, 0.894, for all k."""
    return 0.8 / math.sqrt(k)


def _constant(k: int) -> float:
    return 0.25


def protocols(setting: Setting) -> tuple[Protocol, Protocol, Protocol]:
    """With noise that shrinks with k, with constant noise, and by plain gradient descent."""
    ks: tuple[int, ...] = (5, 10, 20, 40)
    ds: tuple[int, ...] = (10, 20, 40)
    k, few = 10, (5, 10, 20)
    if setting.quick:
        ks, ds, k, few = (4, 8, 10), (10, 20), 4, (4, 8, 10)
    elif setting.device == "cuda":  # the authors' grid
        ks, ds, k = (10, 15, 20, 25, 30), (10, 15, 20, 25, 30), 20
    return (
        Protocol("scaled", "sigma = 0.8 / sqrt(k), Adam", _scaled, 0.85, _adam, ks, ds, k),
        Protocol("constant", "sigma = 0.25, Adam", _constant, 0.9, _adam, few),
        Protocol("gd", "sigma = 0.8 / sqrt(k), gradient descent", _scaled, 0.85,
                 _gradient_descent, few),
    )  # fmt: skip


@dataclass
class Needs:
    """Samples needed under a protocol, by kind and (k, d), one number for each seed.

    Infinite where the largest number of samples did not do.
    """

    protocol: Protocol
    samples: dict[tuple[str, int, int], list[float]] = field(default_factory=dict)

    def mean(self, kind: str, k: int, d: int) -> float:
        """Geometric mean over the seeds."""
        return float(np.exp(np.mean(np.log(self.samples[kind, k, d]))))

    def logs(self, kind: str, along: str) -> NDArray[np.float64]:
        """Logarithms of the samples, (points, seeds), along "k" or "d"."""
        p = self.protocol
        points = [(k, p.d) for k in p.ks] if along == "k" else [(p.k, d) for d in p.ds]
        found: NDArray[np.float64] = np.log([self.samples[kind, k, d] for k, d in points])
        return found

    def facts(self) -> dict[str, Any]:
        """Samples of every seed by name; None where they were not enough."""
        return {
            f"{kind} k={k} d={d}": [round(n, 1) if n < math.inf else None for n in needed]
            for (kind, k, d), needed in self.samples.items()
        }


def reproduce(setting: Setting) -> list[Finding]:
    """Samples needed along k and d under three protocols, and the powers by which they grow."""
    scaled, constant, descent = (_measure(setting, protocol) for protocol in protocols(setting))
    draw_needs([scaled, constant, descent], _picture(setting))
    findings = [
        _order(scaled, CARD.claims[0]),
        _ratio(scaled, CARD.claims[1], "lcn", "cnn", SLOPE),
        _ratio(scaled, CARD.claims[2], "fcn", "lcn", FLAT),
        _grows_with_d(scaled),
        _order(constant, f"{CARD.claims[0]}; constant noise"),
        _ratio(constant, f"{CARD.claims[1]}; constant noise", "lcn", "cnn", SLOPE),
        _order(descent, f"{CARD.claims[0]}; gradient descent, which is equivariant"),
        _ratio(descent, f"{CARD.claims[1]}; gradient descent", "lcn", "cnn", SLOPE),
    ]
    if setting.quick:
        findings = [Finding(f.claim, f.paper, f.measured, "not decided", f.why) for f in findings]
    return findings


def _picture(setting: Setting) -> Path:
    """Where the plot goes: beside the trainings if it is nothing to publish."""
    published = not setting.quick and setting.device == "cpu"
    return (results_dir().parent / "images" if published else setting.work) / "dsd.png"


def _measure(setting: Setting, protocol: Protocol) -> Needs:
    """Samples needed at every point; those of an earlier call are read."""
    seeds = SEEDS[:2] if setting.quick else SEEDS
    most = 1024 if setting.quick else MOST
    points = {f"{kind}-{k}-{d}": (kind, k, d) for kind in KINDS for k, d in protocol.points}
    # what takes longest first, so that no core waits for it at the end
    order = sorted(points, key=lambda n: -_work(*points[n]))

    def file(name: str, _: int) -> Path:
        return setting.work / protocol.name / f"{name}.json"

    def do(name: str, _: int) -> None:
        found = _accuracies(protocol, *points[name], seeds, most, setting.device)
        write_json(file(name, _), found)

    complete(setting, [(name, 0) for name in order], file, do)
    needs = Needs(protocol)
    for name, point in points.items():
        found: Mapping[str, Sequence[float]] = read_json(file(name, 0))
        sizes = [int(size) for size in found]
        needs.samples[point] = [
            samples_needed(sizes, accuracies, protocol.target)
            for accuracies in zip(*found.values(), strict=True)
        ]
    return needs


def _work(kind: str, k: int, d: int) -> int:
    """Multiply-adds of a forward, for one image."""
    return k * k * d if kind == "fcn" else k * d


def _accuracies(
    protocol: Protocol, kind: str, k: int, d: int, seeds: Sequence[int], most: int, device: str
) -> dict[int, list[float]]:
    """Test accuracy of each seed by the number of samples, doubled until all reach the target."""
    task = Task(k, d, protocol.sigma(k))
    parts = [
        Images(images.x.to(device), images.y.to(device))
        for images in (draw(task, n, seeds, part) for part, n in enumerate((most, VAL, TEST)))
    ]
    found: dict[int, list[float]] = {}
    size, reached = 4, torch.zeros(len(seeds), dtype=torch.bool)
    while size <= most and not reached.all():
        given = [parts[0].first(size), *parts[1:]]
        found[size] = learned(kind, task, protocol.method(kind, k), given, seeds)
        reached |= torch.tensor(found[size]) >= protocol.target
        size *= 2
    return found


def _order(needs: Needs, claim: str) -> Finding:
    """Fewest for the CNN and most for the FCN, wherever there are at least ten patches."""
    points = [(k, d) for k, d in needs.protocol.points if k >= 10]
    means = {point: [needs.mean(kind, *point) for kind in KINDS] for point in points}
    pairs = [pair for row in means.values() for pair in itertools.pairwise(row)]
    verdict: Outcome = "not decided"  # where neither of two networks reached the target
    if any(more <= less and more < math.inf for less, more in pairs):
        verdict = "refuted"
    elif pairs and all(less < more for less, more in pairs):
        verdict = "confirmed"
    said = "; ".join(
        f"k={k} d={d}: " + ", ".join(_count(n) for n in means[k, d]) for k, d in points
    )
    return Finding(
        claim,
        "CNN O(k + d), LCN at least k d, FCN at least k^2 d, each times sigma^2",
        {"samples": needs.facts(), "target": needs.protocol.target},
        verdict,
        f"{needs.protocol.label}; samples of CNN, LCN, FCN at {said or 'no k of ten or more'}",
    )


def _count(samples: float) -> str:
    return f"{samples:.0f}" if samples < math.inf else "not reached"


def growth(logs: NDArray[np.float64], values: Sequence[int]) -> tuple[float, float, float]:
    """The power of `values` by which something grows, and its 95 % interval.

    The interval is that of 4,000 bootstrap samples of the seeds, drawn anew at each point.

    Args:
        logs: logarithms of what grows, (points, seeds).
        values: of the points.
    """
    x = np.log(values)
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()
    generator = np.random.default_rng(0)
    count = logs.shape[1]
    drawn = generator.integers(0, count, (4000, len(logs), count))
    means = np.take_along_axis(logs[None], drawn, 2).mean(2)
    low, high = np.percentile(means @ weights, [2.5, 97.5])
    return float(weights @ logs.mean(1)), float(low), float(high)


def _ratio(needs: Needs, claim: str, more: str, less: str, least: float) -> Finding:
    """Whether the ratio of two networks' samples grows with k, as a power of at least `least`."""
    ks = needs.protocol.ks
    logs = {kind: needs.logs(kind, "k") for kind in KINDS}
    powers = {k: growth(logs[k], ks) for k in KINDS if np.isfinite(logs[k]).all()}
    measured: dict[str, Any] = {f"{k}_power_of_k": list(found) for k, found in powers.items()}
    paper = "a factor k, of the bounds"
    if not {more, less} <= set(powers):
        why = f"{needs.protocol.label}; not every seed of {more} or {less} reached the target"
        return Finding(claim, paper, measured, "not decided", why)
    slope, low, high = growth(logs[more] - logs[less], ks)
    verdict: Outcome = "not decided"
    if slope >= least and low > 0:
        verdict = "confirmed"
    elif high < least:
        verdict = "refuted"
    measured |= {"ratio_power_of_k": [slope, low, high], "least": least}
    said = f"{more.upper()} / {less.upper()} grows as k^{slope:.2f} ({low:.2f} to {high:.2f})"
    return Finding(claim, paper, measured, verdict, f"{needs.protocol.label}; {said}")


def _grows_with_d(needs: Needs) -> Finding:
    """Whether all three need more samples for larger patches."""
    ds = needs.protocol.ds
    logs = {kind: needs.logs(kind, "d") for kind in KINDS}
    found = {k: growth(logs[k], ds) for k in KINDS if np.isfinite(logs[k]).all()}
    verdict: Outcome = "not decided"
    if len(found) == len(KINDS) and all(low > 0 for _, low, _ in found.values()):
        verdict = "confirmed"
    elif any(high < FLAT for _, _, high in found.values()):
        verdict = "refuted"
    said = ", ".join(
        f"{k.upper()} d^{s:.2f} ({a:.2f} to {b:.2f})" for k, (s, a, b) in found.items()
    )
    return Finding(
        CARD.claims[3],
        "linear in d at fixed k",
        {f"{kind}_power_of_d": list(powers) for kind, powers in found.items()},
        verdict,
        f"{needs.protocol.label}, k = {needs.protocol.k}: {said}",
    )


def draw_needs(found: Sequence[Needs], png: Path) -> None:
    """Samples needed along k under each protocol, and along d under the first."""
    panels = [(found[0], "k"), (found[0], "d"), *((needs, "k") for needs in found[1:])]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14, 4.2), layout="constrained", facecolor="white")
        for axes, (needs, along) in zip(
            figure.subplots(1, len(panels), sharey=True), panels, strict=True
        ):
            _panel(axes, needs, along)
        with atomic_path(png) as temporary:
            figure.savefig(temporary, dpi=110, format="png")


def _panel(axes: Axes, needs: Needs, along: str) -> None:
    """A line through the means and a dot for each seed; what was not reached is missing."""
    values = needs.protocol.ks if along == "k" else needs.protocol.ds
    for kind, colour in zip(KINDS, (ACCENT, INK, ALERT), strict=True):
        samples = np.exp(needs.logs(kind, along))
        finite = np.isfinite(samples)
        for value, row, kept in zip(values, samples, finite, strict=True):
            axes.scatter([value] * int(kept.sum()), row[kept], s=9, color=colour, alpha=0.5, lw=0)
        whole = finite.all(1)
        if whole.any():
            x, y = np.array(values)[whole], np.exp(np.log(samples[whole]).mean(1))
            axes.plot(x, y, color=colour, lw=1.6)
            note(axes, kind.upper(), (x[-1], y[-1]), (5, 0), color=colour, va="center")
    fixed = f"d = {needs.protocol.d}" if along == "k" else f"k = {needs.protocol.k}"
    axes.set(xscale="log", yscale="log", xlabel=f"{along}  ({fixed})")
    axes.set_title(needs.protocol.label, loc="left", fontsize=10, weight="bold")
    axes.set_xticks(values, [str(v) for v in values])
    axes.minorticks_off()
    axes.set_xlim(values[0] * 0.85, values[-1] * 1.5)
    if along == "k" and needs.protocol.name == "scaled":
        axes.set_ylabel("samples to reach the target accuracy")
