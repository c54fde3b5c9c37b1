"""Training: one function from a network, data and a recipe to a trained model in a folder.

Lightning runs the steps; here is what it runs them with. Everything is a function of the seed and
the step, so that a run that was killed resumes exactly where it was.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from torch import nn

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.models.weights import load_weights
from sinet.training.average import Average, moving_average
from sinet.training.checkpoint import (
    Keeper,
    check_same_run,
    read_checkpoint,
)
from sinet.training.distil import Distiller, Numbered
from sinet.training.evaluate import autocast, evaluate
from sinet.training.journal import Display, Journal
from sinet.training.loader import Order, Source, TrainBatches, eval_batches
from sinet.training.memory import keep_freed_memory
from sinet.training.optimizer import clip_gradients, freeze
from sinet.training.progress import Progress, Unfreezer
from sinet.training.recipe import Recipe
from sinet.training.teacher import Teacher, open_teacher, teacher_identity
from sinet.training.trained import (
    Trained,
    described_in,
    finished,
    forget,
    save_weights,
    weights_file,
)
from sinet.training.trainer import accelerator_for, make_trainer, quiet

_log = logging.getLogger(__name__)


class TaskFactory(Protocol):
    """A task's class; what it makes is a LightningModule as `sinet.tasks.base` describes."""

    def __call__(
        self, network: nn.Module, data: Any, recipe: Recipe, preprocess: Preprocess
    ) -> Any:
        """Make the task; its attribute `described`, if any, tells runs with it from others."""
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
    accumulate: int = 1,
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
        accumulate: parts in which a process takes its share of a batch, where memory is short.
        progress: show the progress on the terminal.

    Raises:
        Interrupted: stopped by Ctrl-C; the checkpoint is saved.
        UsageError: the checkpoint is broken or of another run, the recipe does not fit, or its
            teacher cannot teach this.
        SinetError: the loss became infinite, or a file could not be written.
    """
    described = describe_run(spec, data, recipe, preprocess, init)
    described |= getattr(task, "described", {})
    checkpoint = out / "checkpoints" / "last.ckpt"
    if resume and finished(out):
        check_same_run(out / "trained.json", _completed(described_in(out)), described)
        return Trained.load(out)
    resuming = resume and checkpoint.is_file()
    if resuming:
        saved = read_checkpoint(checkpoint).get("sinet", {})
        check_same_run(checkpoint, _completed(saved), described)
    teacher = open_teacher(recipe, data, preprocess) if recipe.teacher else None
    if not resuming and int(os.environ.get("RANK", 0)) == 0:
        checkpoint.unlink(missing_ok=True)
        forget(out)
    torch.manual_seed(recipe.seed)
    network = build_network(spec, data, recipe, preprocess.channels, load=not resuming and not init)
    if init and not resuming:
        load_weights(network, weights_file(init))
    learner = _learner(task, network, data, recipe, preprocess, teacher)
    run = _Run(learner, recipe, out, described, workers, accumulate, progress)
    with quiet():
        trainer = make_trainer(
            recipe,
            out,
            run.order.steps,
            run.callbacks,
            device=device,
            strategy=strategy,
            accumulate=accumulate,
        )
        with run.keeper.listening():
            trainer.fit(learner, run.batches, ckpt_path=checkpoint if resuming else None)
    trained = run.result(spec, data, preprocess, init)
    if trainer.is_global_zero:
        save_weights(run.finish.weights, out)
        trained.save(described)
    trainer.strategy.barrier()
    return trained


class _Run:
    """The pieces of one training that belong together: task, batches, callbacks."""

    def __init__(
        self,
        task: Any,
        recipe: Recipe,
        out: Path,
        described: dict[str, Any],
        workers: int,
        accumulate: int,
        progress: bool,
    ) -> None:
        self.task, self.recipe, self.out = task, recipe, out
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        source, val_source = _source(task), task.val_source()
        order = Order(
            len(source), recipe.batch_size, recipe.epochs, recipe.seed, rank, world, accumulate
        )
        task.total_steps = order.steps
        self.order = order
        self.batches = TrainBatches(source, order, workers, torch.cuda.is_available())
        self.val_batches = eval_batches(
            val_source, recipe.batch_size, rank=rank, world=world, workers=workers
        )
        self.average = Average(recipe) if recipe.ema else None
        self.journal = Journal(
            out / "metrics.csv", order.steps, order.steps_per_epoch, self.validate
        )
        self.keeper = Keeper(
            out / "checkpoints" / "last.ckpt", described, order.steps, order.steps_per_epoch
        )
        self.finish = _Finish(self.journal, self.average, order.steps)
        # In this order: the average is what is validated, the checkpoint has all of it, and the
        # display shows the last row too.
        self.callbacks: list[pl.Callback] = [
            Progress(task.network, recipe, order.steps),
            *([Unfreezer(task.network, recipe, order.steps)] if recipe.unfreeze else []),
            *([self.average] if self.average else []),
            self.journal,
            self.keeper,
            self.finish,
            *([Display(self.journal)] if progress and rank == 0 else []),
        ]

    def validate(self) -> dict[str, float]:
        """Validation metrics of the weights that are kept."""
        network = self.average.network if self.average else self.task.network
        return evaluate(self.task, network, self.val_batches, self.recipe.precision)

    def result(
        self, spec: ModelSpec, data: ImageDataset, preprocess: Preprocess, init: Path | None
    ) -> Trained:
        """What came of it."""
        row = self.journal.rows[-1]
        seconds = self.journal.training_seconds
        return Trained(
            spec=spec,
            preprocess=preprocess,
            recipe=self.recipe,
            classes=list(data.classes),
            class_ids=list(data.class_ids),
            multilabel=data.multilabel,
            channels=preprocess.channels,
            folder=self.out,
            metrics={key: value for key, value in row.items() if key.startswith("val/")},
            epochs=self.order.steps / self.order.steps_per_epoch,
            steps=self.order.steps,
            seconds=round(seconds, 3),
            images_per_second=round(self.order.steps * self.order.batch / max(seconds, 1e-9), 1),
            init=str(init or spec.weights or "scratch"),
            task=self.task.name,
        )


class _Finish(pl.Callback):  # type: ignore[misc]
    """When the last step is done: validate, and take the weights that are kept."""

    def __init__(self, journal: Journal, average: Average | None, steps: int) -> None:
        self.journal, self.average, self.steps = journal, average, steps
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Runs while the network is still on its device and the processes still talk."""
        if trainer.global_step < self.steps:
            return
        self.journal.add_row(trainer, self.journal.validate)
        if self.average is not None:
            self.weights = dict(self.average.network.state_dict())
        else:  # the strategy gathers what it has spread over the devices
            state = trainer.strategy.lightning_module_state_dict()
            prefix = "network."
            self.weights = {
                k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
            }


