"""Training: one function from a network, data and a recipe to a trained model in a folder.

Lightning runs the steps; here is what it runs them with. Everything is a function of the seed and
the step, so that a run that was killed resumes exactly where it was.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.models.weights import load_weights
from sinet.training.average import Average, moving_average
from sinet.training.checkpoint import AtomicCheckpoints, Keeper, check_same_run
from sinet.training.evaluate import evaluate
from sinet.training.journal import Display, Journal
from sinet.training.loader import Order, Source, TrainBatches, derived_seed, eval_batches
from sinet.training.optimizer import build_optimizer, clip_gradients, freeze
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained, finished, save_weights

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class TaskFactory(Protocol):
    """A task's class; what it makes is a LightningModule as `sinet.tasks.base` describes."""

    def __call__(
        self, network: nn.Module, data: Any, recipe: Recipe, preprocess: Preprocess
    ) -> Any:
        """Make the task."""
        ...


def train(
    spec: ModelSpec,
    data: ImageDataset,
    recipe: Recipe,
    out: Path,
    *,
    preprocess: Preprocess,
    task: TaskFactory,
    init: Path | None = None,
    resume: bool = True,
    workers: int = 0,
    device: str = "auto",
    strategy: str = "auto",
    progress: bool = True,
) -> Trained:
    """Train a network; what comes of it lies in `out`.

    `out` receives `metrics.csv`, `checkpoints/last.ckpt`, `weights.safetensors` (the averaged
    weights where the recipe averages) and `trained.json`. Called again with the same arguments, it
    goes on from the checkpoint, or gives back the finished training. Started by `torchrun`, it
    uses all processes.

    Args:
        spec: the network and its starting weights.
        data: the images.
        recipe: how it learns.
        out: folder of the run.
        preprocess: what happens to an image before the network sees it.
        task: what is learned, such as `sinet.tasks.Classify`.
        init: weights, or the folder of an earlier training, to start from instead of the spec's.
        resume: go on from the checkpoint in `out` if there is one.
        workers: processes that read images; with decoded images in memory none is best.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        strategy: `auto` (DDP when there are several processes), `ddp` or `fsdp`.
        progress: show the progress on the terminal.

    Raises:
        Interrupted: stopped by Ctrl-C; the checkpoint is saved.
        UsageError: the checkpoint is broken or of another run, or the recipe does not fit.
        SinetError: the loss became infinite, or a file could not be written.
    """
    described = describe_run(spec, data, recipe, preprocess, init)
    checkpoint = out / "checkpoints" / "last.ckpt"
    resuming = resume and checkpoint.is_file()
    if resuming:
        check_same_run(checkpoint, described)
        if finished(out):
            return Trained.load(out)
    forget_result(out)
    torch.manual_seed(recipe.seed)
    network = build_network(spec, data, recipe, init, load=not resuming)
    module = task(network, data, recipe, preprocess)
    run = _Run(module, recipe, out, described, workers, progress)
    with _quiet():
        trainer = make_trainer(recipe, out, device, strategy, run.callbacks)
        run.fit(trainer, checkpoint if resuming else None)
        metrics = run.validate()
    return run.result(spec, data, preprocess, init, metrics, trainer.is_global_zero)


class _Run:
    """The pieces of one training that belong together: task, batches, callbacks."""

    def __init__(
        self,
        task: Any,
        recipe: Recipe,
        out: Path,
        described: dict[str, Any],
        workers: int,
        progress: bool,
    ) -> None:
        self.task, self.recipe, self.out, self.workers = task, recipe, out, workers
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        source, val_source = task.source("train"), task.source("val")
        self.order = Order(
            len(source), recipe.batch_size, recipe.epochs, recipe.seed, rank, world
        )
        task.total_steps = self.order.steps
        self.batches = TrainBatches(source, self.order, workers, torch.cuda.is_available())
        self.val_batches = eval_batches(
            val_source, recipe.batch_size, rank=rank, world=world, workers=workers
        )
        self.average = Average(recipe) if recipe.ema else None
        per_epoch = self.order.steps_per_epoch
        self.journal = Journal(out / "metrics.csv", self.order.steps, per_epoch, self.validate)
        self.keeper = Keeper(out / "checkpoints" / "last.ckpt", described, per_epoch)
        display = [Display(self.journal)] if progress and rank == 0 else []
        average = [self.average] if self.average else []
        # In this order: the average is what is validated, and the checkpoint has both.
        self.callbacks: list[pl.Callback] = [*average, self.journal, *display, self.keeper]

    def validate(self) -> dict[str, float]:
        """Validation metrics of the weights that are kept."""
        network = self.average.network if self.average else self.task.network
        return evaluate(self.task, network, self.val_batches, self.recipe.precision)
