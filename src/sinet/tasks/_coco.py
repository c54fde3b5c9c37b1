"""COCO's average precision: the official count, and one whose images can be weighed.

The value of a metric is counted by faster-coco-eval (extra `detection`), whose matching and sums
are those of COCO's own tools. For intervals and single classes the same matching is done here once
an image; then the average precision of any weights of the images is a few cumulative sums, so that
a bootstrap of hundreds of draws takes a second. A test holds the two together.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.boxes import Boxes, box_iou
from sinet.errors import missing_extra

IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # answers an image that count

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Answers:
    """What was found in one image, the surest first."""

    corners: Array
    """(n, 4) x1, y1, x2, y2 in pixels."""
    scores: Array
    """(n,)."""
    labels: Array
    """Class indices (n,)."""

    @classmethod
    def of(cls, corners: Array, scores: Array, labels: Array) -> Answers:
        """Those that have a score above 0."""
        kept = np.flatnonzero(scores > 0)
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        return cls(corners[kept], scores[kept], labels[kept])


def evaluator() -> Any:
    """The package that counts.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise missing_extra("faster-coco-eval", "detection") from error


def coco_precision(
    answers: Sequence[Answers], truths: Sequence[Boxes], classes: int
) -> tuple[float, float]:
    """Mean average precision over the classes that occur: of IoU 0.5 ... 0.95, and of 0.5.

    Args:
        answers: one an image.
        truths: likewise.
        classes: how many there are.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """
    package = evaluator()
    known, said = as_coco(answers, truths, classes)
    if not said or not known["annotations"]:
        return 0.0, 0.0
    truth = package.COCO(known, print_function=_silent)
    count = package.COCOeval_faster(truth, truth.loadRes(said), "bbox", print_function=_silent)
    count.evaluate()
    count.accumulate()
    count.summarize()
    overall, half = (max(0.0, float(value)) for value in count.stats[:2])
    return overall, half


def _silent(*_: Any) -> None:
    """Says nothing."""


def as_coco(
    answers: Sequence[Answers], truths: Sequence[Boxes], classes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truths as the content of a COCO file, answers as that of a file of results; ids from 1."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (found, truth) in enumerate(zip(answers, truths, strict=True), start=1):
        for box, label, crowd in zip(
            _sides(truth.corners), truth.labels.tolist(), truth.crowd.tolist(), strict=True
        ):
            place = {"id": len(annotations) + 1, "image_id": image, "category_id": label + 1}
            annotations.append(
                {**place, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)}
            )
        for box, label, score in zip(
            _sides(found.corners), found.labels.tolist(), found.scores.tolist(), strict=True
        ):
            results.append(
                {"image_id": image, "category_id": label + 1, "bbox": box, "score": score}
            )
    known = {
        "images": [{"id": i + 1} for i in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": str(i)} for i in range(classes)],
    }
    return known, results


def _sides(corners: Array) -> list[list[float]]:
    """Corners as x, y, width, height."""
    whole = corners.astype(np.float64)
    rows: list[list[float]] = np.concatenate(
        [whole[:, :2], whole[:, 2:] - whole[:, :2]], 1
    ).tolist()
    return rows


class Matches:
    """Which answers are right at which overlap, over many images.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._right: list[Array] = []  # (10, n): 1 right, 0 wrong, -1 counts for nothing
        self._scores: list[Array] = []
        self._labels: list[Array] = []
        self.counts: list[Array] = []
        """Boxes to be found of each class, one row an image."""

    def __len__(self) -> int:
        return len(self.counts)

    def add(self, found: Answers, truth: Boxes) -> None:
        """Take in one image."""
        right = np.zeros((len(IOUS), len(found.scores)), np.int8)
        kept = np.zeros(len(found.scores), bool)
        for label in np.unique(found.labels):
            mine = np.flatnonzero(found.labels == label)[:_MOST]
            kept[mine] = True
            own = truth.select(truth.labels == label)
            right[:, mine] = _match(found.corners[mine], own)
        self._right.append(right[:, kept])
        self._scores.append(found.scores[kept])
        self._labels.append(found.labels[kept])
        self.counts.append(np.bincount(truth.labels[~truth.crowd], minlength=self.classes))

    def precision(self, weights: Array | None = None, ious: slice = slice(None)) -> Array:
        """Average precision of each class, nan where it does not occur: (draws, classes, IoUs).

        Args:
            weights: how often each image counts, (draws, images); None = once.
            ious: which of the ten overlaps.
        """
        weights = np.ones((1, len(self)), int) if weights is None else weights
        image = np.repeat(np.arange(len(self)), [len(part) for part in self._scores])
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels)
        right = np.concatenate(self._right, 1)[ious]
        wanted = weights @ np.stack(self.counts)
        found = np.full((len(weights), self.classes, len(right)), np.nan)
        for label in range(self.classes):
            mine = np.flatnonzero(labels == label)
            mine = mine[np.argsort(-scores[mine], kind="stable")]
            for draw, row in enumerate(weights):
                if wanted[draw, label]:
                    times = row[image[mine]]
                    for place, hits in enumerate(right[:, mine]):
                        found[draw, label, place] = _area(hits, times, wanted[draw, label])
        return found


def _match(corners: Array, truth: Boxes) -> Array:
    """COCO's rule for one class: the surest answer takes the free box that it overlaps most."""
    order = np.argsort(truth.crowd, kind="stable")  # crowds last
    crowd = truth.crowd[order]
    overlap = box_iou(corners, truth.corners[order])
    if crowd.any():  # of an answer in a crowd, what lies inside counts
        overlap[:, crowd] = _share_inside(corners, truth.corners[order][crowd])
    right = np.zeros((len(IOUS), len(corners)), np.int8)
    free = np.ones((len(IOUS), len(crowd)), bool)
    for i, row in enumerate(overlap):
        near = np.flatnonzero(row >= IOUS[0])
        for level, least in enumerate(IOUS if len(near) else ()):
            place = _taken(row, near, free[level] | crowd, crowd, least)
            if place >= 0:
                right[level, i] = -1 if crowd[place] else 1
                free[level, place] = False
    return right


def _taken(row: Array, near: Array, there: Array, crowd: Array, least: float) -> int:
    """Which box an answer takes, -1 for none: the one it overlaps most, a crowd only if need be."""
    best, place = min(least, 1 - 1e-10), -1
    for j in near[there[near]]:
        if place >= 0 and not crowd[place] and crowd[j]:
            break
        if row[j] >= best:
            best, place = row[j], int(j)
    return place


def _share_inside(corners: Array, crowds: Array) -> Array:
    """Share of each box that lies in each crowd, (n, crowds)."""
    one, other = corners.astype(np.float64)[:, None], crowds.astype(np.float64)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    area = (one[..., 2:] - one[..., :2]).prod(-1)
    return np.asarray(sides.clip(min=0).prod(-1) / np.maximum(area, 1e-12))


def _area(hits: Array, times: Array, wanted: int) -> float:
    """Area under precision over recall at 101 recalls, answers in order of their scores."""
    if not len(hits):
        return 0.0
    good, bad = np.cumsum((hits == 1) * times), np.cumsum((hits == 0) * times)
    recall = good / wanted
    precision = good / np.maximum(good + bad, np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(envelope, 0.0)[np.minimum(place, len(envelope))].mean())
