"""FSDP: the processes share gradients and the optimizer's state between them.

PyTorch's `fully_shard` on the network as a whole: each process keeps a share of every weight, of
its gradient and of what the optimizer remembers of it, and gathers the weights for a step. What is
saved is one file in the form that a single process writes, so that either resumes the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from sinet.training.checkpoint import read_checkpoint


class Sharded(ModelParallelStrategy):  # type: ignore[misc]
    """Lightning's strategy for FSDP, for tasks that need not know of it.

    Args:
        world: number of processes.
    """

    def __init__(self, world: int) -> None:
        super().__init__(world, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Start the processes' group; Lightning then asks the task to spread its network."""
        super().setup_environment()
        self.lightning_module.configure_model = self._spread

    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        """Make the task's optimizer, which learns a share of the weights."""
        super().setup_optimizers(trainer)
        self._take_apart()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Its state with whole tensors, weights numbered as a single process numbers them.

        Lightning's own numbers them in another order, which only it reads back rightly.
        """
        plain = optimizer.optimizer if hasattr(optimizer, "optimizer") else optimizer
        state: dict[str, Any] = tree_map_only(
            DTensor, lambda share: share.full_tensor().cpu(), plain.state_dict()
        )
        return state

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint of any number of processes; each takes its share."""
        checkpoint = read_checkpoint(Path(checkpoint_path))
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=whole)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            shares = {i: _shares(state, weights[i]) for i, state in saved["state"].items()}
            optimizer.load_state_dict({**saved, "state": shares})
        self._take_apart()
        return checkpoint

    def _take_apart(self) -> None:
        """Not one kernel for all weights: PyTorch 2.15 has none for shares of them with SGD."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["fused"] = False

    def _spread(self) -> None:
        network = self.lightning_module.network
        network.to(self.root_device)
        network.to(memory_format=torch.contiguous_format)  # nothing else can be cut into shares
        fully_shard(network, mesh=self.device_mesh["data_parallel"])


def _shares(state: dict[str, Any], weight: Any) -> dict[str, Any]:
    """What an optimizer remembers of a weight, spread as the weight is."""
    return {
        key: distribute_tensor(value, weight.device_mesh, weight.placements)
        if isinstance(value, torch.Tensor) and value.shape == weight.shape and weight.ndim
        else value
        for key, value in state.items()
    }
