"""Classification: logits -> probabilities; one label an image, or several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from sinet.data.dataset import Split
from sinet.tasks.signatures.base import Array, Facts, Result, Scorer, Signature, bootstrap, wilson

THRESHOLD = 0.5
"""Probability from which on a label of a multi-label model is given."""


@dataclass(frozen=True)
class Classification(Result):
    """What the model sees in one image."""

    source: str
    """Path of the file, or its place in the input such as `#3`."""
    label: str
    """The likeliest class; empty where the image could not be read."""
    id: int | str | None
    """The user's own id of that class."""
    score: float
    """Its probability; NaN where the image could not be read."""
    probabilities: npt.NDArray[np.float32]
    """Of all classes, (classes,)."""
    labels: tuple[str, ...]
    """The label; for multi-label models every class from `THRESHOLD` on."""
    facts: Facts
    """Of the model: its classes and ids."""
    error: str | None = None
    """Why the image could not be read."""

    def rows(self, top: int = 1) -> list[dict[str, Any]]:
        """One row: label, id, score of the `top` likeliest classes; `labels` for multi-label."""
        order = (-self.probabilities).argsort(kind="stable")[:top]
        row: dict[str, Any] = {}
        for rank, index in enumerate(order, start=1):
            number, failed = "" if rank == 1 else str(rank), self.error is not None
            row[f"label{number}"] = "" if failed else self.facts.classes[index]
            row[f"id{number}"] = "" if failed else self.facts.class_ids[index]
            row[f"score{number}"] = "" if failed else round(float(self.probabilities[index]), 6)
        if self.facts.multilabel:
            row["labels"] = ";".join(self.labels)
        return [row]

    def to_json(self) -> dict[str, Any]:
        """Label, id, score, labels and the probability of every class."""
        known = self.error is None
        pairs = zip(self.facts.classes, self.probabilities.tolist(), strict=True)
        return {
            "source": self.source,
            "label": self.label,
            "id": self.id,
            "score": self.score if known else None,
            "labels": list(self.labels),
            "probabilities": dict(pairs) if known else {},
            "error": self.error,
        }

    def draw(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        """The image with its label and score in the corner."""
        flat = image[..., 0] if image.shape[-1] == 1 else image
        picture = Image.fromarray(flat).convert("RGB")
        text = ", ".join(self.labels) or "none"
        text += f" {self.score:.2f}" if math.isfinite(self.score) else ""
        font = ImageFont.load_default(max(10, picture.height // 24))
        pen = ImageDraw.Draw(picture)
        pen.rectangle(pen.textbbox((2, 2), text, font), fill="black")
        pen.text((2, 2), text, "white", font)
        return picture


class Classify(Signature):
    """`logits` (N, classes) -> `probabilities` (N, classes)."""

    raw: tuple[str, ...] = ("logits",)
    names = ("probabilities",)
    hub_tag = "image-classification"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.metric = "val/map" if facts.multilabel else "val/top1"
        self.metric_name = "mean average precision" if facts.multilabel else "top-1 accuracy"

    @property
    def described(self) -> str:
        """Logits and probabilities."""
        return f"`logits` and `probabilities`, float32 (N, {len(self.facts.classes)})"

    def tail(self) -> nn.Module:
        """Softmax, or a sigmoid for several labels."""
        return _Likely(self.facts.multilabel)

    def scorer(self) -> Scorer:
        """Top-1, or mean average precision."""
        return ClassScorer(self.facts)

    def result(self, source: str, outputs: Mapping[str, Array]) -> Classification:
        """The likeliest class, or all from `THRESHOLD` on."""
        row, facts = outputs["probabilities"], self.facts
        best = int(row.argmax())
        chosen = np.flatnonzero(row >= THRESHOLD) if facts.multilabel else [best]
        return Classification(
            source=source,
            label=facts.classes[best],
            id=facts.class_ids[best],
            score=float(row[best]),
            probabilities=row,
            labels=tuple(facts.classes[i] for i in chosen),
            facts=facts,
        )

    def failed(self, source: str, reason: str) -> Classification:
        """No label, NaN for every number."""
        nothing = np.full(len(self.facts.classes), np.nan, dtype=np.float32)
        return Classification(source, "", None, math.nan, nothing, (), self.facts, reason)

    def truth(self, split: Split, i: int, order: Array | None = None) -> Any:
        """The class index, or a row of 0 and 1."""
        label = split.labels[i]
        if order is None:
            return label
        if not self.facts.multilabel:
            return order[label]
        row = np.zeros(len(self.facts.classes), dtype=np.float32)
        known = order >= 0
        row[order[known]] = label[known]
        return row

    def truth_result(self, source: str, truth: Any) -> Classification:
        """All probability on the true label."""
        if self.facts.multilabel:
            return self.result(source, {"probabilities": np.asarray(truth, dtype=np.float32)})
        row = np.zeros(len(self.facts.classes), dtype=np.float32)
        row[int(truth)] = 1
        return self.result(source, {"probabilities": row})


class _Likely(nn.Module):
    def __init__(self, multilabel: bool) -> None:
        super().__init__()
        self.multilabel = multilabel

    def forward(self, images: Tensor, logits: Tensor, *others: Tensor) -> tuple[Tensor]:
        return (logits.sigmoid() if self.multilabel else logits.softmax(1),)


class ClassScorer(Scorer):
    """Counts labels and probabilities.

    Args:
        facts: about the model.
    """

    def __init__(self, facts: Facts) -> None:
        self.multilabel, self.classes = facts.multilabel, facts.classes
        self.name = "val/map" if facts.multilabel else "val/top1"
        self._probabilities: list[Array] = []
        self._labels: list[Any] = []

    def update(self, outputs: Mapping[str, Array], truths: Sequence[Any]) -> None:
        """Take in (N, classes) probabilities and N labels."""
        self._probabilities.append(np.asarray(outputs["probabilities"]))
        self._labels += list(truths)

    @property
    def probability(self) -> Array:
        """(N, classes) so far."""
        return np.concatenate(self._probabilities)

    @property
    def labels(self) -> Array:
        """(N,) or (N, classes) so far."""
        return np.asarray(self._labels)

    def value(self) -> float:
        """Top-1, or mean average precision for multi-label data, 0..1."""
        if self.multilabel:
            return mean_average_precision(self.probability, self.labels)
        return float((self.probability.argmax(1) == self.labels).mean())

    def interval(self) -> tuple[float, float]:
        """Wilson's for top-1, a bootstrap over images for mAP."""
        if not self.multilabel:
            return wilson(self.value(), len(self._labels))
        scores, labels = self.probability, self.labels
        return bootstrap(lambda d: mean_average_precision(scores[d], labels[d]), len(labels))

    def per_class(self) -> list[dict[str, Any]]:
        """Images, recall and precision; 0 where there is nothing to divide by."""
        every = np.arange(len(self.classes))
        truth = self.labels > 0 if self.multilabel else self.labels[:, None] == every
        said = self._said(every)
        hits, images, given = (truth & said).sum(0), truth.sum(0), said.sum(0)
        return [
            {
                "name": name,
                "images": int(images[i]),
                "recall": float(hits[i] / max(images[i], 1)),
                "precision": float(hits[i] / max(given[i], 1)),
            }
            for i, name in enumerate(self.classes)
        ]

    def _said(self, every: Array) -> Array:
        if self.multilabel:
            return np.asarray(self.probability >= THRESHOLD)
        return np.asarray(self.probability.argmax(1)[:, None] == every)

    def per_input(self) -> Array:
        """The probability given to the truth; for several labels that of the worst-placed one."""
        if self.multilabel:
            return np.asarray(1 - np.abs(self.probability - self.labels).max(1))
        return np.asarray(np.take_along_axis(self.probability, self.labels[:, None], 1)[:, 0])


def mean_average_precision(scores: Array, labels: Array) -> float:
    """Mean over the classes that occur of the area under precision/recall (steps, no smoothing).

    Args:
        scores: (N, classes), larger = surer.
        labels: (N, classes) of 0 and 1.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(labels > 0, order, axis=0)
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    found = hits.sum(axis=0)
    each = (precision * hits).sum(axis=0)[found > 0] / found[found > 0]
    return float(each.mean()) if len(each) else 0.0


SIGNATURE = Classify
