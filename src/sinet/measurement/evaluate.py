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

PREFERRED = ("test", "val", "all", "train")
"""The split that is taken when none is named: the first that exists."""


@dataclass(frozen=True)
class Evaluation:
    """A file's metric on one split with its 95% interval, and what each class came to."""

    model: str
    split: str
    images: int
    metric_name: str
    metric: float
    low: float
    high: float
    classes: list[dict[str, Any]]
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
    facts, task = predictor.metadata, predictor.signature
    data = read_any(root, facts.task)
    if data.multilabel != facts.multilabel:
        kinds = ("several labels", "one label")
        given, wanted = kinds if data.multilabel else kinds[::-1]
        raise DataError(f"{root} has {given} an image, the model was trained for {wanted}")
    name = split or next(n for n in PREFERRED if n in data.splits)
    if name not in data.splits:
        raise UsageError(f"{root} has no split {name!r}; it has {', '.join(data.splits)}")
    chosen = data.splits[name]
    order = _order(facts.class_ids, data, chosen)
    scorer, unreadable = task.scorer(), []
    for i in range(len(chosen)):
        try:
            outputs = predictor.run(task.input.stack([task.input.load(chosen, i)]))
            scorer.update(outputs, [task.truth(chosen, i, order)])
        except ImageError as error:
            unreadable.append((chosen.names[i], error.reason))
        if progress and (i % 64 == 0 or i + 1 == len(chosen)):
            progress(i + 1, len(chosen))
    if len(unreadable) == len(chosen):
        raise DataError("none of the images can be read; `sinet inspect` says why")
    low, high = scorer.interval()
    return Evaluation(
        model=facts.model,
        split=name,
        images=len(chosen) - len(unreadable),
        metric_name=scorer.name,
        metric=scorer.value(),
        low=low,
        high=high,
        classes=scorer.per_class(),
        unreadable=tuple(unreadable),
    )


def _order(ids: list[int | str], data: ImageDataset, split: Split) -> npt.NDArray[np.int64]:
    """The model's index of each class of the data, matched by the user's own ids; -1 = unknown."""
    place = {str(value): i for i, value in enumerate(ids)}
    here = [str(value) for value in data.class_ids]
    counts = split.per_class(data.num_classes)
    strange = [c for c, count in zip(here, counts, strict=True) if count and c not in place]
    if strange:
        raise DataError(
            f"the model does not know these classes: {', '.join(strange[:10])}; it knows "
            f"{', '.join(map(str, ids[:10]))}{' ...' if len(ids) > 10 else ''}"
        )
    return np.array([place.get(value, -1) for value in here])
