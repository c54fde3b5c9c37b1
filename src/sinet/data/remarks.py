"""What is found while a data set is read, as data: the words, whether it is wrong, where to look.

Readers make remarks, `inspect_dataset` adds its own, and the sheet draws the pictures they name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Corners = tuple[float, ...]
"""x1, y1, x2, y2 in pixels of the picture, as the file had them; empty where there is no box."""
Item = Path | bytes | Callable[[], npt.NDArray[np.uint8]]
"""A picture's file, its content, or what makes uint8 (H, W, 1 or 3) of another kind of file."""


@dataclass(frozen=True)
class Spot:
    """A picture that a remark is about."""

    name: str
    """As its split calls it; or the name of a file that is in no split."""
    item: Item | None = None
    """The picture itself where it is in no split, but there all the same."""
    box: Corners = ()
    """What to mark in it."""


@dataclass(frozen=True)
class Remark:
    """What was recognised, decided or found."""

    text: str
    flaw: bool = False
    """Whether it deserves a look: something was repaired, left out, or is doubtful."""
    short: str = ""
    """The same in two words, for what is written below a picture."""
    spots: tuple[Spot, ...] = ()
    """Where to look."""


def left_out(spots: Sequence[Spot], what: str, short: str) -> list[Remark]:
    """A remark on files that are left out, or none where there are none.

    Args:
        spots: the files.
        what: that is wrong with them, as in "images have no mask".
        short: the same in two words.
    """
    named = listed([spot.name for spot in spots], 3)
    text = f"{len(spots)} {what} and are left out: {named}"
    return [Remark(text, True, short, tuple(spots))] if spots else []


def listed(names: Sequence[str], limit: int = 10) -> str:
    """The first names in quotes, and how many there are in all."""
    more = f" ... ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
