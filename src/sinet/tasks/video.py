"""Classification of clips: a few frames of each are seen together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from sinet.data.clips import ClipCache, Clips, ClipSplit, drawn
from sinet.data.dataset import ImageDataset, Split
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.heads.video import ClipLogits
from sinet.models.spec import ModelSpec
from sinet.tasks.base import Batch, ImageTask, backbones, once
from sinet.tasks.classify import Classify
from sinet.training.inputs import Stats, input_stats, pixel_stats
from sinet.training.loader import derived_seed
from sinet.training.recipe import Recipe

HEADS = ("video_conv21d", "video_attention")
"""On every backbone, the better one for motion first."""
FRAMES = 8
"""That a network sees of a clip unless it is built with other `frames`."""
LARGEST = 160
"""Side, pixels, of the largest frames that are tried by themselves; networks for CPUs that see
clips have no more (X3D-S, arXiv:2004.04730)."""
KEPT = 3
"""Frames kept of each part of a training clip, of which one is drawn."""
SPARE = 1.25
"""Training frames are kept this much larger than the network's: room for crops."""
LOOKED_AT = 64
"""Clips from which the usual length comes."""


@dataclass(frozen=True)
class ClipStats:
    """What the training clips are like."""

    pixels: Stats
    seconds: float
    """Median length; 0 where clips have no clock."""


class TrainClips:
    """Random frames, one of each part of a clip; they follow from seed and clips."""

    def __init__(self, split: Split, recipe: Recipe, preprocess: Clips, side: int) -> None:
        kept = KEPT * preprocess.frames
        self.cache = _cached(split, preprocess, kept, side)
        self.seed, self.frames = recipe.seed, preprocess.frames

    def __len__(self) -> int:
        return len(self.cache)

    def __getitems__(self, indices: list[int]) -> Batch:
        """uint8 (N, T, C, side, side) and int64 (N,)."""
        draws = Generator().manual_seed(derived_seed(self.seed, *indices[:8]))
        chosen = drawn(self.cache.kept, self.frames, len(indices), draws)
        clips = self.cache.batch(indices)[torch.arange(len(indices))[:, None], chosen]
        return clips, self.cache.labels[indices]


class ValClips:
    """The middle frames of the parts of clips as the network sees them."""

    def __init__(self, split: Split, preprocess: Clips) -> None:
        self.cache = _cached(split, preprocess, preprocess.frames, preprocess.size)
        self.module = PreprocessModule(preprocess.still)

    def __len__(self) -> int:
        return len(self.cache)

    def __getitems__(self, indices: list[int]) -> Batch:
        """float32 (N, C, T, size, size) and int64 (N,)."""
        clips = self.cache.batch(indices)
        frames: Tensor = self.module.normalise(clips.flatten(0, 1))
        return frames.view_as(clips).transpose(1, 2), self.cache.labels[indices]


def _cached(split: Split, preprocess: Clips, kept: int, side: int) -> ClipCache:
    assert isinstance(split, ClipSplit)
    made = (preprocess.still.fit, kept, side)
    found: ClipCache = once(split, made, lambda: ClipCache(split, preprocess, kept, side))
    return found


class Video(Classify):
    """Learns a network that gives `ClipLogits`; loss and metrics are those of pictures."""

    name = "video"
    # a camera's next frame is compared with the kept features of the last ones, which are those of
    # one look: no `tta`
    options = Classify.options - {"tta", "teacher"}

    @staticmethod
    def stats(data: ImageDataset) -> Any:
        """Pixels and length of the training clips, from some of them."""
        return once(data.train, "stats", lambda: ClipStats(pixel_stats(data), _seconds(data.train)))

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """Both heads on each backbone, at the clips' own size and at a smaller one."""
        short = min(LARGEST, max(64, round(min(ImageTask.typical(data)) / 32) * 32))
        sizes = [short, *(s for s in (128, 96, 64) if s < 0.9 * short)][:2]
        return [
            ModelSpec(head, size, {"backbone": body.name, "frames": FRAMES}, body.weights)
            for size in sizes
            for body in backbones(usual)
            for head in HEADS
        ]

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """One recipe."""
        return "video"

    @staticmethod
    def preprocessing(spec: ModelSpec, data: ImageDataset, stats: Any = None) -> Preprocess:
        """The centre square of as many frames as the network is built for."""
        known: ClipStats = stats or Video.stats(data)
        mean, std = input_stats(spec, data, known.pixels)
        frames = int(spec.kwargs.get("frames", FRAMES))
        return Clips(
            spec.size, data.channels, mean, std, frames=frames, seconds=round(known.seconds, 3)
        )

    @property
    def clips(self) -> Clips:
        """The preprocessing, by its kind."""
        assert isinstance(self.preprocess, Clips)
        return self.preprocess

    def train_source(self, limit: int | None = None) -> Any:
        """The training clips, or the first `limit` of them."""
        size = self.clips.size
        side = min(round(SPARE * size), max(size, min(ImageTask.typical(self.data))))
        return TrainClips(self.train_split(limit), self.recipe, self.clips, side)

    def val_source(self, split: Split | None = None) -> Any:
        """The validation clips, or those of another split, as the network sees them."""
        return ValClips(split or self.data.val, self.clips)

    def ordered(self, images: Tensor) -> Tensor:
        """As they are: the network takes them apart into frames."""
        return images

    def outputs(self, images: Tensor) -> Any:
        """`ClipLogits`."""
        return ClipLogits(*super().outputs(images))

    def logits(self, images: Tensor) -> Tensor:
        """Those of the clips."""
        logits: Tensor = self.outputs(images)[0]
        return logits

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Cross-entropy of the clips' logits."""
        return super().loss(outputs[0], targets)


def _seconds(split: Split) -> float:
    assert isinstance(split, ClipSplit)
    some = np.unique(np.linspace(0, len(split) - 1, LOOKED_AT).astype(int))
    return float(np.median([split.seconds(int(i)) for i in some]))


LEARNER = Video
