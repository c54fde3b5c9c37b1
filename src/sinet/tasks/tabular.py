"""Tables: self-normalizing networks of several depths, and one with batch normalisation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score

from sinet.data.columns import Columns, TableModule
from sinet.data.dataset import ImageDataset, Split
from sinet.data.preprocess import Preprocess
from sinet.data.rows import TableSplit
from sinet.models.spec import ModelSpec
from sinet.tasks.base import Batch, once
from sinet.tasks.classify import Classify
from sinet.training.recipe import Recipe

DEPTHS = (8, 4, 16)
"""Hidden layers; the article's SNNs that validation chose had 11 on average."""
WIDTH, WIDEST = 128, 256
"""Units of all layers, and of the first where they shrink towards the outputs."""


class Rows:
    """Rows as the network sees them, float32 (N, channels), and their classes."""

    def __init__(self, split: Split, preprocess: Columns) -> None:
        assert isinstance(split, TableSplit)
        codes = torch.from_numpy(preprocess.codes(split.table()))
        self.rows = TableModule(preprocess)(codes)
        self.labels = torch.from_numpy(split.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch."""
        return self.rows[indices], self.labels[indices]


class Tabular(Classify):
    """Learns the class of a row; loss and training are those of pictures.

    Metrics: accuracy, macro F1, loss, and the area under the ROC curve of each class against the
    others, its mean by how often the classes occur.
    """

    name = "tabular"
    options = frozenset({"label_smoothing"})

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__(network, data, recipe, preprocess)
        self.scores = _scores(data.num_classes)

    @staticmethod
    def typical(data: ImageDataset) -> tuple[int, ...]:
        """The number of columns."""
        return (_columns(data).size,)

    @staticmethod
    def stats(data: ImageDataset) -> Any:
        """The columns of the training rows, with all their statistics."""
        return _columns(data)

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """SNNs, then a network with batch normalisation."""
        size = _columns(data).size
        conic = {"width": WIDEST, "form": "conic"}
        options: list[dict[str, Any]] = [{"depth": d, "width": WIDTH} for d in DEPTHS]
        options += [{"depth": d, **conic} for d in DEPTHS]
        snns = [ModelSpec("table_snn", size, chosen) for chosen in options]
        return [*snns, ModelSpec("table_batchnorm", size, {"depth": min(DEPTHS), "width": WIDTH})]

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """One recipe."""
        return "tabular"

    @staticmethod
    def preprocessing(spec: ModelSpec, data: ImageDataset, stats: Any = None) -> Preprocess:
        """The same for every network."""
        found: Columns = stats or _columns(data)
        return found

    @property
    def columns(self) -> Columns:
        """The preprocessing, by its kind."""
        assert isinstance(self.preprocess, Columns)
        return self.preprocess

    def train_source(self, limit: int | None = None) -> Any:
        """The training rows, or the first `limit` of them."""
        return _rows(self.train_split(limit), self.columns)

    def val_source(self, split: Split | None = None) -> Any:
        """The validation rows, or those of another split."""
        return _rows(split or self.data.val, self.columns)

    def metrics(self) -> dict[str, float]:
        """Over all rows at once; a class that none of them has weighs nothing."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No positive samples in targets")
            return super().metrics()

    def augment(self, batch: Any, size: int) -> tuple[Tensor, Tensor]:
        """Rows as they are."""
        rows, labels = batch
        return rows, labels

    def ordered(self, images: Tensor) -> Tensor:
        """As they are: rows have one order."""
        return images


def _columns(data: ImageDataset) -> Columns:
    assert isinstance(data.train, TableSplit)
    return data.train.columns


def _rows(split: Split, columns: Columns) -> Rows:
    found: Rows = once(split, columns, lambda: Rows(split, columns))
    return found


def _scores(classes: int) -> MetricCollection:
    return MetricCollection({
        "val/top1": MulticlassAccuracy(num_classes=classes, average="micro"),
        "val/f1": MulticlassF1Score(num_classes=classes, average="macro"),
        "val/auc": MulticlassAUROC(num_classes=classes, average="weighted"),
    })  # fmt: skip


LEARNER = Tabular
