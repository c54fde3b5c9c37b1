"""Classification of clips: logits of a clip -> probabilities; one label a clip."""

from __future__ import annotations

from functools import cached_property

from sinet.data.clips import ClipInput
from sinet.tasks.signatures.classify import Classify


class Video(Classify):
    """`logits` (N, classes) and `features` (N, T, width) -> `probabilities` (N, classes).

    The features are those of the frames. Where each frame was seen by itself they are what
    `StreamPredictor` keeps of the past.
    """

    raw = ("logits", "features")
    hub_tag = "video-classification"

    @cached_property
    def input(self) -> ClipInput:
        """Clips."""
        return ClipInput(self.facts.preprocess)

    @property
    def described(self) -> str:
        """Logits, probabilities and features."""
        return f"{super().described}; `features` of every frame, float32 (N, T, width)"


SIGNATURE = Video
