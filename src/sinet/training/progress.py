"""What changes while a network learns: how often paths are dropped, and which layers learn.

Both are functions of the step alone, so that a resumed training goes on with what it had.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from timm.layers import DropPath
from torch import nn

from sinet.errors import UsageError
from sinet.training.optimizer import layer_groups
from sinet.training.recipe import Recipe


class Progress(pl.Callback):  # type: ignore[misc]
    """Tells how far the training is: `drop_path` grows with it where the recipe or network says so.

    A module with a method `set_progress(share)` is told the share, 0..1, before each step (NASNet's
    drop paths); with `drop_path_ramp` the rates of all of timm's `DropPath` grow alike. The share
    is 1 when `drop_path_ramp` of the steps are done, or all of them.

    Args:
        network: what learns.
        recipe: how.
        steps: of the whole training.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, steps: int) -> None:
        self.steps = steps * (recipe.drop_path_ramp or 1.0)
        self.told: list[Any] = [m for m in network.modules() if hasattr(m, "set_progress")]
        paths = [m for m in network.modules() if isinstance(m, DropPath) and m not in self.told]
        self.rates = [(m, m.drop_prob) for m in paths] if recipe.drop_path_ramp else []

    def on_train_batch_start(
        self, trainer: pl.Trainer, task: pl.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Set the rates of this step."""
        share = min(1.0, trainer.global_step / self.steps)
        for module in self.told:
            module.set_progress(share)
        for path, rate in self.rates:
            path.drop_prob = rate * share


class Unfreezer(pl.Callback):  # type: ignore[misc]
    """Progressive unfreezing: layer groups learn from the classifier backwards, one more at a time.

    At step 0 the last group learns alone; at equal distances the group before it joins, until after
    the share `unfreeze` of the steps all learn that `freeze` does not keep. BatchNorms of frozen
    groups stay in evaluation mode (see `fixed_norms`).

    Args:
        network: what learns.
        recipe: how.
        steps: of the whole training.

    Raises:
        UsageError: the network does not name its layer groups.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, steps: int) -> None:
        self.group = layer_groups(network, "unfreeze")
        self.last, self.lowest = max(self.group.values()), recipe.freeze
        self.steps = recipe.unfreeze * steps
        self._first = -1

    def first(self, step: int) -> int:
        """The lowest group that learns at this step."""
        joined = int(step / self.steps * (self.last - self.lowest))
        return max(self.lowest, self.last - joined)

    def setup(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
        """Refuse several processes: they agree at the start on what learns, and only then.

        Raises:
            UsageError: there are several.
        """
        if trainer.world_size > 1:
            raise UsageError(
                f"unfreeze works in one process, not in {trainer.world_size}; set unfreeze=0, or "
                "train without torchrun"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, task: pl.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Free what learns from this step on."""
        first = self.first(trainer.global_step)
        if first == self._first:
            return
        self._first = first
        for name, parameter in task.network.named_parameters():
            parameter.requires_grad_(self.group[name] >= first)
        task.train()
