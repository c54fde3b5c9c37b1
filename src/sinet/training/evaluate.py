"""Validation of a task's network, or of another network in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: str) -> torch.autocast:
    """Mixed precision of a recipe on a kind of device; does nothing for fp32."""
    return torch.autocast(device, _AMP.get(precision), enabled=precision in _AMP)


@contextmanager
def standing_in(task: pl.LightningModule, network: nn.Module) -> Iterator[None]:
    """Let `network` be the task's network for a while, in evaluation mode."""
    own, training = task.network, task.training
    task.network = network
    task.eval()
    try:
        yield
    finally:
        task.network = own
        task.train(training)


def evaluate(
    task: pl.LightningModule, network: nn.Module, batches: Iterable[Any], precision: str = "fp32"
) -> dict[str, float]:
    """The task's validation metrics of `network` over all batches (and over all processes)."""
    amp = autocast(task.device.type, precision)
    with standing_in(task, network), torch.inference_mode(), amp:
        for index, batch in enumerate(batches):
            moved = task.transfer_batch_to_device(batch, task.device, 0)
            task.validation_step(moved, index)
        metrics: dict[str, float] = task.metrics()
    return metrics
