"""What the shipped file said about each image of the evaluated split: the file and its reading.

`predictions.npz` holds `names` (N,) text; `labels` (N,) or, for multi-label data, (N, C) of 0 and
1; `probability` (N, C); `pictures` (K, S, S, 3) uint8 thumbnails of the worst mistakes, worst
first, and `picture_index` (K,), which images they show. No pickled objects: it opens anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sinet.files import atomic_path

WORST = 24
THUMBNAIL = 96

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """Labels and probabilities of one split; multi-label where `labels` has two dimensions."""

    names: Array
    labels: Array
    probability: Array
    pictures: Array
    picture_index: Array

    @property
    def multilabel(self) -> bool:
        """Whether an image can carry several labels."""
        return self.labels.ndim == 2

    @property
    def predicted(self) -> Array:
        """(N,) the most probable class; multi-label: (N, C), probability of at least one half."""
        return np.asarray(
            self.probability >= 0.5 if self.multilabel else self.probability.argmax(1)
        )

    @property
    def confidence(self) -> Array:
        """(N,) how sure the model is of what it said; multi-label: of its worst-placed label."""
        if self.multilabel:
            return np.asarray(np.abs(self.probability - self.labels).max(1))
        return np.asarray(self.probability.max(1))

    @property
    def wrong(self) -> Array:
        """(N,) whether the answer differs from the label (multi-label: in any class)."""
        differs: Array = self.predicted != self.labels
        return np.asarray(differs.any(1)) if self.multilabel else differs

    @property
    def accuracy(self) -> float:
        """Share of images answered right (multi-label: in every class)."""
        return 1.0 - float(self.wrong.mean())

    def confusion(self) -> Array:
        """(C, C) counts, row = label, column = answer; single-label only."""
        classes = self.probability.shape[1]
        flat = np.bincount(self.labels * classes + self.predicted, minlength=classes**2)
        return flat.reshape(classes, classes)

    def pairs(self, count: int = 10) -> list[tuple[int, int, int, float]]:
        """The most frequent confusions: (label, answer, images, share of the label's images)."""
        matrix = self.confusion()
        totals = matrix.sum(1)
        errors = matrix - np.diag(np.diag(matrix))
        order = np.argsort(-errors, axis=None, kind="stable")[:count]
        rows = [divmod(int(i), len(matrix)) for i in order]
        return [
            (t, p, int(errors[t, p]), errors[t, p] / totals[t]) for t, p in rows if errors[t, p]
        ]

    def per_class(self) -> list[dict[str, float]]:
        """Per class: images that carry it, recall and precision (nan where undefined)."""
        classes = np.arange(self.probability.shape[1])
        truth = self.labels > 0 if self.multilabel else self.labels[:, None] == classes
        said = self.predicted if self.multilabel else self.predicted[:, None] == classes
        both, support, answers = (truth & said).sum(0), truth.sum(0), said.sum(0)
        return [
            {
                "images": int(s),
                "recall": float(b / s) if s else math.nan,
                "precision": float(b / a) if a else math.nan,
            }
            for b, s, a in zip(both, support, answers, strict=True)
        ]


def worst_mistakes(predictions: Predictions, count: int = WORST) -> list[int]:
    """Indices of the wrong answers that the model was surest of, surest first."""
    wrong = np.flatnonzero(predictions.wrong)
    order = np.argsort(-predictions.confidence[wrong], kind="stable")
    return [int(i) for i in wrong[order][:count]]


def save_predictions(
    run: Path,
    names: Sequence[str],
    labels: Array,
    probability: Array,
    image: Callable[[int], Array],
) -> Path:
    """Write `run/predictions.npz`, with thumbnails of the worst mistakes.

    Args:
        run: the run folder.
        names: one stable name an image.
        labels: (N,) class indices, or (N, C) of 0 and 1 for multi-label data.
        probability: (N, C), as the shipped file gave them.
        image: the image with that index, uint8 (H, W, 1 or 3).
    """
    none = np.zeros(0, dtype=np.int64)
    plain = Predictions(np.asarray(names, dtype=np.str_), labels, probability, none, none)
    worst = worst_mistakes(plain)
    thumbnails = [_thumbnail(image(i)) for i in worst]
    side = max((max(t.size) for t in thumbnails), default=1)
    with atomic_path(run / "predictions.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            names=plain.names,
            labels=labels,
            probability=probability.astype(np.float32),
            pictures=np.stack([_padded(t, side) for t in thumbnails])
            if thumbnails
            else np.zeros((0, 1, 1, 3), np.uint8),
            picture_index=np.asarray(worst, dtype=np.int64),
        )
    return run / "predictions.npz"


def load_predictions(path: Path) -> Predictions:
    """Read `predictions.npz`; nothing in it is ever unpickled."""
    with np.load(path, allow_pickle=False) as file:
        return Predictions(
            **{k: file[k] for k in ("names", "labels", "probability", "pictures", "picture_index")}
        )


def _thumbnail(image: Array) -> Image.Image:
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).convert("RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture


def _padded(picture: Image.Image, side: int) -> Array:
    """The picture centred on a white square, so that all of them fit in one array."""
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square)
