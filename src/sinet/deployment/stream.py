"""Answers at the rate of a camera: each new frame costs one pass of the backbone, not one a clip.

The file that ships is cut in two where it gives `features`: what sees a frame, and what compares
the frames of a clip. The features of the last frames are all that is kept of the past.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from sinet.data.clips import Clips
from sinet.data.image import Pixels
from sinet.deployment.engines._onnx import find_model, read_metadata
from sinet.deployment.graph import part_of
from sinet.errors import UsageError
from sinet.tasks.signatures import Result, signature

Array = npt.NDArray[Any]
FEATURES = "features"
TOLERANCE = 1e-3
"""How far the features of frames seen one by one may be from those seen together, as a share of
their size; more than rounding means that they depend on one another."""


class StreamPredictor:
    """A model of clips that is given one frame after the other.

    Example:
        >>> stream = StreamPredictor("runs/gestures/ship")  # doctest: +SKIP
        >>> for frame in play("webcam:0"):  # doctest: +SKIP
        ...     if (result := stream.push(frame.pixels)) is not None:
        ...         print(result.label)

    Attributes:
        frames: how many frames an answer is about, the last ones.
        rate: frames a second as in a typical training clip; 0 where that is not known. A camera
            that gives more should leave some out.

    Args:
        path: `model.onnx`, or a run or ship folder.
        threads: None = as many as cores.

    Raises:
        UsageError: the file is not for clips, or its network lets frames look at their neighbours.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        file = find_model(Path(path))
        self.metadata = read_metadata(file)
        preprocess = self.metadata.preprocess
        if not isinstance(preprocess, Clips):
            raise UsageError(f"{file} takes no clips; give it one picture after the other instead")
        self.frames, self.rate = preprocess.frames, preprocess.rate
        self.signature = signature(self.metadata)
        self._past: deque[Array] = deque(maxlen=self.frames)
        model = onnx.load(str(file))
        self._encoder = _opened(model, "images", FEATURES, threads)
        self._head = _opened(model, FEATURES, self.signature.names[0], threads)
        if not self._alone():
            raise UsageError(
                f"the network of {file} ({self.metadata.model}) lets frames look at their "
                "neighbours, so that a new frame changes what was seen of the others; fit with "
                "--model video_attention, or predict whole clips"
            )

    def push(self, frame: Pixels) -> Result | None:
        """Take the next frame, uint8 (H, W, 3).

        Returns:
            What the last `frames` frames show; None while there are fewer.
        """
        self._past.append(self._encode(frame[None, None]))
        if len(self._past) < self.frames:
            return None
        name = self.signature.names[0]
        (found,) = self._head.run([name], {FEATURES: np.concatenate(self._past, axis=1)})
        return self.signature.result("stream", {name: found[0]})

    def forget(self) -> None:
        """Begin anew, as with another camera."""
        self._past.clear()

    def _encode(self, clip: Array) -> Array:
        """uint8 (1, T, H, W, 3), any T, -> (1, T, width)."""
        (features,) = self._encoder.run([FEATURES], {"images": clip})
        return np.asarray(features)

    def _alone(self) -> bool:
        """Whether a frame's features are the same without the others."""
        clip = self.signature.input.example((64, 64))
        together = self._encode(clip)
        try:
            each = [self._encode(clip[:, i : i + 1]) for i in range(self.frames)]
        except Exception:  # onnxruntime has a dozen error classes without a common base
            return False
        gap = np.abs(np.concatenate(each, axis=1) - together).max()
        return bool(gap <= TOLERANCE * max(1.0, float(np.abs(together).max())))


def _opened(
    model: onnx.ModelProto, given: str, wanted: str, threads: int | None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # a part that does not fit is answered by `_alone`
    # two sessions live side by side: idle threads that spin would steal each other's cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    part = part_of(model, [given], [wanted]).SerializeToString()
    return ort.InferenceSession(part, options, providers=["CPUExecutionProvider"])
