"""What a model says of pictures, videos and cameras.

A video is answered frame by frame, unless the model takes clips: then a file is one answer, and a
camera is answered after every frame (`StreamPredictor`). Where answers go: `sinks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image

from sinet.data.clips import ClipInput
from sinet.data.image import ImageError, Pixels
from sinet.data.inputs import ImageInput
from sinet.data.video import CAMERA, Frame, is_camera, is_video, play
from sinet.deployment.predictor import Predictor
from sinet.deployment.stream import StreamPredictor
from sinet.errors import UsageError
from sinet.tasks.signatures import Result


@dataclass(frozen=True)
class Answer:
    """An answer, and the frame of a video that it is about."""

    source: str
    """A file, or a camera."""
    result: Result
    frame: Frame | None = None
    look: Callable[[], Pixels] | None = None
    """Reads the picture of a file again, (H, W, 1 or 3); pixels are not kept for those who need
    none."""

    @cached_property
    def picture(self) -> Pixels:
        """What it is about, uint8 (H, W, 1 or 3)."""
        if self.frame is not None:
            return self.frame.pixels
        assert self.look is not None
        return self.look()

    @cached_property
    def drawn(self) -> Image.Image:
        """The same with the answer on it."""
        return self.result.draw(self.picture)


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
                look = partial(self._look, source)
                for result in self.predictor.predict([source]):
                    yield Answer(str(source), result, look=look)

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

    def _look(self, source: Path | str) -> Pixels:
        return self.predictor.signature.input.picture(self.predictor.read(source))


def stem(source: Path | str) -> str:
    """The name of a source without folder and endings, for what is made of it."""
    return Path(str(source).replace(CAMERA, "webcam")).name.split(".")[0]


def _named(result: Result, source: Path | str, frame: Frame) -> Result:
    """The result with a name for the frame, such as `clip-000012`."""
    known: Any = result
    named: Result = replace(known, source=f"{stem(source)}-{frame.number:06d}")
    return named
