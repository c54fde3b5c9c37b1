"""The picture sheet: what looks wrong, and a few training pictures of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

from sinet.data.dataset import Split
from sinet.data.image import ImageError, Pixels, read_image
from sinet.data.inspection import Inspection
from sinet.data.preprocess import Preprocess
from sinet.data.remarks import Corners, Item, Remark
from sinet.errors import DataError
from sinet.files import atomic_path

TILE, GAP, NAME, CAPTION = 96, 6, 190, 30  # pixels
PITCH = TILE + GAP
LOOK = PITCH + CAPTION  # the height of the row of what looks wrong
MAX_CLASSES, PER_CLASS = 24, 10
WIDTH = NAME + PER_CLASS * PITCH + GAP
INK, PALE, PAPER, BAD, MISSING = "#1f2933", "#7b8794", "#ffffff", "#ff0000", "#f5d0d0"
LEAST = 6  # pixels of a tile that a marked box measures at least, however small it is

UNUSED = Preprocess(32, 3, (0.5,) * 3, (0.5,) * 3, fit="stretch")
"""For a task's signature that only draws: it has no say in a picture."""

Painter = Callable[[Split, int, Pixels], Image.Image]
"""Draws what a sample shows, such as its boxes, onto its pixels."""


class Draws(Protocol):
    """What a task's signature knows about truths."""

    def truth(self, split: Split, i: int) -> Any:
        """What sample `i` shows."""
        ...

    def truth_result(self, source: str, truth: Any) -> Any:
        """The same as a result, which can draw itself."""
        ...


@dataclass
class Suspect:
    """A picture to look at."""

    why: list[str] = field(default_factory=list)
    """A word or two for each thing that is wrong."""
    boxes: list[Corners] = field(default_factory=list)
    """The boxes that are wrong, as they were given."""
    item: Item | None = None
    """The picture itself where it is in no split."""


def painter(task: str, signature: Draws) -> Painter | None:
    """What draws the truth of a task's samples; None where labels say all.

    Args:
        task: of the data set.
        signature: of that task, for the classes of the data set.
    """
    if task == "classify":
        return None

    def paint(split: Split, i: int, pixels: Pixels) -> Image.Image:
        drawn = signature.truth_result(split.names[i], signature.truth(split, i)).draw(pixels)
        assert isinstance(drawn, Image.Image)
        return drawn

    return paint


def draw_sheet(inspection: Inspection, path: str | Path, paint: Painter | None = None) -> Path:
    """Write a PNG: a row of pictures to look at, if there are any, then a row a class.

    A class has its name, its number of training pictures and the first few of them; a picture to
    look at, of whichever split, has its name, what is wrong, and its wrong boxes in red.

    Args:
        inspection: of the data set; up to 24 classes are drawn, evenly spaced.
        path: of the PNG.
        paint: draws masks or boxes onto a picture; None where labels say all.
    """
    data = inspection.data
    rows = np.unique(np.linspace(0, data.num_classes - 1, MAX_CLASSES).astype(int))
    bad = suspects(inspection.warnings)
    first = GAP + LOOK * bool(bad)
    sheet = Image.new("RGB", (WIDTH, first + len(rows) * PITCH), PAPER)
    if bad:
        _draw_suspects(sheet, list(data.splits.values()), bad, paint)
    labels = data.train.labels
    for row, index in enumerate(rows):
        top = first + row * PITCH
        members = np.flatnonzero(labels[:, index] if data.multilabel else labels == index)
        _title(sheet, top, data.classes[index], f"{len(members)} training pictures")
        if not len(members):
            continue  # named in the data set, but in none of its training pictures
        spaced = members[np.linspace(0, len(members) - 1, PER_CLASS).astype(int)]
        for column, i in enumerate(dict.fromkeys(spaced.tolist())):
            _paste(sheet, _tile(partial(_sample, data.train, i, paint)), column, top)
    return _saved(sheet, path)


def draw_refusal(error: DataError, path: str | Path) -> Path | None:
    """Write a PNG: a row of the samples that a data set is refused for, as in `draw_sheet`.

    Args:
        error: that refused it.
        path: of the PNG.

    Returns:
        The path; None, and nothing is written, where there is no picture to look at.
    """
    bad = {name: suspect for name, suspect in suspects(error.faults).items() if suspect.item}
    if not bad:
        return None
    sheet = Image.new("RGB", (WIDTH, GAP + LOOK), PAPER)
    _draw_suspects(sheet, [], bad, None)
    return _saved(sheet, path)


