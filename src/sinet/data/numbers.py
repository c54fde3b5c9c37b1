"""Numbers that pictures show: up to five digits, read from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

PLACES = 5
"""Digits that can be read."""
NO_DIGIT = -1


@dataclass(frozen=True)
class Number:
    """The number in one picture."""

    name: str = field(repr=False)
    digits: tuple[int, ...]

    @property
    def length(self) -> int:
        """How many digits; `PLACES + 1` if more than can be read."""
        return min(len(self.digits), PLACES + 1)

    def read(self) -> npt.NDArray[np.int64]:
        """(PLACES,), `NO_DIGIT` after the last; all so if there are too many."""
        out = np.full(PLACES, NO_DIGIT, dtype=np.int64)
        if len(self.digits) <= PLACES:
            out[: len(self.digits)] = self.digits
        return out


def presence(numbers: Sequence[Number]) -> npt.NDArray[np.float32]:
    """Which digits occur in each number, (N, 10) of 0 and 1."""
    found = np.zeros((len(numbers), 10), dtype=np.float32)
    for row, number in zip(found, numbers, strict=True):
        row[list(number.digits)] = 1
    return found


def written(digits: Sequence[int] | npt.NDArray[np.int64]) -> str:
    """`[1, 7, 5, -1, -1]` -> `175`."""
    return "".join(str(digit) for digit in digits if digit != NO_DIGIT)
