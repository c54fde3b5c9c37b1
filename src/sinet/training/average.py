"""The exponential moving average of the weights, as a Lightning callback."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from timm.utils import ModelEmaV3
from torch import nn

from sinet.training.checkpoint import stepped
from sinet.training.recipe import Recipe


def moving_average(network: nn.Module, recipe: Recipe) -> ModelEmaV3:
    """An average of parameters and buffers whose decay warms up to the recipe's.

    The warm-up (1 - (1 + step) ^ -2/3) makes one decay serve short and long trainings. BatchNorm
    statistics are averaged like the weights they belong to; counters are copied.
    """
    return ModelEmaV3(network, decay=recipe.ema, use_warmup=True)


class Average(pl.Callback):  # type: ignore[misc]
    """Keeps the moving average of `task.network`, in the checkpoint too."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.ema: ModelEmaV3 | None = None
        self._state: dict[str, Any] | None = None

    @property
    def network(self) -> nn.Module:
        """The averaged network, in evaluation mode."""
        assert self.ema is not None, "the average exists once training has started"
        network: nn.Module = self.ema.module
        return network

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Copy the weights (they are on their device by now), or those of the checkpoint."""
        self.ema = moving_average(task.network, self.recipe)
        if self._state is not None:
            self.ema.module.load_state_dict(self._state)
            self._state = None

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        task: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take the new weights into the average."""
        assert self.ema is not None
        if stepped(trainer, batch_idx):
            self.ema.update(task.network, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return {} if self.ema is None else dict(self.ema.module.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the averaged weights until training starts."""
        self._state = state_dict
