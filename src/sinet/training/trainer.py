"""Lightning's Trainer as training uses it, and its silence."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from sinet.errors import UsageError, unknown
from sinet.training.checkpoint import AtomicCheckpoints
from sinet.training.recipe import Recipe
from sinet.training.sharded import Sharded

_PRECISIONS: dict[str, Any] = {"fp32": "32-true", "fp16": "16-mixed"}


class Bf16(MixedPrecision):  # type: ignore[misc]
    """Mixed precision whose gradients are not scaled, so that they can be clipped as they are.

    Lightning refuses to clip for a fused optimizer, which may scale by itself; here none does.
    """

    def clip_gradients(self, *args: Any, **kwargs: Any) -> None:
        """Scale the gradients down to the largest norm that is allowed."""
        Precision.clip_gradients(self, *args, **kwargs)


def make_trainer(
    recipe: Recipe,
    out: Path,
    steps: int,
    callbacks: list[pl.Callback],
    *,
    device: str = "auto",
    strategy: str = "auto",
    accumulate: int = 1,
) -> pl.Trainer:
    """Lightning's Trainer for this device and, under torchrun, these processes.

    Args:
        recipe: how it learns.
        out: folder of the run.
        steps: optimizer steps.
        callbacks: what is done besides.
        device: as of `train`.
        strategy: as of `train`.
        accumulate: parts of a batch whose gradients are added up to a step.

    Raises:
        UsageError: the device is not there, or the recipe does not fit it.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    accelerator, devices = accelerator_for(device)
    if recipe.precision == "fp16" and accelerator == "cpu":
        raise UsageError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if strategy not in {"auto", "ddp", "fsdp"}:
        raise unknown("strategy", strategy, ("auto", "ddp", "fsdp"))
    if strategy == "fsdp":
        _check_sharded(recipe, world)
    if strategy == "auto" and world > 1:
        strategy = "ddp"
    mixed = [Bf16("bf16-mixed", accelerator)] if recipe.precision == "bf16" else []
    return pl.Trainer(
        accelerator=accelerator,
        devices=local if world > 1 else devices,
        num_nodes=max(1, world // local),
        strategy=Sharded(world) if strategy == "fsdp" else strategy,
        precision=_PRECISIONS.get(recipe.precision),
        sync_batchnorm=world > 1 and accelerator == "cuda",  # PyTorch has it for GPUs only
        max_epochs=1,  # one stream of batches; see loader.py
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=recipe.grad_clip or None,
        plugins=[AtomicCheckpoints(), *mixed],
        callbacks=callbacks,
        logger=TensorBoardLogger(out, name="tensorboard", version=""),
        default_root_dir=out,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )


def _check_sharded(recipe: Recipe, world: int) -> None:
    """Raise UsageError where weights that are spread over processes do not fit the recipe."""
    if recipe.ema:
        raise UsageError("strategy fsdp spreads the weights over devices; set ema=0 with it")
    if recipe.optimizer == "muon":
        raise UsageError(
            "optimizer muon looks at whole matrices, of which strategy fsdp gives each process a "
            "share; use adamw or sgd, or --strategy ddp"
        )
    if world == 1:
        raise UsageError(
            "strategy fsdp spreads the weights over several processes, and this is the only one; "
            "start it with torchrun --nproc-per-node N -m sinet train ..., or use --strategy auto"
        )


def accelerator_for(device: str) -> tuple[str, int | list[int]]:
    """Lightning's words for a device: its kind, and how many or which.

    Raises:
        UsageError: unknown, or not available here.
    """
    kind, _, number = device.partition(":")
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if kind == "auto":
        kind = next(name for name, available in there.items() if available)
    if kind not in there:
        raise unknown("device", device, ("auto", *there))
    if not there[kind]:
        raise UsageError(f"device {device!r} is not available here; use --device auto or cpu")
    if number and not number.isdigit():
        raise UsageError(f"device {device!r}: expected a number after the colon, as in cuda:1")
    return kind, [int(number)] if number else 1


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's tips from the terminal: what matters here is said by the journal."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