def build_network(
    spec: ModelSpec, data: ImageDataset, recipe: Recipe, channels: int, *, load: bool
) -> nn.Module:
    """The network with the recipe's dropout, drop path, frozen layers and memory order."""
    keep_freed_memory()
    rates = {"drop_rate": recipe.dropout, "drop_path_rate": recipe.drop_path}
    rates = {key: rate for key, rate in rates.items() if rate}
    classes = len(data.classes)
    try:
        network = spec.create(classes, channels, load=load, **rates)
    except UsageError:
        if not rates:
            raise
        known = {key: rate for key, rate in rates.items() if _takes(spec, channels, key, rate)}
        if known == rates:
            raise
        network = spec.create(classes, channels, load=load, **known)
        refused = " and ".join(key for key in rates if key not in known)
        _log.warning("%s has no %s: trained without", spec.name, refused)
    freeze(network, recipe.freeze)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network


def _takes(spec: ModelSpec, channels: int, option: str, rate: float) -> bool:
    """Whether the network can be built with this option alone."""
    try:
        spec.create(2, channels, load=False, **{option: rate})
    except UsageError:
        return False
    return True


def _learner(
    task: TaskFactory,
    network: nn.Module,
    data: ImageDataset,
    recipe: Recipe,
    preprocess: Preprocess,
    teacher: Teacher | None,
) -> Any:
    """The task in training mode, with its teacher if it has one."""
    learner = task(network, data, recipe, preprocess)
    if teacher is not None:
        learner.distil = Distiller(teacher, network, recipe, preprocess, data.multilabel)
    learner.train()
    return learner


def _source(task: Any, limit: int | None = None) -> Source:
    """What a task's steps learn from; see `ImageTask.training_step`."""
    source: Source = task.train_source(limit)
    return Numbered(source) if task.distil is not None and task.distil.once else source


def _completed(saved: dict[str, Any]) -> dict[str, Any]:
    """What a run says of itself, fields of the recipe that were not there yet at their default."""
    recipe = saved.get("recipe")
    return {**saved, "recipe": {**Recipe().to_dict(), **recipe}} if recipe else saved


def describe_run(
    spec: ModelSpec, data: ImageDataset, recipe: Recipe, preprocess: Preprocess, init: Path | None
) -> dict[str, Any]:
    """What makes two runs the same run, as plain values."""
    described = {
        "model": spec.to_dict(),
        "data": data.fingerprint(),
        "recipe": recipe.to_dict(),
        "preprocess": preprocess.to_dict(),
        "init": None if init is None else str(init),
    }
    if recipe.teacher:
        described["teacher"] = teacher_identity(recipe)
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def step_seconds(
    spec: ModelSpec,
    data: ImageDataset,
    recipe: Recipe,
    preprocess: Preprocess,
    *,
    task: TaskFactory,
    steps: int = 5,
) -> float:
    """Median seconds of an optimizer step as `train` would take it, on real images.

    Augmentation, forward, backward, optimizer and average are in it; two steps warm up. It is
    measured on the CPU or the first GPU, at the final image size. Slow steps are measured less
    often: after eight seconds what was measured must do.
    """
    torch.manual_seed(recipe.seed)
    kind, _ = accelerator_for("auto")
    network = build_network(spec, data, recipe, preprocess.channels, load=False)
    full = recipe.replace(progressive=1.0)
    teacher = open_teacher(recipe, data, preprocess) if recipe.teacher else None
    learner = _learner(task, network, data, full, preprocess, teacher).to(kind)
    optimizer = learner.configure_optimizers()["optimizer"]
    average = moving_average(learner.network, recipe) if recipe.ema else None
    source = _source(learner, limit=recipe.batch_size)
    batch = source.__getitems__(list(range(len(source))))
    batch = learner.transfer_batch_to_device(batch, learner.device, 0)
    seconds = []
    for step in range(steps + 2):
        start = time.perf_counter()
        with autocast(kind, recipe.precision):
            loss = learner.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(learner.network, recipe)
        optimizer.step()
        if average is not None:
            average.update(learner.network, step=step)
        if kind == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if step >= 2 and sum(seconds) > 8:
            break
    return statistics.median(seconds[2:])
