"""Numbers of several digits: logits of length and digits -> the likeliest number as a whole.

As in arXiv 1312.6082: the length and the digits are independent given the picture, so the best
number is the best of six sums. Nothing is half right: a number counts if all of it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.dataset import Split
from sinet.data.numbers import NO_DIGIT, PLACES, Number, written
from sinet.tasks.signatures.base import Array, Facts, Result, Scorer, Signature, wilson

SURE = 0.98
"""Accuracy at which the paper reports how many pictures can be answered."""


@dataclass(frozen=True)
class Reading(Result):
    """The number in one picture."""

    source: str
    """Path of the file, or its place in the input such as `#3`."""
    number: str
    """Its digits; empty for no number, for more digits than can be read, and for no picture."""
    confidence: float
    """Probability of the number as a whole; NaN where the picture could not be read."""
    error: str | None = None
    """Why the picture could not be read."""

    def rows(self, top: int = 1) -> list[dict[str, Any]]:
        """One row: number and confidence."""
        known = self.error is None
        return [{"number": self.number, "confidence": round(self.confidence, 6) if known else ""}]

    def to_json(self) -> dict[str, Any]:
        """Number and confidence."""
        return {
            "source": self.source,
            "number": self.number,
            "confidence": self.confidence if self.error is None else None,
            "error": self.error,
        }

    def draw(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        """The picture with the number in its corner."""
        flat = image[..., 0] if image.shape[-1] == 1 else image
        picture = Image.fromarray(flat).convert("RGB")
        text = self.number or "none"
        text += f" {self.confidence:.2f}" if math.isfinite(self.confidence) else ""
        font = ImageFont.load_default(max(10, picture.height // 6))
        pen = ImageDraw.Draw(picture)
        pen.rectangle(pen.textbbox((1, 1), text, font), fill="black")
        pen.text((1, 1), text, "white", font)
        return picture


class Digits(Signature):
    """`length` (N, 7) and `digits` (N, 5, 10) -> `number` int64 (N, 5), `confidence` (N,)."""

    raw = ("length", "digits")
    names = ("number", "confidence")
    metric = "val/sequence"
    metric_name = "sequence accuracy"
    hub_tag = "image-to-text"

    @property
    def described(self) -> str:
        """The number and how sure it is."""
        return (
            f"`number`, int64 (N, {PLACES}), digits from the left, then {NO_DIGIT} (throughout: no "
            "number, or too long a one), and `confidence`, float32 (N,), the probability of all "
            "of it; and `length`, `digits`"
        )

    def tail(self) -> nn.Module:
        """The number with the largest joint probability."""
        return _Likeliest()

    def scorer(self) -> Scorer:
        """Sequence accuracy, with that of characters and coverage."""
        return NumberScorer(self.facts)

    def result(self, source: str, outputs: Mapping[str, Array]) -> Reading:
        """The digits as text."""
        return Reading(source, written(outputs["number"]), float(outputs["confidence"]))

    def failed(self, source: str, reason: str) -> Reading:
        """No number, NaN for the confidence."""
        return Reading(source, "", math.nan, reason)

    def truth(self, split: Split, i: int, order: Array | None = None) -> Array:
        """The digits, (PLACES,), in the model's own numbering."""
        number: Number = split.targets[i]
        digits = number.read()
        if order is not None:
            digits = np.where(digits >= 0, order[digits], digits)
        return digits

    def truth_result(self, source: str, truth: Array) -> Reading:
        """The digits, for certain."""
        return Reading(source, written(truth), 1.0)


class _Likeliest(nn.Module):
    """`max over l of log P(L = l) + sum over i <= l of max_c log P(S_i = c)`.

    An eleventh class, "no digit here", is never read; a longer number is a length without digits.
    """

    def forward(self, images: Tensor, length: Tensor, digits: Tensor) -> tuple[Tensor, Tensor]:
        places = digits.shape[1]
        best, classes = digits.log_softmax(-1)[:, :, :10].max(-1)
        running = F.pad(best.cumsum(1), (1, 0))
        # Whatever is longer than can be read has a probability, but no digits.
        scores = length.log_softmax(-1) + F.pad(running, (0, 1))
        log_prob, chosen = scores.max(-1)
        chosen = chosen.unsqueeze(1)
        place = torch.arange(places, device=digits.device).unsqueeze(0)
        exists = (place < chosen) & (chosen <= places)
        return torch.where(exists, classes, torch.full_like(classes, NO_DIGIT)), log_prob.exp()


class NumberScorer(Scorer):
    """Counts whole numbers and single characters.

    Args:
        facts: about the model.
    """

    name = "val/sequence"

    def __init__(self, facts: Facts) -> None:
        self.classes = facts.classes
        self._found: list[Array] = []
        self._truth: list[Array] = []
        self._confidence: list[float] = []

    def update(self, outputs: Mapping[str, Array], truths: Sequence[Array]) -> None:
        """Take in numbers (N, PLACES), their confidences, and what they should have been."""
        self._found += list(outputs["number"])
        self._truth += list(truths)
        self._confidence += [float(value) for value in outputs["confidence"]]

    @property
    def right(self) -> Array:
        """Whether each number is right, (N,)."""
        return np.asarray((np.stack(self._found) == np.stack(self._truth)).all(1))

    def value(self) -> float:
        """Share of numbers that are right."""
        return float(self.right.mean())

    def interval(self) -> tuple[float, float]:
        """Wilson's."""
        return wilson(self.value(), len(self._found))

    def characters(self) -> float:
        """Share of right characters."""
        return character_accuracy(np.stack(self._found), np.stack(self._truth))

    def coverage(self, accuracy: float = SURE) -> float:
        """Share of pictures that can be answered this accurately."""
        return coverage_at(accuracy, np.array(self._confidence), self.right)

    def per_class(self) -> list[dict[str, Any]]:
        """The numbers of each length, then all: pictures, numbers and characters that are right."""
        found, truth, right = np.stack(self._found), np.stack(self._truth), self.right
        lengths = (truth != NO_DIGIT).sum(1)
        rows = []
        for length in [*range(1, PLACES + 1), 0]:
            chosen = lengths == length if length else np.ones(len(truth), dtype=bool)
            if not chosen.any():
                continue
            name = f"{length} digit{'s' if length > 1 else ''}" if length else "all"
            of_those = coverage_at(SURE, np.array(self._confidence)[chosen], right[chosen])
            rows.append(
                {
                    "name": name,
                    "images": int(chosen.sum()),
                    "sequence": float(right[chosen].mean()),
                    "characters": character_accuracy(found[chosen], truth[chosen]),
                    f"coverage at {SURE:.0%}": of_those,
                }
            )
        return rows

    def per_input(self) -> Array:
        """The confidence in right numbers, that in wrong ones below zero."""
        sure = np.array(self._confidence)
        return np.where(self.right, sure, -sure)


def character_accuracy(found: Array, truth: Array) -> float:
    """Share of the digits of the truth that stand at their place, (N, PLACES) both."""
    there = truth != NO_DIGIT
    return float((found == truth)[there].mean()) if there.any() else 1.0


def coverage_at(accuracy: float, confidence: Array, right: Array) -> float:
    """The largest share of pictures, surest first, that are right this often.

    Pictures of equal confidence go together, as no threshold can part them.
    """
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    kept = np.arange(1, len(order) + 1)
    parted = np.append(sure[:-1] > sure[1:], True)
    good = kept[parted & (np.cumsum(right[order]) / kept >= accuracy)]
    return float(good.max() / len(order)) if len(good) else 0.0


SIGNATURE = Digits
