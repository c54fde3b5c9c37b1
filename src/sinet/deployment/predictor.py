"""One way to run a model, whichever engine runs it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sinet.data.image import ImageError, Pixels, read_image
from sinet.deployment.engines import open_engine
from sinet.deployment.metadata import Metadata
from sinet.errors import DataError

Source: TypeAlias = "str | Path | bytes | npt.NDArray[Any] | Image.Image"
"""A file, the bytes of one, pixels (H, W[, C]), or an open picture."""

THRESHOLD = 0.5
"""Probability from which on a label of a multi-label model is given."""


@dataclass(frozen=True)
class Prediction:
    """What the model sees in one image, or why it could not look."""

    source: str
    """Path of the file, or its place in the input such as `#3`."""
    label: str
    """The likeliest class; empty where the image could not be read."""
    id: int | str | None
    """The user's own id of that class."""
    score: float
    """Its probability; NaN where the image could not be read."""
    probabilities: npt.NDArray[np.float32]
    """Of all classes, (classes,)."""
    labels: tuple[str, ...]
    """The label; for multi-label models every class from `THRESHOLD` on."""
    error: str | None = None
    """Why the image could not be read."""


class Predictor:
    """A model that is ready to run.

    Example:
        >>> predictor = Predictor("runs/photos/model.onnx")  # doctest: +SKIP
        >>> [result.label for result in predictor.predict(["cat.jpg"])]  # doctest: +SKIP
        ['cat']

    Args:
        path: `model.onnx` or a folder that holds one; OpenVINO's `.xml` for `openvino`; the folder
            of a training for `torch`.
        engine: `onnxruntime`, `openvino` or `torch`.
        threads: None = as many as cores.
        spinning: whether ONNX Runtime's idle threads wait actively; turn it off where several
            models share one process.

    Raises:
        UsageError: unknown engine, or a file that is absent, damaged, or not SiNet's.
    """

    def __init__(
        self,
        path: str | Path,
        engine: str = "onnxruntime",
        threads: int | None = None,
        spinning: bool = True,
    ) -> None:
        self.engine = open_engine(engine, Path(path), threads, spinning)
        self.metadata: Metadata = self.engine.metadata

    def run(self, images: Pixels) -> dict[str, npt.NDArray[Any]]:
        """`logits` and `probabilities`, float32 (N, classes), of images uint8 (N, H, W, C).

        Raises:
            DataError: another shape or type, or images too narrow to be resized.
        """
        channels = self.metadata.preprocess.channels
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[3] != channels or images.dtype != np.uint8:
            raise DataError(
                f"images of shape {images.shape} and type {images.dtype} given; this model takes "
                f"uint8 of shape (N, H, W, {channels}); `predict` reads files into that"
            )
        self.metadata.preprocess.resized(*images.shape[1:3])  # refuses strips
        return self.engine.run(np.ascontiguousarray(images))

    def logits(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Logits (N, classes) of images uint8 (N, H, W, C)."""
        logits: npt.NDArray[np.float32] = self.run(images)["logits"]
        return logits

    def predict(self, sources: Iterable[Source], batch: int = 1) -> Iterator[Prediction]:
        """Read and classify images, in order; what cannot be read is reported and passed over.

        Args:
            sources: files, bytes, arrays or PIL images.
            batch: images run together where neighbours have the same size. 1 answers soonest, and
                on a CPU nothing else is faster by much.
        """
        waiting: list[tuple[str, Pixels]] = []
        for index, source in enumerate(sources):
            name = str(source) if isinstance(source, str | Path) else f"#{index}"
            try:
                image = self._read(source)
            except DataError as error:
                yield from self._flush(waiting)
                yield self._failed(name, error)
                continue
            if waiting and waiting[0][1].shape != image.shape:
                yield from self._flush(waiting)
            waiting.append((name, image))
            if len(waiting) >= batch:
                yield from self._flush(waiting)
        yield from self._flush(waiting)

    def _read(self, source: Source) -> Pixels:
        preprocess = self.metadata.preprocess
        if isinstance(source, Image.Image):
            source = _pixels(source)
        image = read_image(source, preprocess.channels)
        preprocess.resized(*image.shape[:2])
        return image

    def _flush(self, waiting: list[tuple[str, Pixels]]) -> Iterator[Prediction]:
        if waiting:
            rows = self.run(np.stack([image for _, image in waiting]))["probabilities"]
            names = [name for name, _ in waiting]
            waiting.clear()
            yield from map(self._named, names, rows)

    def _named(self, name: str, row: npt.NDArray[np.float32]) -> Prediction:
        facts, best = self.metadata, int(row.argmax())
        chosen = np.flatnonzero(row >= THRESHOLD) if facts.multilabel else [best]
        return Prediction(
            source=name,
            label=facts.classes[best],
            id=facts.class_ids[best],
            score=float(row[best]),
            probabilities=row,
            labels=tuple(facts.classes[i] for i in chosen),
        )

    def _failed(self, name: str, error: DataError) -> Prediction:
        nothing = np.full(len(self.metadata.classes), np.nan, dtype=np.float32)
        reason = error.reason if isinstance(error, ImageError) else str(error)
        return Prediction(name, "", None, math.nan, nothing, (), reason)


def _pixels(image: Image.Image) -> npt.NDArray[Any]:
    """An open picture as the array that `read_image` understands."""
    upright = ImageOps.exif_transpose(image)
    return np.asarray(upright if upright.mode.startswith("I") else upright.convert("RGBA"))
