"""What to check before a model goes onto a device; measured here wherever it can be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sinet.deployment.metadata import PREFIX
from sinet.report.reader import Run

State = Literal["good", "bad", "look"]


@dataclass(frozen=True)
class Check:
    """One line of the checklist: kept, broken, or for a person to look at."""

    state: State
    title: str
    detail: str


def checklist(run: Run) -> list[Check]:
    """The checks that this run allows, in the order in which a person would go through them."""
    found = [*_budget(run), *_file(run.folder / "model.onnx"), *_agreement(run), *_gate(run)]
    return [*found, *_trust(run), _licence(run), _device(run)]


def _budget(run: Run) -> list[Check]:
    """Latency, file size and memory of the shipped file against what was asked for."""
    row = run.shipped
    if row is None:
        return []
    values = {
        "ms": ("Latency", "ms", row.timing.ms if row.timing else None),
        "mb": ("File size", "MB", row.file_mb),
        "memory_mb": ("Peak memory", "MB", row.memory_mb),
    }
    checks = []
    for key, (title, unit, value) in values.items():
        limit = run.budget.get(key)
        if value is None:
            checks.append(Check("look", title, "Not measured in this run."))
        elif limit is None:
            checks.append(Check("good", title, f"{value:.3g} {unit}; no limit was set."))
        else:
            share = value / limit
            words = f"{value:.3g} of {limit:g} {unit} ({share:.0%} of the limit)."
            checks.append(Check("good" if share <= 1 else "bad", title, words))
    return checks


def _file(path: Path) -> list[Check]:
    """Whether the file itself takes raw images and knows its labels."""
    if not path.exists():
        return [Check("look", "Shipped file", "model.onnx is not in the run folder.")]
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own errors share no base class
        return [Check("bad", "Shipped file", f"model.onnx cannot be read: {error}")]
    given = model.graph.input[0].type.tensor_type
    raw = given.elem_type == onnx.TensorProto.UINT8
    free = [d.dim_param for d in given.shape.dim if not d.HasField("dim_value")]
    words = "Resize, crop and normalisation are in the graph: feed raw uint8 images, any size."
    if not raw or len(free) < 2:
        words = "The file expects prepared tensors; apply the preprocessing of card.json first."
    labels = f"{PREFIX}classes" in {p.key for p in model.metadata_props}
    says = "Class names travel in the file's metadata." if labels else "No class names in the file."
    return [
        Check("good" if raw and len(free) >= 2 else "bad", "Preprocessing", words),
        Check("good" if labels else "bad", "Labels", says),
    ]


def _agreement(run: Run) -> list[Check]:
    """Whether the export computes what was trained."""
    row = next((r for r in run.chain if r.name.lower().startswith("fp32")), None)
    if row is None or row.difference is None:
        return []
    words = f"Exported FP32 logits differ from the trained model's by at most {row.difference:.1e}."
    return [Check("good" if run.shipped else "bad", "Export", words)]


def _gate(run: Run) -> list[Check]:
    """What became of INT8."""
    return [Check("good" if run.shipped else "bad", "INT8 gate", f"{run.why}.")] if run.why else []


def _trust(run: Run) -> list[Check]:
    """Whether stated confidences can be used as they are, and which class is weakest."""
    found = run.predictions
    if found is None:
        return []
    checks = []
    if not found.multilabel:
        gap = float(found.confidence.mean()) - found.accuracy
        words = f"Mean confidence {found.confidence.mean():.1%}, accuracy {found.accuracy:.1%}."
        if abs(gap) > 0.03:
            side = "over" if gap > 0 else "under"
            words += f" The model is {side}confident: choose thresholds on your own images."
        checks.append(Check("good" if abs(gap) <= 0.03 else "look", "Confidence", words))
    rows = [(r["recall"], i) for i, r in enumerate(found.per_class())]
    known = [(recall, i) for recall, i in rows if not math.isnan(recall)]
    if known:
        recall, index = min(known)
        images = int(found.per_class()[index]["images"])
        words = f"{run.classes[index]}: {recall:.0%} of its {images} images are found."
        checks.append(Check("look", "Weakest class", words))
    return checks


def _licence(run: Run) -> Check:
    licence = run.card.get("licence") or run.card.get("license")
    if not licence:
        return Check("look", "Licence", "The card names none: check that of the starting weights.")
    return Check("look", "Licence", f"Model: {licence}. Check that your images may be used so.")


def _device(run: Run) -> Check:
    where = run.machine.get("hardware") or run.machine.get("cpu") or "the machine of this run"
    timing = run.shipped.timing if run.shipped else None
    threads = f" with {timing.threads} threads" if timing and timing.threads else ""
    words = (
        f"Latencies are those of {where}{threads}, otherwise idle; under load or heat expect more. "
        "For another device, run sinet profile there and give its file to sinet fit --profile."
    )
    return Check("look", "This device", words)
