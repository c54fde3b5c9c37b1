"""Rows of tables: logits -> probabilities of the classes; a table is answered row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor, nn

from sinet.data.columns import Columns
from sinet.data.rows import TableInput
from sinet.tasks.signatures.base import Array, Facts, Result, Run
from sinet.tasks.signatures.classify import Classification, Classify


@dataclass(frozen=True)
class Answers(Result):
    """What the model says of the rows of one table."""

    source: str
    """Path of the table, or its place in the input such as `#3`."""
    answers: tuple[Classification, ...]
    """One a row; empty where the table could not be read."""
    strange: tuple[int, ...]
    """How many cells of each row hold a category that was not in training."""
    facts: Facts
    """Of the model: its classes and ids."""
    error: str | None = None
    """Why the table could not be read."""

    def rows(self, top: int = 1) -> list[dict[str, Any]]:
        """One a row of the table, counted from 1 on: label, id, score, strange categories."""
        nothing = np.full(len(self.facts.classes), np.nan, np.float32)
        failed = Classification(
            self.source, "", None, math.nan, nothing, (), self.facts, self.error
        )
        return [
            {"row": number if self.error is None else "", **answer.rows(top)[0], "strange": odd}
            for number, (answer, odd) in enumerate(
                zip(self.answers or (failed,), self.strange or ("",), strict=True), 1
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """The rows with the probability of every class."""
        rows = [
            {"row": number, **answer.to_json(), "strange": odd}
            for number, (answer, odd) in enumerate(zip(self.answers, self.strange, strict=True), 1)
        ]
        return {"source": self.source, "rows": rows, "error": self.error}

    def draw(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        """The first row with its label."""
        return self.answers[0].draw(image)


class Tabular(Classify):
    """`logits` (N, classes) -> `probabilities` (N, classes) and `strange` int64 (N,).

    A sample is a row (columns,) or a table (rows, columns), whose outputs have an axis more.
    """

    names = ("probabilities", "strange")  # type: ignore[assignment]
    hub_tag = "tabular-classification"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.metric_name = "accuracy"

    @cached_property
    def input(self) -> TableInput:
        """Rows."""
        return TableInput(self.facts.preprocess)

    def through(self, run: Run, samples: Any, names: Sequence[str]) -> dict[str, Array]:
        """All rows of all samples at once."""
        found = run(samples.reshape(-1, samples.shape[-1]), names)
        return {k: v.reshape(*samples.shape[:-1], *v.shape[1:]) for k, v in found.items()}

    @property
    def described(self) -> str:
        """Logits, probabilities, and how strange a row is."""
        return f"{super().described}; `strange`, int64 (N,), how many categories are not known"

    def tail(self) -> nn.Module:
        """Softmax, and a count of categories that were not in training."""
        preprocess = self.facts.preprocess
        text = (
            [i for i, c in enumerate(preprocess.columns) if c.categories]
            if isinstance(preprocess, Columns)
            else []
        )
        return _Tail(text)

    # a table has many rows, so that its answer is of another kind than a picture's
    def result(  # type: ignore[override]
        self, source: str, outputs: Mapping[str, Array]
    ) -> Answers:
        """The likeliest class of every row."""
        rows = np.atleast_2d(outputs["probabilities"])
        odd = np.atleast_1d(outputs.get("strange", np.zeros(len(rows), np.int64)))
        said = [Classify.result(self, source, {"probabilities": row}) for row in rows]
        return Answers(source, tuple(said), tuple(int(n) for n in odd), self.facts)

    def failed(self, source: str, reason: str) -> Answers:  # type: ignore[override]
        """No row."""
        return Answers(source, (), (), self.facts, reason)


class _Tail(nn.Module):
    def __init__(self, text: Sequence[int]) -> None:
        super().__init__()
        self.text = list(text)

    def forward(self, rows: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.softmax(1), (rows[:, self.text] < 0).long().sum(1)


SIGNATURE = Tabular
