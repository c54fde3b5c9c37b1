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
from sinet.data.instances import Instances
from sinet.data.regions import Region, Size, region_iou
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
    regions: tuple[Region, ...] | None = None
    """Their pixels, where these are compared and not boxes."""

    @classmethod
    def of(
        cls, corners: Array, scores: Array, labels: Array, regions: Sequence[Region] | None = None
    ) -> Answers:
        """Those that have a score above 0."""
        kept = np.flatnonzero(scores > 0)
        every = cls(corners, scores, labels, None if regions is None else tuple(regions))
        return every.select(kept[np.argsort(-scores[kept], kind="stable")])

    def select(self, chosen: Array) -> Answers:
        """Those at these places, or where a mask is true."""
        places = np.arange(len(self.scores))[chosen]
        held = None if self.regions is None else tuple(self.regions[i] for i in places)
        return Answers(self.corners[places], self.scores[places], self.labels[places], held)


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
    answers: Sequence[Answers], truths: Sequence[Boxes], classes: int, kind: str = "bbox"
) -> tuple[float, float]:
    """Mean average precision over the classes that occur: of IoU 0.5 ... 0.95, and of 0.5.

    Args:
        answers: one an image.
        truths: likewise.
        classes: how many there are.
        kind: "bbox", or "segm" to compare pixels.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """
    package = evaluator()
    known, said = as_coco(answers, truths, classes, kind)
    if not said or not known["annotations"]:
        return 0.0, 0.0
    truth = package.COCO(known, print_function=_silent)
    count = package.COCOeval_faster(truth, truth.loadRes(said), kind, print_function=_silent)
    count.evaluate()
    count.accumulate()
    count.summarize()
    overall, half = (max(0.0, float(value)) for value in count.stats[:2])
    return overall, half


def _silent(*_: Any) -> None:
    """Says nothing."""


def as_coco(
    answers: Sequence[Answers], truths: Sequence[Boxes], classes: int, kind: str = "bbox"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truths as the content of a COCO file, answers as that of a file of results; ids from 1."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    images: list[dict[str, int]] = []
    for image, (found, truth) in enumerate(zip(answers, truths, strict=True), start=1):
        high, wide = size = _held(found, truth)
        images.append({"id": image, "height": high, "width": wide})
        for i, (label, crowd) in enumerate(
            zip(truth.labels.tolist(), truth.crowd.tolist(), strict=True)
        ):
            place = {"id": len(annotations) + 1, "image_id": image, "category_id": label + 1}
            shape = _shape(truth, i, size) if kind == "segm" else _box(truth, i)
            annotations.append({**place, **shape, "iscrowd": int(crowd)})
        for i, (label, score) in enumerate(
            zip(found.labels.tolist(), found.scores.tolist(), strict=True)
        ):
            shape = _shape(found, i, size) if kind == "segm" else _box(found, i)
            results.append({"image_id": image, "category_id": label + 1, "score": score, **shape})
    known = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": str(i)} for i in range(classes)],
    }
    return known, results


def _box(held: Answers | Boxes, i: int) -> dict[str, Any]:
    """A box as x, y, width, height."""
    x1, y1, x2, y2 = held.corners[i].astype(np.float64).tolist()
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


def _shape(held: Answers | Boxes, i: int, size: Size) -> dict[str, Any]:
    """An object's pixels."""
    region = _regions(held)[i]
    return {"segmentation": region.rle(size), "area": region.area}


def _regions(held: Answers | Boxes) -> tuple[Region, ...]:
    assert isinstance(held, Answers | Instances)
    assert held.regions is not None
    return held.regions


def _held(*parts: Answers | Boxes) -> Size:
    """Height and width of an image that holds all these pixels; what is beyond is of no matter."""
    regions = [r for part in parts for r in getattr(part, "regions", None) or ()]
    ends = [(r.top + r.pixels.shape[0], r.left + r.pixels.shape[1]) for r in regions]
    high, wide = (max([1, *side]) for side in zip(*ends, strict=True)) if ends else (1, 1)
    return high, wide


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
            right[:, mine] = _match(found.select(mine), own)
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


def overlaps(found: Answers, truth: Boxes) -> Array:
    """IoU of all pairs (n, m), of pixels where answers have some; in crowds the share inside."""
    if found.regions is not None:
        return region_iou(found.regions, _regions(truth), truth.crowd)
    overlap = box_iou(found.corners, truth.corners)
    if truth.crowd.any():
        overlap[:, truth.crowd] = _share_inside(found.corners, truth.corners[truth.crowd])
    return overlap


def _match(found: Answers, truth: Boxes) -> Array:
    """COCO's rule for one class: the surest answer takes the free box that it overlaps most."""
    truth = truth.select(np.argsort(truth.crowd, kind="stable"))  # crowds last
    crowd, overlap = truth.crowd, overlaps(found, truth)
    right = np.zeros((len(IOUS), len(overlap)), np.int8)
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
