"""Batches by step: which images a step sees depends on (seed, step) alone.

One stream runs through the whole training, so that a resumed run goes on with exactly the next
batch, and the processes of a distributed run take slices of the same global batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sinet.errors import UsageError


def derived_seed(*key: int) -> int:
    """A 32-bit seed that is a function of all the numbers of `key`."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class Order(Sampler[list[int]]):
    """Index lists, one a step: each epoch is a permutation given by (seed, epoch).

    The last images of an epoch that do not fill a batch are left out; which they are changes with
    the epoch. A data set smaller than the batch is one batch.

    Args:
        images: number of training images.
        batch_size: images per step over all processes.
        epochs: passes over the images, may be a fraction.
        seed: of the permutations.
        rank: this process, which gets slice `rank` of each batch.
        world: number of processes.

    Raises:
        UsageError: the batch cannot be divided among the processes.
    """

    def __init__(
        self, images: int, batch_size: int, epochs: float, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.images, self.seed = images, seed
        self.batch = min(batch_size, images)
        if self.batch % world:
            raise UsageError(
                f"a batch of {self.batch} images cannot be divided among {world} processes; "
                f"choose a batch_size that is a multiple of {world}"
            )
        self.part = slice(rank * self.batch // world, (rank + 1) * self.batch // world)
        self.steps_per_epoch = images // self.batch
        self.steps = max(1, round(epochs * self.steps_per_epoch))
        self.start = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == self.start:
                shuffle = np.random.default_rng((self.seed, epoch))
                order = shuffle.permutation(self.images)
            batch = order[position * self.batch : (position + 1) * self.batch]
            yield batch[self.part].tolist()


class Source(Protocol):
    """Images that are fetched a batch at a time, ready for a task's `augment`."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitems__(self, indices: list[int]) -> Any:
        """The batch of these images and their targets."""
        ...


class TrainBatches:
    """The stream of training batches; its state in a checkpoint is the number of steps taken."""

    def __init__(self, source: Source, order: Order, workers: int, pin_memory: bool) -> None:
        self.order = order
        self.step = 0
        self._loader = _loader(source, order, workers, pin_memory)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        self.order.start = self.step
        for batch in self._loader:
            self.step += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of batches given so far."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after that many batches."""
        self.step = state["step"]


def eval_batches(
    source: Source, batch_size: int, *, rank: int = 0, world: int = 1, workers: int = 0
) -> DataLoader[Any]:
    """All images once and in order, nearly equal batches, as many for every process."""
    count = world * max(1, -(-len(source) // (batch_size * world)))
    parts = np.array_split(np.arange(len(source)), count)[rank::world]
    return _loader(source, [part.tolist() for part in parts], workers, False)


def _loader(
    source: Source, batches: Sampler[list[int]] | Sequence[list[int]], workers: int, pin: bool
) -> DataLoader[Any]:
    dataset: Dataset[Any] = source  # type: ignore[assignment]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),  # the loader's own draws leave the global one untouched
    )


def _as_it_is(batch: Any) -> Any:
    return batch
