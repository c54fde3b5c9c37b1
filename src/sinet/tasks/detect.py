"""Object detection: a box around every object, and its class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.boxes import Boxes
from sinet.data.dataset import ImageDataset, Split
from sinet.data.mosaic import SPARE, Jitter, Scenes
from sinet.data.pairs import as_seen
from sinet.data.preprocess import Preprocess
from sinet.heads.light_detect import Decode, Dense
from sinet.models.spec import ModelSpec
from sinet.tasks.base import ImageTask, backbones, once
from sinet.tasks.signatures import Result
from sinet.tasks.signatures.detect import BoxScorer
from sinet.training.assign import detection_loss
from sinet.training.inputs import Stats, input_stats
from sinet.training.loader import derived_seed
from sinet.training.recipe import Recipe

SIZES = (416, 320, 512, 256, 192, 128)
"""Long sides, pixels, of the inputs that are tried by themselves, the most promising first."""
HEAD = "light_detect"
_SHIFT = 0.125  # of the canvas, where a recipe's crop is `pad`


def jitter_of(recipe: Recipe) -> Jitter:
    """How a recipe changes training images."""
    zoom = recipe.crop_scale**-0.5 if recipe.crop == "resized" else 1.0
    return Jitter(
        mosaic=recipe.mosaic,
        mixup=recipe.mixup,
        mix_prob=recipe.mix_prob,
        scale=zoom,
        shift=_SHIFT if recipe.crop == "pad" else 0.0,
        flip=recipe.flip == "horizontal",
        colour=recipe.color_jitter,
    )


def as_rows(boxes: Sequence[Boxes]) -> Tensor:
    """The boxes of a batch as rows (image, class, x1, y1, x2, y2); crowds teach nothing."""
    rows = [
        np.column_stack([np.full(len(b), i), b.labels, b.corners])
        for i, b in enumerate(part.select(~part.crowd) for part in boxes)
    ]
    return torch.from_numpy(np.concatenate(rows).astype(np.float32))


class TrainScenes:
    """Changed images and their boxes; all randomness follows from seed and images."""

    targets: Callable[[Sequence[Boxes]], Any] = staticmethod(as_rows)
    """The boxes of a batch as the network learns from them."""

    def __init__(self, split: Split, recipe: Recipe, preprocess: Preprocess) -> None:
        self.scenes = once(split, ("train", preprocess), lambda: Scenes(split, preprocess, SPARE))
        self.recipe, self.jitter = recipe, jitter_of(recipe)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Any]:
        """uint8 (N, C, h, w) and `targets`, here rows of boxes (G, 6)."""
        draws = torch.Generator().manual_seed(derived_seed(self.recipe.seed, *indices[:8]))
        images, boxes = self.scenes.jittered(indices, self.jitter, draws)
        return images, self.targets(boxes)


class ValScenes:
    """Whole images as the network sees them, and their boxes there."""

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        self.scenes = once(split, ("val", preprocess), lambda: Scenes(split, preprocess))
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, list[Boxes]]:
        """float32 (N, C, h, w) and the boxes of each image."""
        images, boxes = self.scenes.batch(indices)
        return as_seen(images, self.preprocess), boxes


class Detect(ImageTask):
    """Learns a network that gives scores and corners of many positions.

    In training a network gives a `Dense`, or anything that its own `losses(outputs, targets)`
    understands; in evaluation it gives logits (B, A, classes) and corners (B, A, 4).

    Metrics: mAP at IoU 0.5, COCO's mAP over IoU 0.5 ... 0.95.
    """

    name = "detect"
    options = frozenset({
        "mosaic", "mixup", "mix_prob", "color_jitter", "random_erasing", "flip", "crop",
        "crop_scale", "progressive", "tta",
    })  # fmt: skip
    source: type[TrainScenes] = TrainScenes
    """Of the training images."""

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__(network, data, recipe, preprocess)
        self.decode = Decode()
        self.scorer = self._empty_scorer()
        self.tail = self.signature.tail().eval()

    def _empty_scorer(self) -> BoxScorer:
        scorer = self.signature.scorer()
        assert isinstance(scorer, BoxScorer)
        return scorer

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """Our light head on each backbone, at several sizes in the images' own shape."""
        return headed(HEAD, SIZES, usual, data)

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """One recipe, from pretrained backbones or from scratch."""
        return "detect"

    @staticmethod
    def preprocessing(
        spec: ModelSpec, data: ImageDataset, stats: Stats | None = None
    ) -> Preprocess:
        """Padded to the usual shape of the images, in sides that the network takes."""
        height, width = ImageTask.typical(data)[:2]
        high, wide = spec.side(spec.size), spec.side(spec.size * width / height)
        mean, std = input_stats(spec, data, stats)
        return Preprocess(high, data.channels, mean, std, width=wide, fit="pad")

    def train_source(self, limit: int | None = None) -> Any:
        """The training images and boxes, or the first `limit` of them."""
        return self.source(self.train_split(limit), self.recipe, self.preprocess)

    def val_source(self, split: Split | None = None) -> Any:
        """The validation images and boxes, or those of another split."""
        return ValScenes(split or self.data.val, self.preprocess)

    def augment(self, batch: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, Tensor]:
        """Normalise, erase; while sizes still grow, make images and boxes smaller."""
        images, targets = batch
        seen = self._augment.erase(as_seen(images, self.preprocess))
        (high, wide), shape = self.preprocess.shape, self.train_shape(size)
        if shape == (high, wide):
            return seen, targets
        factors = torch.tensor([1, 1, *(2 * (shape[1] / wide, shape[0] / high))])
        seen = F.interpolate(seen, shape, mode="bilinear", antialias=True)
        return seen, targets * factors.to(targets)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Images and rows of boxes move; `Boxes`, which are only counted, stay."""
        images, targets = batch
        moved = targets.to(device) if isinstance(targets, Tensor) else targets
        return images.to(device), moved

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Of a one-stage network here; others know their own."""
        if not isinstance(outputs, Dense):
            total: Tensor = self.network.losses(outputs, targets)  # type: ignore[operator]
            return total
        logits, bins = outputs.logits.float(), outputs.bins.float()
        points, strides = outputs.points.float(), outputs.strides.float()
        corners = self.decode(bins, points, strides)
        return detection_loss(logits, bins, corners, points, strides, targets)

    def answers(self, images: Tensor) -> list[dict[str, np.ndarray[Any, Any]]]:
        """What a file would give for each network input, in the pixels of that input."""
        raw = [part.cpu() for part in self.outputs(images)]
        height, width = images.shape[-2:]
        blank = torch.zeros(1, height, width, 1, dtype=torch.uint8)  # only its size is asked for
        names, rows = self.signature.names, range(len(images))
        found = [self.tail(blank, *(part[i, None] for part in raw)) for i in rows]
        return [
            {name: part.numpy() for name, part in zip(names, parts, strict=True)} for parts in found
        ]

    @torch.inference_mode()
    def predict(self, images: Tensor) -> list[Result]:
        """Typed results, one per network input of float32 (B, C, height, width)."""
        return [
            self.signature.result(f"#{i}", {name: part[0] for name, part in found.items()})
            for i, found in enumerate(self.answers(images))
        ]

    def validation_step(self, batch: tuple[Tensor, list[Boxes]], batch_index: int) -> None:
        """Take a batch into the counts."""
        images, truths = batch
        for found, truth in zip(self.answers(images), truths, strict=True):
            self.scorer.update(found, [truth])

    def metrics(self) -> dict[str, float]:
        """Over all images of all processes."""
        scorer, self.scorer = self.scorer, self._empty_scorer()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (scorer.answers, scorer.truths))
            scorer.answers = [a for answers, _ in parts for a in answers]
            scorer.truths = [t for _, truths in parts for t in truths]
        overall, half = scorer.both()
        return {self.signature.metric: half, self.signature.metric.removesuffix("50"): overall}


def headed(
    head: str, sides: Sequence[int], usual: Sequence[ModelSpec], data: ImageDataset
) -> list[ModelSpec]:
    """A head on each backbone, at several sizes in the images' own shape.

    Args:
        head: name of the network.
        sides: long sides of the inputs in pixels, the most promising first.
        usual: the backbones; those that take one size only are left out.
        data: the data set.
    """
    height, width = ImageTask.typical(data)[:2]
    longest = max(128, round(max(height, width) / 32) * 32)
    sizes = [side for side in sides if side <= 1.1 * longest][:3] or [128]
    share = height / max(height, width)
    return [
        ModelSpec(head, max(64, round(side * share / 32) * 32), {"backbone": s.name}, s.weights)
        for side in sizes
        for s in backbones(usual)
    ]


LEARNER = Detect
