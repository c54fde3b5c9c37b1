"""Classification, with one label per image or several."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)
from torchvision.transforms import v2

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.tasks.base import Batch, ImageTask
from sinet.training.recipe import Recipe


class Classify(ImageTask):
    """Learns a network with one output per class.

    One label per image: softmax, cross-entropy, metrics top1, top5 (with more than five classes)
    and macro f1. Several labels: sigmoid, binary cross-entropy, metrics map and macro f1.
    """

    name = "classify"
    options = frozenset({
        "label_smoothing", "mixup", "cutmix", "mix_prob", "randaugment", "color_jitter",
        "random_erasing", "flip", "crop", "crop_scale", "progressive", "tta", "teacher",
    })  # fmt: skip

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__(network, data, recipe, preprocess)
        self.multilabel = data.multilabel
        self.mixers = _mixers(recipe, len(data.classes))
        self.scores = MetricCollection(_scores(len(data.classes), self.multilabel))
        self.mean_loss = MeanMetric()

    def augment(self, batch: Batch, size: int) -> tuple[Tensor, Tensor]:
        """Augmented images, and targets that are soft where images are blended."""
        images, targets = super().augment(batch, size)
        mixers = self.mixers
        if not mixers or len(images) < 2 or torch.rand(()) >= self.recipe.mix_prob:
            return images, targets
        mixer = mixers[int(torch.randint(len(mixers), ()))]
        # all frames of a clip are blended alike: to the mixer they are channels
        mixed, soft = mixer(images.flatten(1, -3), targets)
        return mixed.view_as(images), soft

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with the recipe's label smoothing; binary for several labels."""
        smoothing = self.recipe.label_smoothing
        if self.multilabel:
            soft = targets * (1 - smoothing) + 0.5 * smoothing
            return F.binary_cross_entropy_with_logits(outputs, soft)
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def logits(self, images: Tensor) -> Tensor:
        """What the network says of each class, (B, classes)."""
        logits: Tensor = self.outputs(images)
        return logits

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Take a batch into loss and metrics."""
        images, targets = batch
        outputs = self.logits(images)
        if self.multilabel:
            loss = F.binary_cross_entropy_with_logits(outputs, targets)
            self.scores.update(outputs.sigmoid(), targets.long())
        else:
            loss = F.cross_entropy(outputs, targets)
            self.scores.update(outputs, targets)
        self.mean_loss.update(loss, len(targets))

    def metrics(self) -> dict[str, float]:
        """`val/loss` and the scores, each over all images at once."""
        values = {"val/loss": self.mean_loss.compute(), **self.scores.compute()}
        self.mean_loss.reset()
        self.scores.reset()
        return {name: float(value) for name, value in values.items()}


def _mixers(recipe: Recipe, classes: int) -> list[nn.Module]:
    """MixUp and CutMix as the recipe has them; one is drawn for a batch."""
    kinds = ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
    return [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]


def _scores(classes: int, multilabel: bool) -> dict[str, Metric]:
    if multilabel:
        return {
            "val/map": MultilabelAveragePrecision(num_labels=classes),
            "val/f1": MultilabelF1Score(num_labels=classes, average="macro"),
        }
    scores = {
        "val/top1": MulticlassAccuracy(num_classes=classes, average="micro"),
        "val/f1": MulticlassF1Score(num_classes=classes, average="macro"),
    }
    if classes > 5:
        scores["val/top5"] = MulticlassAccuracy(num_classes=classes, average="micro", top_k=5)
    return scores


LEARNER = Classify
