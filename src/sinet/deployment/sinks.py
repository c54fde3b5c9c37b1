"""Answers as pictures and files of their own; and which sinks a command asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sinet.data.image import Pixels
from sinet.data.video_writer import write_video
from sinet.deployment.footage import Answer, stem
from sinet.deployment.records import CocoFile, CsvFile, JsonFile, Table
from sinet.deployment.sink import Sink
from sinet.deployment.window import Window
from sinet.errors import UsageError
from sinet.files import atomic_path
from sinet.tasks.signatures import Facts


class Names:
    """A name for everything that is made of a source: its stem, numbered where that is taken.

    `a/x.png` and `b/x.jpg` become `x` and `x-2`; the same source always gets the same name.
    """

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._taken: Counter[str] = Counter()

    def __call__(self, source: str) -> str:
        """The name, without ending."""
        if source not in self._given:
            name = plain = stem(source)
            while self._taken[name.casefold()]:  # some file systems know no upper case
                self._taken[plain.casefold()] += 1
                name = f"{plain}-{self._taken[plain.casefold()]}"
            self._taken[name.casefold()] += 1
            self._given[source] = name
        return self._given[source]


class Folder(Sink):
    """Answers that are files: volumes, scenes, pictures.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._names = path, Names()

    def add(self, answer: Answer) -> None:
        """Write one.

        Raises:
            UsageError: it has no file.
        """
        result: Any = answer.result
        if replace(result, source=self._names(answer.source)).save(self.path) is None:
            raise UsageError(f"this model answers in rows, not files; give --out {self.path}.csv")


class Drawings(Sink):
    """A folder of drawn answers: NAME.png of pictures, NAME.mp4 of videos, whole or not at all.

    Sources that share a name are told apart as `Names` says.

    Args:
        folder: where to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._names = folder, Names()
        self._film: ExitStack
        self._source = ""
        self._add: Callable[[Pixels], None]

    def begin(self, stack: ExitStack) -> None:
        """See to it that the last video ends."""
        self._film = stack.enter_context(ExitStack())

    def add(self, answer: Answer) -> None:
        """Write a picture, or the next frame of a video."""
        if answer.frame is None:
            with atomic_path(self.folder / f"{self._names(answer.source)}.png") as temporary:
                answer.drawn.save(temporary, format="PNG")
            return
        if answer.source != self._source:
            self._film.close()
            path = self.folder / f"{self._names(answer.source)}.mp4"
            self._add = self._film.enter_context(write_video(path, answer.frame.rate))
            self._source = answer.source
        self._add(np.asarray(answer.drawn.convert("RGB")))


class Screen(Sink):
    """Drawn answers in a window, until it is closed."""

    def __init__(self) -> None:
        self._window: Window

    def begin(self, stack: ExitStack) -> None:
        """Open it.

        Raises:
            UsageError: there is no display, or no tkinter.
        """
        self._window = Window()

    def add(self, answer: Answer) -> None:
        """Show it in the place of the last."""
        self.closed = not self._window.show(answer.drawn)

    def finish(self) -> None:
        """Wait until somebody closes it; Ctrl-C does, and the other sinks are finished."""
        with suppress(KeyboardInterrupt):
            self._window.wait()


def sinks_for(out: Path | None, facts: Facts, top: int = 1, moving: bool = False) -> list[Sink]:
    """What `--out` asks for.

    Args:
        out: a file whose ending says what it is, or a folder; None = the screen.
        facts: about the model.
        top: as of `Rows`.
        moving: as of `Rows`.

    Raises:
        UsageError: an ending that means nothing.
    """
    if out is None:
        return [Table(top, moving)]
    if not out.suffix:
        return [Folder(out), CsvFile(out / "results.csv", top, moving)]
    kinds: dict[str, Callable[[], Sink]] = {
        ".coco.json": lambda: CocoFile(out, facts),  # before .json
        ".json": lambda: JsonFile(out, moving),
        ".csv": lambda: CsvFile(out, top, moving),
    }
    for ending, make in kinds.items():
        if out.name.endswith(ending):
            return [make()]
    raise UsageError(f"--out {out} is neither .csv nor .json; choose one of them")
