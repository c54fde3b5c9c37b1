"""LightCNN: whether 14,862 parameters learn more in the article's two stages than plainly."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.measurement.cost import cost
from sinet.models.spec import ModelSpec
from sinet.papers._arms import Arm, Contest, beats, complete
from sinet.papers._claims import images
from sinet.papers.base import Card, Finding, Outcome, Published, Setting
from sinet.tasks.base import Batch
from sinet.tasks.classify import Classify
from sinet.training.loop import train
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

CARD = Card(
    slug="lightcnn",
    title="Building Efficient Lightweight CNN Models",
    authors="N. Isong",
    year=2025,
    venue="arXiv",
    url="https://arxiv.org/abs/2501.15547",
    licence="no code published; a reconstruction from the published counts, Apache-2.0",
    idea=(
        "Two tiny networks learn apart, one from the images and one from altered copies; a small "
        "head then learns to weigh their predictions while layers are freed from the back."
    ),
    equations=(
        "p_i = softmax(W2 relu(W1 flatten(conv3(conv2(conv1(x)))))), i = 1, 2",
        "logits = V2 relu(V1 [p_1, p_2] + c1) + c2",
    ),
    claims=(
        "14,862 parameters and 0.17 MB",
        "99 % on MNIST, 89 % on Fashion-MNIST; 65 % on CIFAR-10 with less than 20,000 parameters",
        "the two-stage training is better than plain training of as many epochs",
    ),
    models=("lightcnn", "lightcnn_cifar"),
    parity="no reference code; counts exact, groups equal to two separate branches to 1e-12",
    published={
        "lightcnn": Published(0.014862, None, 99),
        "lightcnn_cifar": Published(None, None, 65),
    },
    caveat=(
        "The top-1 is on MNIST (89 % on Fashion-MNIST) and on CIFAR-10, where the paper has less "
        "than 20,000 parameters."
    ),
)
SEEDS = (0, 1, 2)
RECIPE = Recipe(
    batch_size=128, lr=2e-3, weight_decay=0.0, warmup=0.05, crop="none", flip="none"
)  # what alters images is `altered`
SECOND = {"lr": 1e-3, "unfreeze": 0.85, "layer_decay": 0.7}
"""The second stage: head alone, then a layer more at a time, each at 0.7 of the rate before it."""
STAGES = (6.0, 6.0)
"""Epochs of both; of plain training the sum."""


def altered(images: Tensor) -> Tensor:
    """Copies turned by up to 0.1 turn, zoomed and moved by up to 10 %, 20 % brighter or darker.

    The article says which changes, not how large; these are the card's.

    Shape: (B, C, H, W), 0..255 -> the same, float32
    """
    turn, zoom, right, down, light = torch.rand(5, len(images)) * 2 - 1
    cos, sin = ((0.2 * math.pi * turn).cos(), (0.2 * math.pi * turn).sin())
    zoom, right, down = 1 + 0.1 * zoom, 0.2 * right, 0.2 * down  # a side is 2 long
    rows = torch.stack((cos / zoom, -sin / zoom, right, sin / zoom, cos / zoom, down), 1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid.to(images.device), align_corners=False)
    bright = (1 + 0.2 * light).view(-1, 1, 1, 1).to(images.device)
    return torch.clamp(moved * bright, 0, 255)


class HalfAltered(Classify):
    """Learns from images of which half, drawn anew each time, are altered."""

    def augment(self, batch: Batch, size: int) -> tuple[Tensor, Tensor]:
        """Each image as it is, or altered."""
        images, targets = batch
        chosen = (torch.rand(len(images)) < 0.5).view(-1, 1, 1, 1).to(images.device)
        return super().augment((images.float().where(~chosen, altered(images)), targets), size)


class DualInput(Classify):
    """Stage 1: each branch learns apart, one from the images and one from altered copies."""

    def augment(self, batch: Batch, size: int) -> tuple[Tensor, Tensor]:
        """Both as one: (B, 2 C, size, size)."""
        images, targets = batch
        both = (super(DualInput, self).augment((x, targets), size)[0]
                for x in (images.float(), altered(images)))  # fmt: skip
        return torch.cat(tuple(both), 1), targets

    def learn(self, images: Tensor, targets: Tensor) -> Tensor:
        """The sum of both branches' losses."""
        branches: Any = self.network.branch_logits
        first, second = branches(*images.chunk(2, 1)).unbind(1)
        return self.loss(first, targets) + self.loss(second, targets)

    def logits(self, images: Tensor) -> Tensor:
        """What both say of the same image, averaged: the head has learned nothing yet."""
        branches: Any = self.network.branch_logits
        mean: Tensor = branches(images, images).softmax(-1).mean(1)
        return mean.log()


