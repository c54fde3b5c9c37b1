"""How good is a shipped file on labelled images: the metric, and where it fails, class by class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.dataset import ImageDataset, Split
from sinet.data.image import ImageError
from sinet.data.readers import read_any
from sinet.deployment.predictor import Predictor
from sinet.errors import DataError, UsageError
from sinet.measurement.verify import interval, metric

PREFERRED = ("test", "val", "all", "train")
"""The split that is taken when none is named: the first that exists."""


@dataclass(frozen=True)
class ClassResult:
    """One class: images, recall and precision (0..1; 0 where there is nothing to divide by)."""

    name: str
    images: int
    recall: float
    precision: float


@dataclass(frozen=True)
class Evaluation:
    """A file's metric on one split, 0..1, with its 95% interval."""

    model: str
    split: str
    images: int
    metric_name: str
    metric: float
    low: float
    high: float
    classes: tuple[ClassResult, ...]
    unreadable: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def evaluate_file(
    predictor: Predictor,
    root: Path,
    split: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run a file over labelled images.

    Args:
        predictor: the file.
        root: any data set, or one split of it as a folder of class folders.
        split: which split; empty = test, else validation, else everything.
        progress: called with (done, total).

    Raises:
        DataError: not a data set, or classes that the model does not know.
        UsageError: no such split.
    """
    data = read_any(root)
    facts = predictor.metadata
    if data.multilabel != facts.multilabel:
        kinds = ("several labels", "one label")
        given, wanted = kinds if data.multilabel else kinds[::-1]
        raise DataError(f"{root} has {given} an image, the model was trained for {wanted}")
    name = split or next(n for n in PREFERRED if n in data.splits)
    if name not in data.splits:
        raise UsageError(f"{root} has no split {name!r}; it has {', '.join(data.splits)}")
    chosen = data.splits[name]
    labels = _in_order_of(facts.class_ids, data, chosen)
    logits, good, unreadable = _run(predictor, chosen, progress)
    labels = labels[good]
    low, high = interval(logits, labels, facts.multilabel)
    return Evaluation(
        model=facts.model,
        split=name,
        images=len(labels),
        metric_name="val/map" if facts.multilabel else "val/top1",
        metric=metric(logits, labels, facts.multilabel),
        low=low,
        high=high,
        classes=_per_class(facts.classes, logits, labels, facts.multilabel),
        unreadable=tuple(unreadable),
    )


def _in_order_of(ids: list[int | str], data: ImageDataset, split: Split) -> npt.NDArray[Any]:
    """The labels of a split in the model's order of classes, matched by the user's own ids."""
    place = {str(value): i for i, value in enumerate(ids)}
    here = [str(value) for value in data.class_ids]
    counts = split.per_class(data.num_classes)
    strange = [c for c, count in zip(here, counts, strict=True) if count and c not in place]
    if strange:
        raise DataError(
            f"the model does not know these classes: {', '.join(strange[:10])}; it knows "
            f"{', '.join(map(str, ids[:10]))}{' ...' if len(ids) > 10 else ''}"
        )
    if data.multilabel:
        labels = np.zeros((len(split), len(ids)), dtype=np.float32)
        for column, value in enumerate(here):
            if value in place:
                labels[:, place[value]] = split.labels[:, column]
        return labels
    order = np.array([place.get(value, -1) for value in here])
    return np.asarray(order[split.labels])


def _run(
    predictor: Predictor, split: Split, progress: Callable[[int, int], None] | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], list[tuple[str, str]]]:
    """(logits of the readable images, which those are, (name, reason) of the others)."""
    channels = predictor.metadata.preprocess.channels
    good = np.ones(len(split), dtype=bool)
    unreadable, rows = [], []
    for i in range(len(split)):
        try:
            rows.append(predictor.logits(split.image(i, channels)[None])[0])
        except ImageError as error:
            good[i] = False
            unreadable.append((split.names[i], error.reason))
        if progress and (i % 64 == 0 or i + 1 == len(split)):
            progress(i + 1, len(split))
    if not rows:
        raise DataError("none of the images can be read; `sinet inspect` says why")
    return np.stack(rows), good, unreadable


def _per_class(
    names: list[str], logits: npt.NDArray[Any], labels: npt.NDArray[Any], multilabel: bool
) -> tuple[ClassResult, ...]:
    every = np.arange(len(names))
    truth = labels > 0 if multilabel else labels[:, None] == every
    said = logits > 0 if multilabel else logits.argmax(1)[:, None] == every
    hits, images, given = (truth & said).sum(0), truth.sum(0), said.sum(0)
    return tuple(
        ClassResult(n, int(images[i]), hits[i] / max(images[i], 1), hits[i] / max(given[i], 1))
        for i, n in enumerate(names)
    )
