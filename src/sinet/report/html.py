"""`report.html`: everything a run folder tells, on one page that needs nothing else."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from PIL import Image

from sinet import __version__
from sinet.files import write_text
from sinet.report import plots
from sinet.report.checklist import checklist
from sinet.report.frontier import frontier
from sinet.report.reader import CandidateRow, LayerRow, Run, read_run
from sinet.report.style import as_svg
from sinet.tasks.signatures import Signature

DASH = "–"
MAX_CLASSES = 30  # a larger matrix cannot be read; the most confused pairs can
MAX_LAYERS = 14


def render(run: Path) -> Path:
    """Write `run/report.html` from the files of a run folder and return its path.

    A run that was stopped or that found nothing within its budget gets a report too: it says which
    files are missing and shows the rest.

    Raises:
        SinetError: `run` is not a run folder, or the report cannot be written.
    """
    content = read_run(Path(run))
    environment = Environment(
        loader=PackageLoader("sinet.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "pct": pct,
        "ms": ms,
        "mb": mb,
        "count": count,
        "plain": plain,
        "origin": origin,
        "score": lambda value, digits=1: score(content.task, value, digits),
    }
    environment.filters.update(filters)
    page = environment.get_template("report.html.j2").render(**_context(content))
    return write_text(content.folder / "report.html", page)


def pct(value: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return DASH if value is None or value != value else f"{100 * value:.{digits}f}%"


def score(task: Signature, value: float | None, digits: int = 1) -> str:
    """A value of the task's metric, with its unit."""
    if value is None or value != value:
        return DASH
    return f"{task.scale * value:.{digits}f}{'' if task.unit == '%' else ' '}{task.unit}"


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits."""
    if value is None:
        return DASH
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def mb(value: float | None) -> str:
    """Megabytes."""
    return DASH if value is None else f"{value:.2f}" if value < 1 else f"{value:.1f}"


def count(value: float | None) -> str:
    """A large count with its unit: 5.2 M."""
    if value is None:
        return DASH
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f}"


def origin(init: str) -> str:
    """What a training started from, as words that follow "from"."""
    known = {"scratch": "scratch", "pretrained": "pretrained weights"}
    return known.get(init, f"pretrained weights ({init})")


def plain(value: Any) -> str:
    """A JSON value as a person would write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _context(run: Run) -> dict[str, Any]:
    """Everything the template shows; its own logic is no more than loops and conditions."""
    found = run.predictions
    trained = any(t.score is not None for t in run.trials)
    single = found is not None and not found.multilabel
    return {
        "run": run,
        "version": __version__,
        "title": _title(run),
        "state": _state(run),
        "headline": _headline(run),
        "frontier": _figure("frontier", frontier, run) if run.candidates or trained else "",
        "curves": _figure("curves", plots.curves, run) if run.curves else "",
        "confusion": _confusion(run) if single else "",
        "pairs": found.pairs() if found is not None and single else [],
        "per_class": sorted(
            enumerate(found.per_class()) if found else [], key=lambda row: row[1]["recall"]
        )[:MAX_CLASSES],
        "mistakes": _mistakes(run),
        "gallery": _gallery(run),
        "metric": run.task.metric_name,
        "scale": run.task.scale,
        "unit": "points" if run.task.unit == "%" else run.task.unit,
        "layers": run.layers[:MAX_LAYERS],
        "rest": _rest(run.layers[MAX_LAYERS:]),
        "operators": _operators(run.layers),
        "peaks": _peaks(run),
        "candidates": sorted(run.candidates, key=_by_time),
        "scores": {(t.label, t.ms): t for t in sorted(run.trials, key=lambda t: t.rung)},
        "slowest": max((c.timing.ms for c in run.candidates if c.timing and c.fits), default=1.0),
        "splits": _splits(run),
        "checks": checklist(run) if run.shipped else [],
        "commands": _commands(run),
    }


def _figure(name: str, draw: Callable[[Run], Any], run: Run) -> Markup:
    return Markup(as_svg(name, lambda: draw(run)))


def _title(run: Run) -> str:
    winner = run.winner
    model = run.card.get("model") or (winner.label if winner else "")
    if isinstance(model, Mapping):
        model = f"{model.get('name')}@{model.get('size')}"
    if not model and run.candidates and not any(c.fits for c in run.candidates):
        return "Nothing fits the budget"
    return str(model) or run.folder.resolve().name


def _state(run: Run) -> str:
    """How far the run got, in one sentence; empty for a finished one."""
    if run.shipped:
        return ""
    if run.candidates and not any(c.fits for c in run.candidates):
        near = min(run.candidates, key=lambda c: _excess(c, run.budget))
        why = near.why or "it could not be timed"
        name = f"{near.label} {near.precision}"
        return f"No candidate keeps the budget. The nearest miss is {name}: {why}."
    if not run.candidates:
        return "The run ended before its candidates were timed."
    if not run.trials:
        return "The run ended before anything was trained."
    if not run.chain:
        return "The run ended before an exported file passed its verification."
    return "Nothing shipped: the exported file did not pass its checks."