def learned(
    spec: ModelSpec,
    data: ImageDataset,
    recipe: Recipe,
    out: Path,
    device: str,
    task: type[Classify] = HalfAltered,
    init: Path | None = None,
) -> Trained:
    """One training or stage; a finished one is read.

    The article's two are `learned(..., first, DualInput)`, then `learned(..., init=first)` with
    `SECOND` in the recipe.
    """
    stats = (0.5,) * data.channels
    preprocess = Preprocess(spec.size, data.channels, stats, stats)
    return train(
        spec, data, recipe, out, preprocess=preprocess, task=task, init=init, device=device,
        progress=False,
    )  # fmt: skip


def whole(data: ImageDataset) -> ImageDataset:
    """All images to learn from, judged on the test images: nothing is chosen by the results."""
    if "test" not in data.splits:
        return data
    parts = [data.train, data.val]
    items: Any = [part.items for part in parts]
    arrays = all(isinstance(part, np.ndarray) for part in items)
    train = replace(
        data.train,
        items=np.concatenate(items) if arrays else [x for part in items for x in part],
        labels=np.concatenate([part.labels for part in parts]),
        names=[name for part in parts for name in part.names],
    )
    return replace(data, splits={"train": train, "val": data.test})


def reproduce(setting: Setting) -> list[Finding]:
    """Counts; the article's training against plain ones of as many epochs.

    All arms but the first stage see the same mix, in which half of the images are altered.
    """
    found = _Study.of(setting).found()
    against = ["end_to_end", "one_wide_network"]
    method = beats(
        CARD.claims[2], "not compared; the article credits its training", found, "two_stages",
        against,
    )  # fmt: skip
    freeing = beats(
        "in the second stage, freeing one layer at a time beats training all at once",
        "progressive unfreezing is part of the method; no comparison is given",
        found,
        "two_stages",
        ["all_at_once"],
    )
    return [_counts(), _accuracy(found), method, freeing]


ARMS = ("two_stages", "end_to_end", "all_at_once", "one_wide_network")


