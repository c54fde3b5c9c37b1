"""Detection: scores and corners of many positions -> at most `MOST` boxes, each found once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import nms

from sinet.data.boxes import Boxes, draw_boxes
from sinet.data.dataset import Split
from sinet.data.preprocess import Preprocess
from sinet.tasks._coco import Answers, Matches, coco_precision, evaluator, overlaps
from sinet.tasks.signatures.base import Array, Facts, Outputs, Result, Scorer, Signature

MOST = 100
"""Boxes a file gives; unused places have score 0."""
CANDIDATES = 1000
"""Positions, the surest, among which doubles are looked for."""
OVERLAP = 0.6
"""IoU from which on two boxes of one class are the same object."""
THRESHOLD = 0.3
"""Score from which on a box is shown and counted in tables; the file gives weaker ones too."""
DRAWS = 200
FLIPPED = 0.03
"""Share of a two-stage network's proposals that rounding may change."""


@dataclass(frozen=True)
class Detections(Result):
    """The objects in one image, the surest first; those from `THRESHOLD` on."""

    source: str
    """Path of the file, or its place in the input such as `#3`."""
    boxes: npt.NDArray[np.float32]
    """x1, y1, x2, y2 in pixels of the image, (n, 4)."""
    scores: npt.NDArray[np.float32]
    """How sure each is, (n,)."""
    labels: npt.NDArray[np.int64]
    """Class indices, (n,)."""
    facts: Facts
    """Of the model: its classes and ids."""
    error: str | None = None
    """Why the image could not be read."""

    def rows(self, top: int = 1) -> list[dict[str, Any]]:
        """A row a box: label, id, score and corners; one empty row where nothing was found."""
        columns = ("label", "id", "score", "x1", "y1", "x2", "y2")
        rows = [
            dict(zip(columns, (*self._named(i), *self._numbers(i)), strict=True))
            for i in range(len(self.labels))
        ]
        return rows or [dict.fromkeys(columns, "")]

    def _named(self, i: int) -> tuple[str, int | str]:
        label = self.labels[i]
        return self.facts.classes[label], self.facts.class_ids[label]

    def _numbers(self, i: int) -> list[float]:
        score = round(float(self.scores[i]), 6)
        return [score, *(round(float(value), 2) for value in self.boxes[i])]

    def to_json(self) -> dict[str, Any]:
        """The boxes with label, id, score and corners."""
        found = self.rows() if len(self.labels) else []
        boxes = [
            {**{k: row[k] for k in ("label", "id", "score")},
             "box": [row[k] for k in ("x1", "y1", "x2", "y2")]}
            for row in found
        ]  # fmt: skip
        return {"source": self.source, "boxes": boxes, "error": self.error}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of a COCO file of results; its category ids are the user's own."""
        entries = []
        for box, row in zip(self.boxes.tolist(), self.rows(), strict=False):
            x1, y1, x2, y2 = box
            entries.append(
                {
                    "image_id": image_id,
                    "category_id": row["id"],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": row["score"],
                }
            )
        return entries

    def draw(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        """The image with its boxes, labels and scores."""
        scores = None if (self.scores == 1).all() else self.scores  # a truth needs no numbers
        return draw_boxes(image, self.boxes, self.labels, self.facts.classes, scores)


class Detect(Signature):
    """`logits` (1, A, classes) and `corners` (1, A, 4) in the pixels of the network's input.

    They become `boxes` (1, 100, 4) in the pixels of the given image, `scores` (1, 100) and `labels`
    (1, 100), the surest first, without doubles.

    The metric is mAP at IoU 0.5: a hand-drawn box is seldom better than that, so the upper half of
    COCO's mAP measures the annotator's style; and a user can picture what a point of it means.
    COCO's own number stands beside it, class by class and in the journal of the training.
    """

    raw: tuple[str, ...] = ("logits", "corners")
    names: tuple[str, ...] = ("boxes", "scores", "labels")
    metric = "val/map50"
    metric_name = "mAP at IoU 0.5"
    hub_tag = "object-detection"
    batched = False

    @property
    def described(self) -> str:
        """The three arrays."""
        return (
            f"`boxes` float32 (1, {MOST}, 4), x1 y1 x2 y2 in pixels of the image; `scores` float32 "
            f"(1, {MOST}), falling, 0 where there is no box; `labels` int64 (1, {MOST})"
        )

    def together(self, plain: Outputs, turned: Outputs, width: int) -> Outputs:
        """All positions of both, to be sifted by the tail; corners of the mirrored turned back."""
        x1, y1, x2, y2 = turned[1].unbind(-1)
        corners = torch.stack([width - x2, y1, width - x1, y2], -1)
        return torch.cat([plain[0], turned[0]], 1), torch.cat([plain[1], corners], 1)

    def reordered(self, network: nn.Module) -> str:
        """A two-stage network's proposals are chosen by the order of their scores.

        Of two that differ by a rounding error another runtime may put the other one first, or take
        it instead.
        """
        if not any(hasattr(part, "proposals") for part in network.modules()):
            return ""
        return (
            f"largest difference of the {1 - FLIPPED:.0%} of the proposals that agree best: "
            "rounding exchanges some of nearly equal score"
        )

    def gap(
        self, found: Mapping[str, Array], eager: Mapping[str, Array], reordered: str = ""
    ) -> float:
        """As for any task, but rows that may be `reordered` are compared wherever they stand.

        Up to `FLIPPED` of them may be without a partner.
        """
        plain = super().gap(found, eager)
        if not (reordered and plain > 0):  # a NaN stays one
            return plain
        gaps, rows = [], eager["logits"].shape[1]
        for i in range(len(eager["logits"])):
            one, other = (
                np.concatenate([part[name][i].reshape(rows, -1) for name in self.raw[:2]], 1)
                for part in (found, eager)
            )
            nearest = np.abs(one[None] - other[:, None]).max(2).argmin(1)
            each = [np.abs(found[n][i][nearest] - eager[n][i]).reshape(rows, -1) for n in self.raw]
            gaps.append(np.quantile(np.concatenate(each, 1).max(1), 1 - FLIPPED))
        return min(plain, float(np.max(gaps)))

    def tail(self) -> nn.Module:
        """The surest positions, doubles left out, in the image's own pixels."""
        return Surest(self.facts.preprocess)

    def scorer(self) -> Scorer:
        """Mean average precision."""
        return BoxScorer(self.facts)

    def result(self, source: str, outputs: Mapping[str, Array]) -> Detections:
        """Those that are sure enough."""
        sure = outputs["scores"] >= THRESHOLD
        boxes, scores, labels = (outputs[name][sure] for name in self.names)
        return Detections(source, boxes, scores, labels, self.facts)

    def failed(self, source: str, reason: str) -> Detections:
        """No boxes."""
        empty = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        return Detections(source, *empty, self.facts, reason)

    def truth(self, split: Split, i: int, order: Array | None = None) -> Boxes:
        """The boxes, with the model's class indices; those of unknown classes are left out."""
        boxes: Boxes = split.targets[i].read()
        if order is None:
            return boxes
        labels = order[boxes.labels]
        return replace(boxes, labels=labels).select(labels >= 0)

    def truth_result(self, source: str, truth: Boxes) -> Detections:
        """The boxes as an answer."""
        scores = np.ones(len(truth), np.float32)
        return Detections(source, truth.corners, scores, truth.labels, self.facts)


class Surest(nn.Module):
    """The tail: sigmoid, the best class of each position, non-maximum suppression, 100 places."""

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        if preprocess.fit == "crop":
            raise ValueError("boxes need the whole image: fit `pad` or `stretch`, not `crop`")
        self.stretch = preprocess.fit == "stretch"
        self.least = preprocess.least
        self.shape = preprocess.shape

    def forward(
        self, images: Tensor, logits: Tensor, corners: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One image: uint8 (1, H, W, C), (1, A, classes), (1, A, 4)."""
        places, scores, labels = self.chosen(logits, corners)
        boxes = self.placed(corners[0][places], images)
        return filled(boxes), filled(scores), filled(labels)

    def chosen(self, logits: Tensor, corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which positions have the surest boxes, doubles left out; their scores and classes."""
        certain, labels = logits[0].max(1)
        certain, order = certain.topk(min(CANDIDATES, int(certain.shape[0])))
        labels, boxes = labels[order], corners[0][order]
        # boxes of different classes are moved so far apart that they cannot overlap
        apart = labels.to(boxes.dtype)[:, None] * (2 * boxes.abs().max() + 1)
        kept = nms(boxes + apart, certain.sigmoid(), OVERLAP)[:MOST]
        return order[kept], certain[kept].sigmoid(), labels[kept]

    def placed(self, boxes: Tensor, images: Tensor) -> Tensor:
        """From pixels of the network's input to pixels of the image, cut at its border."""
        return torch.minimum(self.back(boxes, images), sides_of(images).flip(0).repeat(2).to(boxes))

    def back(self, boxes: Tensor, images: Tensor) -> Tensor:
        """From pixels of the network's input to pixels of the image, from 0 on.

        The same rule as `Preprocess.resized`, in double precision, but as operations on tensors, so
        that an exported file follows the size of its input.
        """
        sides = sides_of(images)
        shape = torch.tensor(self.shape, dtype=torch.float64, device=images.device)
        resized = shape
        if not self.stretch:
            resized = (sides * (shape / sides).min() + 0.5).floor().clamp(min=self.least)
        factors = (sides / resized).to(boxes.dtype)
        return (boxes * factors.flip(0).repeat(2)).clamp(min=0)


def sides_of(images: Tensor) -> Tensor:
    """Height and width, summed up so that every exporter follows the input's size; float64."""
    lines = images[0, :, 0, 0], images[0, 0, :, 0]
    return torch.stack([torch.ones_like(line, dtype=torch.float64).sum() for line in lines])


def filled(rows: Tensor) -> Tensor:
    """At most `MOST` rows with a batch axis and with zeros in the places that are left over."""
    spare = rows.new_zeros(MOST, *(int(side) for side in rows.shape[1:]))
    return torch.cat([rows, spare])[:MOST][None]


class BoxScorer(Scorer):
    """Keeps all boxes; counts as COCO does.

    Args:
        facts: about the model.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """

    name = "val/map50"
    kind = "bbox"
    """What is compared, as COCO calls it."""

    def __init__(self, facts: Facts) -> None:
        evaluator()
        self.classes = facts.classes
        self.answers: list[Answers] = []
        self.truths: list[Boxes] = []

    def update(self, outputs: Mapping[str, Array], truths: Sequence[Any]) -> None:
        """Take in boxes (N, 100, 4), scores, labels, and the true `Boxes`."""
        rows = (outputs[name] for name in ("boxes", "scores", "labels"))
        for boxes, scores, labels, truth in zip(*rows, truths, strict=True):
            self.answers.append(Answers.of(boxes, scores, labels))
            self.truths.append(truth)

    def both(self) -> tuple[float, float]:
        """COCO's mAP, and mAP at IoU 0.5."""
        return coco_precision(self.answers, self.truths, len(self.classes), self.kind)

    def value(self) -> float:
        """MAP at IoU 0.5."""
        return self.both()[1]

    def matches(self) -> Matches:
        """Which answers are right."""
        found = Matches(len(self.classes))
        for answers, truth in zip(self.answers, self.truths, strict=True):
            found.add(answers, truth)
        return found

    def interval(self) -> tuple[float, float]:
        """A bootstrap over images, as counts of how often each is drawn."""
        count = len(self.truths)
        draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
        each = self.matches().precision(draws, slice(1))[..., 0]
        there = ~np.isnan(each)
        values = np.where(there, each, 0).sum(1) / np.maximum(there.sum(1), 1)
        low, high = np.percentile(values, [2.5, 97.5])
        value = self.value()  # rare classes may be missing from every draw
        return float(min(low, value)), float(max(high, value))

    def per_class(self) -> list[dict[str, Any]]:
        """Boxes, AP (COCO), AP at 0.5, recall and precision at `THRESHOLD`; 0 where undefined."""
        each = np.nan_to_num(self.matches().precision()[0])
        boxes = np.zeros(len(self.classes), int)
        hits, said = boxes.copy(), boxes.copy()
        for answers, truth in zip(self.answers, self.truths, strict=True):
            right, sure = _right(answers, truth)
            boxes += np.bincount(truth.labels[~truth.crowd], minlength=len(boxes))
            said += np.bincount(sure.labels, minlength=len(boxes))
            hits += np.bincount(sure.labels[right], minlength=len(boxes))
        return [
            {
                "name": name,
                "boxes": int(boxes[i]),
                "ap": float(each[i].mean()),
                "ap50": float(each[i, 0]),
                "recall": float(hits[i] / max(1, boxes[i])),
                "precision": float(hits[i] / max(1, said[i])),
            }
            for i, name in enumerate(self.classes)
        ]

    def per_input(self) -> Array:
        """F1 of the boxes from `THRESHOLD` on, at IoU 0.5; 1 where there is nothing to find."""
        values = []
        for answers, truth in zip(self.answers, self.truths, strict=True):
            right, sure = _right(answers, truth)
            total = len(sure.scores) + int((~truth.crowd).sum())
            values.append(2 * right.sum() / total if total else 1.0)
        return np.array(values)


def _right(answers: Answers, truth: Boxes) -> tuple[Array, Answers]:
    """Which of the sure answers are right at IoU 0.5; those in crowds are not asked for."""
    sure = answers.select(answers.scores >= THRESHOLD)
    overlap = overlaps(sure, truth)
    overlap[sure.labels[:, None] != truth.labels[None]] = 0
    free = ~truth.crowd
    right = np.zeros(len(sure.labels), bool)
    for i, row in enumerate(overlap):
        if free.any() and row[free].max() >= 0.5:
            right[i] = True
            free[np.where(free, row, -1).argmax()] = False
    in_crowd = (overlap[:, truth.crowd] > 0.5).any(1) & ~right
    return right[~in_crowd], sure.select(~in_crowd)


SIGNATURE = Detect
