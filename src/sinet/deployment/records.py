"""Answers in writing: rows on the screen or as CSV, JSON, COCO."""

from __future__ import annotations

import csv
import json
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from sinet.data.regions import Region, from_rle
from sinet.deployment.footage import Answer
from sinet.deployment.sink import Sink
from sinet.errors import UsageError
from sinet.files import atomic_path, write_json
from sinet.tasks.signatures import Facts

SHOWN = 50
"""Rows of a table on the screen."""


class Rows(Sink):
    """Rows of a table: file, frame and time where anything moves, the task's columns, error.

    Args:
        top: answers a row where a task ranks its answers.
        moving: whether some answers are about frames of videos.
    """

    errors = True

    def __init__(self, top: int = 1, moving: bool = False) -> None:
        self.top, self.moving = top, moving

    def rows(self, answer: Answer) -> list[dict[str, Any]]:
        """Those of an answer, the same columns for all."""
        begins = {"file": answer.source, **(_moment(answer, "") if self.moving else {})}
        ends = {"error": answer.result.error or ""}
        return [{**begins, **row, **ends} for row in answer.result.rows(self.top)]


def _moment(answer: Answer, nothing: str | None) -> dict[str, Any]:
    """Frame and time in seconds; `nothing` for both where an answer is about a whole file."""
    frame = answer.frame
    if frame is None:
        return {"frame": nothing, "time": nothing}
    return {"frame": frame.number, "time": round(frame.seconds, 3)}


class Table(Rows):
    """The first rows on the screen, at the end."""

    def __init__(self, top: int = 1, moving: bool = False) -> None:
        super().__init__(top, moving)
        self._first: list[dict[str, Any]] = []
        self._total = 0

    def add(self, answer: Answer) -> None:
        """Keep what will be shown, count the rest."""
        rows = self.rows(answer)
        self._total += len(rows)
        self._first += rows[: SHOWN - len(self._first)]

    def finish(self) -> None:
        """Print it."""
        from rich import table
        from rich.console import Console
        from rich.markup import escape

        shown = table.Table(*(self._first[0] if self._first else ["file"]))
        for row in self._first:
            shown.add_row(*(escape(str(value)) for value in row.values()))
        console = Console()
        console.print(shown)
        more = self._total - len(self._first)
        if more:
            console.print(f"... and {more} more; --out results.csv keeps them all")


class CsvFile(Rows):
    """A CSV file, written row by row: a video or a camera may be long.

    Args:
        path: of the file.
        top: as of `Rows`.
        moving: as of `Rows`.
    """

    def __init__(self, path: Path, top: int = 1, moving: bool = False) -> None:
        super().__init__(top, moving)
        self.path = path
        self._file: IO[str]
        self._writer: csv.DictWriter[str] | None = None

    def begin(self, stack: ExitStack) -> None:
        """Open it under a temporary name."""
        self._file = _opened(self.path, stack)

    def add(self, answer: Answer) -> None:
        """Write the rows; the first say what the columns are."""
        rows = self.rows(answer)
        if self._writer is None:
            self._begin_rows(list(rows[0]))
        assert self._writer is not None
        self._writer.writerows(rows)

    def _begin_rows(self, columns: list[str]) -> None:
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()

    def finish(self) -> None:
        """A file without answers still has a head."""
        if self._writer is None:
            self._begin_rows(["file", "error"])


class JsonFile(Sink):
    """A JSON list with all that each answer says, masks as well; a line an answer.

    Args:
        path: of the file.
        moving: whether some answers are about frames of videos.
    """

    errors = True

    def __init__(self, path: Path, moving: bool = False) -> None:
        self.path, self.moving = path, moving
        self._file: IO[str]
        self._before = "[\n"

    def begin(self, stack: ExitStack) -> None:
        """Open it under a temporary name."""
        self._file = _opened(self.path, stack)

    def add(self, answer: Answer) -> None:
        """Write it; `source` is the file, also of a frame."""
        begins = {"source": answer.source, **(_moment(answer, None) if self.moving else {})}
        entry = {**begins, **answer.result.to_json(), **begins}
        self._file.write(self._before + json.dumps(entry, ensure_ascii=False))
        self._before = ",\n"

    def finish(self) -> None:
        """End the list."""
        self._file.write("[]\n" if self._before.startswith("[") else "\n]\n")


def _opened(path: Path, stack: ExitStack) -> IO[str]:
    """A text file that gets its name when the stack ends well."""
    temporary = stack.enter_context(atomic_path(path))
    return stack.enter_context(temporary.open("w", newline="", encoding="utf-8"))


class CocoFile(Sink):
    """Boxes and masks as a COCO file: to be looked at, corrected and learned from.

    Args:
        path: of the file.
        facts: about the model.
    """

    def __init__(self, path: Path, facts: Facts) -> None:
        self.path = path
        pairs = zip(facts.class_ids, facts.classes, strict=True)
        self._categories = [{"id": key, "name": name} for key, name in pairs]
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []

    def add(self, answer: Answer) -> None:
        """Keep the entries: COCO has all images before them.

        Raises:
            UsageError: an answer of another kind.
        """
        entries: Any = getattr(answer.result, "to_coco", None)
        if entries is None:
            raise UsageError(
                "this model gives no boxes and no masks, which is what COCO is for; give a .json"
            )
        name = answer.source if answer.frame is None else f"{answer.result.source}.png"
        number, (height, width) = len(self._images) + 1, answer.picture.shape[:2]
        row = {"id": number, "file_name": name, "height": height, "width": width}
        self._images.append(row)
        for entry in entries(number):
            self._objects.append({"id": len(self._objects) + 1, **_measured(entry), "iscrowd": 0})

    def finish(self) -> None:
        """Write all of it, as COCO orders it."""
        parts = {"images": self._images, "annotations": self._objects}
        write_json(self.path, {**parts, "categories": self._categories})


def _measured(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with its area and box: those of its pixels where it has pixels, as COCO has them."""
    if "segmentation" not in entry:
        return {**entry, "area": entry["bbox"][2] * entry["bbox"][3]}
    region = Region.of(from_rle(entry["segmentation"]))
    x1, y1, x2, y2 = region.corners
    around = {"bbox": [x1, y1, x2 - x1, y2 - y1]}
    if not region.area and "bbox" in entry:
        around = {}  # an object that was found, but none of whose pixels were
    return {**entry, **around, "area": region.area}