@dataclass(frozen=True)
class _Study:
    """The four arms: where, on what, how long."""

    setting: Setting
    data: ImageDataset
    seeds: tuple[int, ...]
    epochs: tuple[float, float]

    @classmethod
    def of(cls, setting: Setting) -> _Study:
        """All images and seeds, or few and one."""
        data = images(setting.data, setting.quick, 60_000)
        if setting.quick:
            return cls(setting, data, SEEDS[:1], (1.0, 1.0))
        return cls(setting, whole(data), SEEDS, STAGES)

    def spec(self, arm: str) -> ModelSpec:
        """The network, for grey images of 28 px or colour images of 32 px."""
        size = 28 if self.data.channels == 1 else 32
        if arm == "one_wide_network":
            return Arm(f"arm-{arm}", size, build=_single)
        return ModelSpec("lightcnn" if size == 28 else "lightcnn_cifar", size)

    def folder(self, arm: str, seed: int) -> Path:
        """Where a training lies."""
        return self.setting.work / f"{arm}-{seed}"

    def do(self, arm: str, seed: int) -> None:
        """Train an arm, or the stage that two arms begin with."""
        recipe, task, init = RECIPE.replace(seed=seed, epochs=sum(self.epochs)), HalfAltered, None
        if arm == "stage_1":
            recipe, task = recipe.replace(epochs=self.epochs[0]), DualInput
        elif arm in ("two_stages", "all_at_once"):
            recipe = recipe.replace(epochs=self.epochs[1], **SECOND)
            init = self.folder("stage_1", seed)
        if arm == "all_at_once":
            recipe = recipe.replace(unfreeze=0.0, layer_decay=1.0)
        where = self.folder(arm, seed)
        learned(self.spec(arm), self.data, recipe, where, self.setting.device, task, init)

    def found(self) -> Contest:
        """Train what is not trained yet; top-1 of the test images."""
        for arms in (("stage_1",), ARMS):
            order = [(arm, seed) for seed in self.seeds for arm in arms]
            complete(self.setting, order, lambda a, s: self.folder(a, s) / "trained.json", self.do)
        results = {arm: [Trained.load(self.folder(arm, s)) for s in self.seeds] for arm in ARMS}
        classes, channels = self.data.num_classes, self.data.channels
        costs = {
            arm: cost(self.spec(arm).create(classes, channels), self.spec(arm).size, channels)
            for arm in ARMS
        }
        conditions = {
            "params": {arm: c.params for arm, c in costs.items()},
            "macs": {arm: c.macs for arm, c in costs.items()},
            "data": self.data.root.name,
            "train_images": len(self.data.train),
            "val_images": len(self.data.val),
            "epochs": list(self.epochs),
            "size": self.spec("two_stages").size,
            "seeds": list(self.seeds),
        }
        top1 = {arm: [100 * t.metrics["val/top1"] for t in results[arm]] for arm in ARMS}
        return Contest(top1, conditions)


def _counts() -> Finding:
    """The published numbers that the reconstruction must meet."""
    measured: dict[str, float] = {}
    for name, size, channels in (("lightcnn", 28, 1), ("lightcnn_cifar", 32, 3)):
        found = cost(timm.create_model(name), size, channels)
        measured |= {f"{name}_params": found.params, f"{name}_macs": found.macs}
    megabytes = measured["lightcnn_params"] * 12 / 2**20  # with Adam's two moments
    fits = measured["lightcnn_params"] == 14_862 and measured["lightcnn_cifar_params"] < 20_000
    return Finding(
        CARD.claims[0],
        "14,862 parameters, 0.17 MB; CIFAR-10 less than 20,000 parameters",
        {**measured, "checkpoint_mib": megabytes},
        "confirmed" if fits and round(megabytes, 2) == 0.17 else "refuted",
        f"{measured['lightcnn_params']:,} and {measured['lightcnn_cifar_params']:,} parameters; "
        f"{megabytes:.3f} MiB with the optimizer's state, a third of it without",
    )


def _accuracy(found: Contest) -> Finding:
    """The article's figure for Fashion-MNIST; decided only on all of its images."""
    mean = found.mean("two_stages")
    verdict: Outcome = "not decided"
    if len(found.top1["two_stages"]) > 1 and found.conditions["train_images"] >= 54_000:
        verdict = "confirmed" if mean >= 88.5 else "refuted"
    return Finding(
        "at least 88.5 % on Fashion-MNIST by the two-stage training",
        "89 % after the two-stage training on 60,000 images",
        {"top1": dict(found.top1), **found.conditions},
        verdict,
        f"{mean:.2f}% by two stages of {found.conditions['epochs']} epochs on "
        f"{found.conditions['train_images']} images",
    )


def _single(num_classes: int, in_chans: int) -> nn.Module:
    """One branch of about as many parameters, its last layer the classifier."""
    widths = (in_chans, 12, 24, 48)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(48, 28), nn.ReLU(), nn.Linear(28, num_classes)
    )
