"""One way to run a model, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt
from PIL import Image

from sinet.data.image import ImageError
from sinet.deployment.engines import open_engine
from sinet.deployment.metadata import Metadata
from sinet.errors import DataError
from sinet.tasks.signatures import Result, signature

Source: TypeAlias = "str | Path | bytes | npt.NDArray[Any] | Image.Image"
"""A file, the bytes of one, pixels (H, W[, C]), or an open picture; else what the task reads."""


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
        self.signature = signature(self.metadata)

    def run(self, images: Any, raw: bool = False) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the task by name (`probabilities` for classes), batch first.

        Args:
            images: uint8 (N, H, W, C); for other inputs what `signature.input.stack` gives.
            raw: those of the network too (`logits`).

        Raises:
            DataError: another shape or type, or images too narrow to be resized.
        """
        task = self.signature
        names = (*task.raw, *task.names) if raw else task.names
        return task.through(self.engine.run, task.input.checked(images), names)

    def predict(self, sources: Iterable[Source], batch: int = 1) -> Iterator[Result]:
        """Read images and say what is in them, in order; what cannot be read is said and passed.

        Args:
            sources: files, bytes, arrays or PIL images.
            batch: images run together where neighbours have the same size. 1 answers soonest, and
                on a CPU nothing else is faster by much.
        """
        batch = batch if self.signature.batched else 1
        waiting: list[tuple[str, Any]] = []
        for index, source in enumerate(sources):
            name = str(source) if isinstance(source, str | Path) else f"#{index}"
            try:
                image = self.read(source)
            except DataError as error:
                yield from self._flush(waiting)
                reason = error.reason if isinstance(error, ImageError) else str(error)
                yield self.signature.failed(name, reason)
                continue
            if waiting and waiting[0][1].shape != image.shape:
                yield from self._flush(waiting)
            waiting.append((name, image))
            if len(waiting) >= batch:
                yield from self._flush(waiting)
        yield from self._flush(waiting)

    def read(self, source: Source) -> Any:
        """What the model sees: for pictures uint8 (H, W, C).

        Raises:
            DataError: it cannot be read, or is too narrow to be resized.
        """
        return self.signature.input.read(source)

    def _flush(self, waiting: list[tuple[str, Any]]) -> Iterator[Result]:
        if not waiting:
            return
        outputs = self.run(self.signature.input.stack([image for _, image in waiting]))
        names = [name for name, _ in waiting]
        waiting.clear()
        for i, name in enumerate(names):
            yield self.signature.result(name, {key: value[i] for key, value in outputs.items()})