def _excess(candidate: CandidateRow, limits: Mapping[str, float]) -> float:
    """The worst ratio of cost to limit; infinite where the latency is unknown."""
    if candidate.timing is None:
        return float("inf")
    costs = {
        "ms": candidate.timing.q3,
        "mb": candidate.file_mb,
        "memory_mb": candidate.memory_mb,
    }
    return max((costs[k] or 0.0) / limit for k, limit in limits.items()) if limits else 0.0


def _headline(run: Run) -> dict[str, Any]:
    """The four numbers at the top: accuracy with interval, latency, size, memory."""
    row = run.shipped
    if row is None:
        return {}
    interval = (row.low, row.high) if row.low is not None and row.high is not None else None
    limits = run.budget
    gauges = [
        ("ms", row.timing.ms if row.timing else None),
        ("mb", row.file_mb),
        ("memory_mb", row.memory_mb),
    ]
    shares = {k: v / limits[k] for k, v in gauges if v is not None and k in limits}
    return {
        "row": row,
        "metric": run.task.metric_name,
        "images": run.verdict.get("images"),
        "interval": interval,
        "limits": limits,
        "shares": shares,
        "kept": all(share <= 1 for share in shares.values()),
    }


def _confusion(run: Run) -> Markup | str:
    if run.predictions is None or len(run.classes) > MAX_CLASSES:
        return ""
    matrix = run.predictions.confusion()
    figure = as_svg("confusion", lambda: plots.confusion(matrix, run.classes))
    return Markup(figure)


def _mistakes(run: Run) -> list[dict[str, Any]]:
    """The worst mistakes that have a picture: what it is, what was said, how surely."""
    found, classes = run.predictions, run.classes
    if found is None:
        return []
    rows = []
    for picture, index in zip(found.pictures, found.picture_index, strict=True):
        label, said = found.labels[index], found.predicted[index]
        names = (
            [[c for c, on in zip(classes, x, strict=True) if on] for x in (label, said)]
            if (found.multilabel)
            else [[classes[int(label)]], [classes[int(said)]]]
        )
        rows.append(
            {
                "source": _png(picture),
                "small": picture.shape[0] <= 48,
                "name": str(found.names[index]),
                "label": ", ".join(names[0]) or "none",
                "said": ", ".join(names[1]) or "none",
                "confidence": float(found.confidence[index]),
            }
        )
    return rows


def _gallery(run: Run) -> list[dict[str, Any]]:
    """Truth and answer side by side: the worst, then usual ones."""
    found = run.evidence
    if found is None:
        return []
    return [
        {
            "source": "data:image/jpeg;base64,"
            + base64.b64encode((found.folder / shown.file).read_bytes()).decode(),
            "name": shown.name,
            "quality": shown.quality,
            "usual": shown.usual,
        }
        for shown in found.pictures
    ]


def _png(picture: Any) -> str:
    stream = BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _by_time(candidate: CandidateRow) -> float:
    return candidate.timing.ms if candidate.timing else float("inf")


def _rest(layers: list[LayerRow]) -> dict[str, float]:
    return {"layers": len(layers), "share": sum(r.share for r in layers)} if layers else {}


def _operators(layers: list[LayerRow]) -> list[tuple[str, float]]:
    """Share of the time by operator, largest first."""
    shares: dict[str, float] = {}
    for layer in layers:
        shares[layer.op] = shares.get(layer.op, 0.0) + layer.share
    return sorted(shares.items(), key=lambda item: -item[1])[:6]


def _peaks(run: Run) -> dict[str, Any]:
    """The measured peaks of the machine at the thread count of the shipped file."""
    rows = run.machine.get("peaks") or []
    timing = run.shipped.timing if run.shipped else None
    threads = timing.threads if timing and timing.threads else 0
    fitting = [r for r in rows if r.get("threads", 0) <= threads] or rows
    return dict(max(fitting, key=lambda r: r.get("threads", 0))) if fitting else {}


def _splits(run: Run) -> list[dict[str, Any]]:
    """Images, and the smallest and largest class, of each split."""
    rows = []
    for name, images in (run.dataset.get("samples") or {}).items():
        counts = zip(run.classes, run.dataset["counts"][name], strict=True)
        order = sorted(counts, key=lambda pair: pair[1])
        rows.append({"name": name, "images": images, "least": order[0], "most": order[-1]})
    return rows


def _commands(run: Run) -> list[tuple[str, str]]:
    """What to type to repeat the run and to use its result."""
    folder = shlex.quote(str(run.folder))
    data = shlex.quote(str(run.config.get("data") or "photos/"))
    fit = run.config.get("command") or f"sinet fit {data}"
    return [
        ("Repeat this run", str(fit)),
        ("Check the shipped file", f"sinet val {folder}/model.onnx {data}"),
        ("Time it again", f"sinet bench {folder}/model.onnx"),
        ("Use it", f"sinet predict {folder}/model.onnx new/*.jpg --out results.csv"),
        ("Use it without SiNet", f"python {folder}/ship/run.py new.jpg"),
        ("Write this page again", f"sinet report {folder}"),
    ]
