"""What a model says of pictures, videos and cameras, and the answers drawn.

A video is answered frame by frame, unless the model takes clips: then a file is one answer, and a
camera is answered after every frame (`StreamPredictor`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from sinet.data.clips import ClipInput
from sinet.data.image import ImageError, Pixels
from sinet.data.inputs import ImageInput
from sinet.data.video import CAMERA, Frame, is_camera, is_video, play, write_video
from sinet.deployment.predictor import Predictor
from sinet.deployment.stream import StreamPredictor
from sinet.errors import UsageError
from sinet.files import atomic_path
from sinet.tasks.signatures import Facts, Result


@dataclass(frozen=True)
class Answer:
    """An answer, and the frame of a video that it is about."""

    source: str
    """A file, or a camera."""
    result: Result
    frame: Frame | None = None


class Watcher:
    """A model that is shown files and cameras.

    Args:
        predictor: the model.
        path: where it lies.
        threads: as of the predictor.
    """

    def __init__(self, predictor: Predictor, path: Path, threads: int | None = None) -> None:
        self.predictor, self.path, self.threads = predictor, path, threads

    def plays(self, source: Path | str) -> bool:
        """Whether a source is answered frame by frame.

        Raises:
            UsageError: the model sees neither pictures nor clips.
        """
        still = Path(source).suffix.lower() == ".gif"  # a picture to all tasks on pictures
        if not is_camera(source) and (still or not is_video(source)):
            return False
        reader = self.predictor.signature.input
        if not isinstance(reader, ImageInput | ClipInput):
            raise UsageError(f"{source}: this model takes no pictures, so it cannot watch a video")
        return is_camera(source) or isinstance(reader, ImageInput)

    def answers(self, sources: Iterable[Path | str]) -> Iterator[Answer]:
        """Every answer, in order; what cannot be read is said and passed."""
        for source in sources:
            if self.plays(source):
                yield from self._watched(source)
            else:
                yield from (Answer(str(source), r) for r in self.predictor.predict([source]))

    def _watched(self, source: Path | str) -> Iterator[Answer]:
        task = self.predictor.signature
        clips = isinstance(task.input, ClipInput)
        shown = self._streamed(source) if clips else self._one_by_one(source)
        try:
            yield from shown
        except ImageError as error:
            yield Answer(str(source), task.failed(str(source), error.reason))

    def _one_by_one(self, source: Path | str) -> Iterator[Answer]:
        for frame in play(source):
            (result,) = self.predictor.predict([frame.pixels])
            yield Answer(str(source), _named(result, source, frame), frame)

    def _streamed(self, source: Path | str) -> Iterator[Answer]:
        """Frames at the rate of the training clips; an answer for each that has a past."""
        stream = StreamPredictor(self.path, self.threads)
        due = 0.0
        for frame in play(source):
            if stream.rate and frame.seconds < due:
                continue
            due = frame.seconds + 1 / stream.rate if stream.rate else 0.0
            result = stream.push(frame.pixels)
            if result is not None:
                yield Answer(str(source), _named(result, source, frame), frame)

    def picture(self, answer: Answer) -> Pixels:
        """What an answer is about, uint8 (H, W, 1 or 3)."""
        if answer.frame is not None:
            return answer.frame.pixels
        return self.predictor.signature.input.picture(self.predictor.read(answer.source))


def stem(source: Path | str) -> str:
    """The name of a source without folder and endings, for what is made of it."""
    return Path(str(source).replace(CAMERA, "webcam")).name.split(".")[0]


def _named(result: Result, source: Path | str, frame: Frame) -> Result:
    """The result with a name for the frame, such as `clip-000012`."""
    known: Any = result
    named: Result = replace(known, source=f"{stem(source)}-{frame.number:06d}")
    return named


class Drawings:
    """A folder of drawn answers: NAME.png of pictures, NAME.mp4 of videos, whole or not at all.

    Use it with `with`: videos are finished at its end.

    Args:
        folder: where to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._film = ExitStack()
        self._source = ""
        self._add: Callable[[Pixels], None]

    def __enter__(self) -> Drawings:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._film.__exit__(kind, error, trace)

    def add(self, answer: Answer, picture: Image.Image) -> None:
        """Take in the next picture."""
        if answer.frame is None:
            with atomic_path(self.folder / f"{stem(answer.source)}.png") as temporary:
                picture.save(temporary, format="PNG")
            return
        if answer.source != self._source:
            self._film.close()
            path = self.folder / f"{stem(answer.source)}.mp4"
            self._add = self._film.enter_context(write_video(path, answer.frame.rate))
            self._source = answer.source
        self._add(np.asarray(picture.convert("RGB")))


class CocoFile:
    """Boxes that a model found, as a COCO file: to be looked at, corrected and learned from.

    Args:
        facts: about the model.
    """

    def __init__(self, facts: Facts) -> None:
        pairs = zip(facts.class_ids, facts.classes, strict=True)
        self._categories = [{"id": key, "name": name} for key, name in pairs]
        self._images: list[dict[str, Any]] = []
        self._boxes: list[dict[str, Any]] = []

    def add(self, answer: Answer, picture: Pixels) -> None:
        """Take in the answer for a picture.

        Raises:
            UsageError: it is no boxes.
        """
        entries: Any = getattr(answer.result, "to_coco", None)
        if entries is None:
            raise UsageError("this model gives no boxes, which is what COCO is for; give a .json")
        name = answer.source if answer.frame is None else f"{answer.result.source}.png"
        number, (height, width) = len(self._images) + 1, picture.shape[:2]
        row = {"id": number, "file_name": name, "height": height, "width": width}
        self._images.append(row)
        for entry in entries(number):
            area = entry["bbox"][2] * entry["bbox"][3]
            self._boxes.append({"id": len(self._boxes) + 1, **entry, "area": area, "iscrowd": 0})

    def to_dict(self) -> dict[str, Any]:
        """All of it, as COCO orders it."""
        parts = {"images": self._images, "annotations": self._boxes}
        return {**parts, "categories": self._categories}
