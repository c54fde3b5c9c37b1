"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms import v2

from sinet.data.dataset import ImageDataset, Split
from sinet.data.masks import VOID
from sinet.data.pairs import SPARE, Pairs, as_seen
from sinet.data.preprocess import Preprocess
from sinet.data.windows import Windows
from sinet.models.spec import ModelSpec
from sinet.tasks.base import ImageTask, backbones, once
from sinet.tasks.signatures.segment import mean_iou
from sinet.training.inputs import Stats, input_stats
from sinet.training.loader import derived_seed
from sinet.training.losses import pixel_loss
from sinet.training.recipe import Recipe

LARGEST = 512
"""Short side, pixels, of the largest input that is tried by itself."""
WHOLE = 1024
"""Images with a longer short side are looked at in pieces."""
HEAD = "pyramid_seg"


class TrainPairs:
    """Random crops of images and masks; all randomness follows from seed and images."""

    def __init__(self, split: Split, recipe: Recipe, preprocess: Preprocess) -> None:
        self.pairs = once(split, ("train", preprocess), lambda: _pairs(split, preprocess, SPARE))
        self.recipe = recipe

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, h, w) and int64 (N, h, w)."""
        draws = torch.Generator().manual_seed(derived_seed(self.recipe.seed, *indices[:8]))
        crop, scale = self.recipe.crop, self.recipe.crop_scale
        images, masks = self.pairs.crops(indices, crop, scale, draws)
        return images, masks


class ValPairs:
    """Whole images (all pieces of large ones) as the network sees them, and masks of its shape."""

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        self.pairs = once(split, ("val", preprocess), lambda: _pairs(split, preprocess))
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.pairs.cells) if isinstance(self.pairs, Windows) else len(self.pairs)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """float32 (N, C, h, w) and int64 (N, h, w)."""
        images, masks = self.pairs.batch(indices)
        return as_seen(images, self.preprocess), masks


class Segment(ImageTask):
    """Learns a network that gives logits on any grid; they are interpolated to the masks' own.

    Metrics: mean IoU and mean Dice over the classes that occur, share of right pixels, loss.
    """

    name = "segment"
    options = frozenset({
        "loss", "label_smoothing", "color_jitter", "random_erasing", "flip", "crop", "crop_scale",
        "progressive", "tta",
    })  # fmt: skip

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__(network, data, recipe, preprocess)
        self.counts = MulticlassConfusionMatrix(data.num_classes, ignore_index=VOID)
        self.mean_loss = MeanMetric()
        strength = recipe.color_jitter
        colourful = strength if preprocess.channels == 3 else None
        self.jitter = v2.ColorJitter(strength, strength, colourful) if strength else None

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """Our light decoder on each backbone, at the images' own size and at smaller ones."""
        height, width = _seen(data)
        short = min(LARGEST, max(64, round(min(height, width) / 32) * 32))
        sizes = [short, *(s for s in (384, 320, 256, 192, 128) if s < 0.9 * short)][:3]
        scale = height / min(height, width)
        return [
            ModelSpec(HEAD, round(size * scale / 32) * 32, {"backbone": s.name}, s.weights)
            for size in sizes
            for s in backbones(usual)
        ]

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """One recipe, from pretrained backbones or from scratch."""
        return "segment"

    @staticmethod
    def preprocessing(
        spec: ModelSpec, data: ImageDataset, stats: Stats | None = None
    ) -> Preprocess:
        """Stretched to the usual shape of the images, in sides that the network takes; or cut."""
        height, width = _seen(data)
        high, wide = spec.side(spec.size), spec.side(spec.size * width / height)
        mean, std = input_stats(spec, data, stats)
        window = (height, width) != ImageTask.typical(data)[:2]
        fitted = Preprocess(high, data.channels, mean, std, width=wide, fit="stretch")
        return replace(fitted, window=window)

    def train_source(self, limit: int | None = None) -> Any:
        """The training images and masks, or the first `limit` of them."""
        return TrainPairs(self.train_split(limit), self.recipe, self.preprocess)

    def val_source(self, split: Split | None = None) -> Any:
        """The validation images and masks, or those of another split."""
        return ValPairs(split or self.data.val, self.preprocess)

    def augment(self, batch: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, Tensor]:
        """Mirror, jitter the colours, normalise, erase; masks stay as large as they are.

        While sizes still grow only images are smaller: the loss brings logits to the masks' grid.
        """
        images, masks = batch
        if self.recipe.flip == "horizontal":
            mirrored = (torch.rand(len(images)) < 0.5).to(images.device)
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
            masks = torch.where(mirrored.view(-1, 1, 1), masks.flip(-1), masks)
        if self.jitter is not None:
            images = torch.stack([self.jitter(image) for image in images])
        seen = self._augment.erase(as_seen(images, self.preprocess))
        shape = self.train_shape(size)
        if seen.shape[2:] != shape:
            seen = F.interpolate(seen, shape, mode="bilinear", antialias=True)
        return seen, masks

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The recipe's loss; a network with several outputs in training has the mean of theirs."""
        several = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        names, smoothing = self.recipe.loss, self.recipe.label_smoothing
        losses = [
            pixel_loss(names, _on_grid(part.float(), targets), targets, smoothing)
            for part in several
        ]
        return torch.stack(losses).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Take a batch into loss and counts."""
        images, targets = batch
        logits = _on_grid(self.outputs(images), targets)
        for one, truth in zip(logits.split(1), targets.split(1), strict=True):
            # image by image: some losses are not means, and no metric may depend on the batch
            self.mean_loss.update(pixel_loss(self.recipe.loss, one, truth))
        self.counts.update(logits.argmax(1), targets)

    def metrics(self) -> dict[str, float]:
        """Over all pixels of all images at once."""
        counts = self.counts.compute().cpu().numpy()
        loss = float(self.mean_loss.compute())
        self.counts.reset()
        self.mean_loss.reset()
        both, truth, said = np.diag(counts), counts.sum(1), counts.sum(0)
        there = truth > 0
        dice = (2 * both[there] / (truth + said)[there]).mean() if there.any() else 0.0
        return {
            "val/loss": loss,
            "val/miou": mean_iou(counts),
            "val/dice": float(dice),
            "val/pixels": float(both.sum() / max(1, truth.sum())),
        }


def _seen(data: ImageDataset) -> tuple[int, int]:
    """Height and width of what a network looks at: a typical image, or a square piece of it."""
    height, width = ImageTask.typical(data)[:2]
    return (LARGEST, LARGEST) if min(height, width) > WHOLE else (height, width)


def _pairs(split: Split, preprocess: Preprocess, spare: float = 1.0) -> Pairs:
    return Windows(split, preprocess) if preprocess.window else Pairs(split, preprocess, spare)


def _on_grid(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.shape[2:] == targets.shape[1:]:
        return logits
    return F.interpolate(logits, targets.shape[1:], mode="bilinear", align_corners=False)


LEARNER = Segment
