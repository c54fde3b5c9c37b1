"""Numbers of several digits, read at once: how many there are, and each of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics import MeanMetric

from sinet.data.dataset import ImageDataset, Split
from sinet.data.image import Pixels
from sinet.data.pairs import as_seen
from sinet.data.preprocess import Preprocess
from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.models.svhn_multidigit import NumberLogits, number_loss
from sinet.tasks.base import Batch, ImageTask, backbones, once
from sinet.tasks.signatures.digits import SURE, character_accuracy, coverage_at
from sinet.training.inputs import Stats, input_stats
from sinet.training.recipe import Recipe

HEAD = "digits_head"
SIZES = (64, 48)
"""Height and width of the input, pixels; the paper resizes every number to 64."""
BUILT_FOR = {
    HEAD: SIZES[0],
    "svhn_multidigit": 54,
    "svhn_multidigit_bn": 54,
    "svhn_multidigit_test": 32,
    "svhn_multidigit_bn_test": 32,
}
"""Input sizes of networks that take no other, unless they are built with `img_size`."""


class NumberImages:
    """Pictures in the network's shape, uint8 (N, C, H, W), and what they say, int64 (N, 6).

    Decoded once and kept: 64 x 64 pixels are 12 kB.
    """

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        self.split, self.preprocess = split, preprocess
        pixels = np.empty((len(split), *preprocess.shape, preprocess.channels), np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for i, picture in enumerate(pool.map(self._read, range(len(split)))):
                pixels[i] = picture
        self.images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        rows = [[number.length, *number.read()] for number in split.targets]
        self.targets = torch.from_numpy(np.array(rows, dtype=np.int64))

    def _read(self, i: int) -> Pixels:
        image = self.split.image(i, self.preprocess.channels)
        shape = self.preprocess.shape
        flat = image[..., 0] if image.shape[2] == 1 else image
        picture = Image.fromarray(flat).resize(shape[::-1], Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(*shape, -1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Pictures as they are, and their numbers."""
        return self.images[indices], self.targets[indices]


class ValNumbers(NumberImages):
    """Pictures as the network sees them, and their numbers."""

    def __getitems__(self, indices: list[int]) -> Batch:
        """float32 (N, C, H, W) and int64 (N, 6)."""
        images, targets = super().__getitems__(indices)
        return as_seen(images, self.preprocess), targets


class Digits(ImageTask):
    """Learns the length and the digits; digits that are not there teach nothing.

    Metrics: share of numbers that are right as a whole, share of right characters, share of
    pictures that can be answered with 98% accuracy, loss.
    """

    name = "digits"
    options = frozenset(
        {"randaugment", "color_jitter", "random_erasing", "flip", "crop", "crop_scale"}
    )

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__(network, data, recipe, preprocess)
        self._any_size = False  # the dense layers are built for one
        self.mean_loss = MeanMetric().set_dtype(torch.float64)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self.decode = self.signature.tail()

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """Our heads on each backbone that takes any size, and smaller pictures last."""
        return [
            ModelSpec(HEAD, size, {"backbone": s.name, "img_size": size}, s.weights)
            for size in SIZES
            for s in backbones(usual)
        ]

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """One recipe, from pretrained backbones or from scratch."""
        return "digits"

    @staticmethod
    def preprocessing(
        spec: ModelSpec, data: ImageDataset, stats: Stats | None = None
    ) -> Preprocess:
        """Stretched to the size that the network is built for, a square as in the paper."""
        mean, std = input_stats(spec, data, stats)
        built = spec.kwargs.get("img_size", BUILT_FOR.get(spec.name, spec.size))
        if not isinstance(built, int):  # random crops are squares
            raise UsageError(f"img_size {built} given; one number expected, such as {SIZES[0]}")
        return Preprocess(built, data.channels, mean, std, fit="stretch")

    def train_source(self, limit: int | None = None) -> Any:
        """The training pictures, or the first `limit` of them."""
        split = self.train_split(limit)
        key = ("train", self.preprocess)
        return once(split, key, lambda: NumberImages(split, self.preprocess))

    def val_source(self, split: Split | None = None) -> Any:
        """The validation pictures, or those of another split."""
        chosen = split or self.data.val
        key = ("val", self.preprocess)
        return once(chosen, key, lambda: ValNumbers(chosen, self.preprocess))

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """-log P(number | picture), the mean over the batch."""
        logits = NumberLogits(*(part.float() for part in outputs))
        eleven = logits.digits.shape[-1] > 10
        return number_loss(logits, targets[:, 0], targets[:, 1:], eleven)

    def outputs(self, images: Tensor) -> Any:
        """The network's logits."""
        return NumberLogits(*super().outputs(images))

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Take a batch into loss and counts."""
        images, targets = batch
        logits = self.outputs(images)
        self.mean_loss.update(self.loss(logits, targets), len(targets))
        number, confidence = self.decode(images, *logits)
        self.seen.append((number.cpu(), confidence.cpu(), targets[:, 1:].cpu()))

    def metrics(self) -> dict[str, float]:
        """Over all pictures at once."""
        loss = float(self.mean_loss.compute())
        self.mean_loss.reset()
        parts = [_gathered(torch.cat(part)) for part in zip(*self.seen, strict=True)]
        self.seen.clear()
        number, confidence, truth = (part.numpy() for part in parts)
        right = (number == truth).all(1)
        return {
            "val/loss": loss,
            "val/sequence": float(right.mean()),
            "val/character": character_accuracy(number, truth),
            "val/coverage98": coverage_at(SURE, confidence, right),
        }


def _gathered(part: Tensor) -> Tensor:
    """Those of all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return part
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part)
    return torch.cat(parts)


LEARNER = Digits