def _saved(sheet: Image.Image, path: str | Path) -> Path:
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return Path(path)


def suspects(remarks: Sequence[Remark]) -> dict[str, Suspect]:
    """The pictures to look at by name: the first of each kind of fault, then the second, ..."""
    kinds = [[(spot, line.short) for spot in line.spots] for line in remarks]
    bad: dict[str, Suspect] = {}
    for spot, why in filter(None, chain.from_iterable(zip_longest(*kinds))):
        suspect = bad.setdefault(spot.name, Suspect())
        suspect.why += [why] if why not in suspect.why else []
        suspect.boxes += [spot.box] if spot.box else []
        suspect.item = suspect.item or spot.item
    return bad


def _draw_suspects(
    sheet: Image.Image,
    splits: Sequence[Split],
    bad: dict[str, Suspect],
    paint: Painter | None,
) -> None:
    """The first row: pictures to look at, with their names and what is wrong."""
    places = {n: (s, i) for s in splits for i, n in enumerate(s.names)}
    _title(sheet, GAP, "look at these", "the first of each fault", BAD)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, (name, suspect) in enumerate(list(bad.items())[:PER_CLASS]):
        tile = Image.new("RGB", (TILE, TILE), MISSING)
        if name in places:
            # a wrong box stands alone: right ones may be red by their class
            seen = partial(_sample, *places[name], None if suspect.boxes else paint)
            tile = _tile(seen, suspect.boxes)
        elif suspect.item:  # what cannot be read, or is not there, is in no split and has none
            tile = _tile(partial(_alone, suspect.item), suspect.boxes)
        _paste(sheet, tile, column, GAP)
        left = NAME + column * PITCH
        why = suspect.why[0] + (f" +{len(suspect.why) - 1}" if suspect.why[1:] else "")
        pen.text((left, GAP + TILE), _end_of(name), INK, font)
        pen.text((left, GAP + TILE + 14), why, BAD, font)


def _title(sheet: Image.Image, top: int, name: str, about: str, colour: str = INK) -> None:
    """What stands at the left of a row."""
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP + 4, top + 28), _short(name), colour, ImageFont.load_default(17))
    pen.text((GAP + 4, top + 52), about, PALE, ImageFont.load_default(13))


def _paste(sheet: Image.Image, tile: Image.Image, column: int, top: int) -> None:
    left = NAME + column * PITCH + (TILE - tile.width) // 2
    sheet.paste(tile, (left, top + (TILE - tile.height) // 2))


def _sample(split: Split, i: int, paint: Painter | None) -> Image.Image:
    """A sample of a split; what it shows is painted over."""
    pixels = split.image(i, 3)
    return paint(split, i, pixels) if paint else Image.fromarray(pixels)


def _alone(item: Item) -> Image.Image:
    """A picture of no split."""
    pixels = item() if callable(item) else read_image(item)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def _tile(picture: Callable[[], Image.Image], wrong: Sequence[Corners] = ()) -> Image.Image:
    """One picture, whole, as large as fits a tile; small ones are enlarged with visible pixels."""
    try:
        image = picture()
    except ImageError:
        return Image.new("RGB", (TILE, TILE), MISSING)
    enlarged = max(image.size) < TILE
    tile = ImageOps.contain(image, (TILE, TILE), _NEAREST if enlarged else _SMOOTH)
    for corners in wrong:
        _mark(tile, np.reshape(corners, (2, 2)) * tile.size / image.size)
    return tile


def _mark(tile: Image.Image, box: npt.NDArray[np.float64]) -> None:
    """A box, (2, 2) of x and y in pixels of the tile, in red; brought to where it can be seen."""
    last = np.array(tile.size) - 1
    low = box.min(0).clip(0, np.maximum(last - LEAST, 0))
    high = np.minimum(np.maximum(box.max(0), low + LEAST), last)
    ImageDraw.Draw(tile).rectangle([*low, *high], outline=BAD, width=2)


_NEAREST, _SMOOTH = Image.Resampling.NEAREST, Image.Resampling.LANCZOS


def _short(name: str, limit: int = 20) -> str:
    return name if len(name) <= limit else name[: limit - 3] + "..."


def _end_of(name: str, limit: int = 16) -> str:
    """The end of a path: names of files differ there, by their numbers."""
    file = PurePosixPath(name).name
    return file if len(file) <= limit else "..." + file[3 - limit :]
