"""Batches by step: which images a step sees depends on (seed, step) alone.

One stream runs through the whole training, so that a resumed run goes on with exactly the next
batch, and the processes of a distributed run take slices of the same global batch. How many
processes there are, and in how many parts each takes its slice, may change when a run is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sinet.errors import DataError, UsageError


def derived_seed(*key: int) -> int:
    """A 32-bit seed that is a function of all the numbers of `key`."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class Order(Sampler[list[int]]):
    """Index lists, `accumulate` a step: each epoch is a permutation given by (seed, epoch).

    The last images of an epoch that do not fill a batch are left out; which they are changes with
    the epoch. A data set smaller than the batch is one batch.

    Args:
        images: number of training images.
        batch_size: images per step over all processes.
        epochs: passes over the images, may be a fraction.
        seed: of the permutations.
        rank: this process, which gets slice `rank` of each batch.
        world: number of processes.
        accumulate: parts in which a process takes its slice, one after the other.

    Raises:
        UsageError: the batch cannot be divided among the processes and their parts.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        epochs: float,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.images, self.seed, self.accumulate = images, seed, accumulate
        self.batch = min(batch_size, images)
        if accumulate < 1 or self.batch % (world * accumulate):
            raise UsageError(_indivisible(self.batch, world, accumulate))
        size = self.batch // (world * accumulate)
        first = rank * accumulate
        self.parts = [slice(i * size, (i + 1) * size) for i in range(first, first + accumulate)]
        self.steps_per_epoch = images // self.batch
        self.steps = max(1, round(epochs * self.steps_per_epoch))
        self.start = 0

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == self.start:
                shuffle = np.random.default_rng((self.seed, epoch))
                order = shuffle.permutation(self.images)
            batch = order[position * self.batch : (position + 1) * self.batch]
            for part in self.parts:
                yield batch[part].tolist()


def _indivisible(batch: int, world: int, accumulate: int) -> str:
    if accumulate < 1:
        return f"accumulate {accumulate}: a batch has at least 1 part"
    of_each = f", {accumulate} parts each" if accumulate > 1 else ""
    return (
        f"a batch of {batch} images cannot be divided among {world} processes{of_each}; "
        f"choose a batch_size that is a multiple of {world * accumulate} (no larger than the "
        "training set), or another number of processes"
    )


class Source(Protocol):
    """Images that are fetched a batch at a time, ready for a task's `augment`."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitems__(self, indices: list[int]) -> Any:
        """The batch of these images and their targets."""
        ...


class Batches:
    """The batches of these index lists, fetched here or by worker processes.

    Args:
        source: the images.
        lists: indices of each batch.
        workers: number of processes; 0 = none besides this one.
        pin_memory: whether they are on their way to a GPU.
    """

    def __init__(
        self,
        source: Source,
        lists: Sampler[list[int]] | Sequence[list[int]],
        workers: int,
        pin_memory: bool = False,
    ) -> None:
        self._loader = DataLoader(
            _Fetched(source),
            batch_sampler=lists,
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # the loader's own draws leave the global one untouched
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class TrainBatches:
    """The stream of training batches; its state in a checkpoint is the number of steps taken."""

    def __init__(self, source: Source, order: Order, workers: int, pin_memory: bool) -> None:
        self.order = order
        self.given = 0
        self._batches = Batches(source, order, workers, pin_memory)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        self.order.start = self.given // self.order.accumulate
        for batch in self._batches:
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of steps whose batches were given so far."""
        return {"step": self.given // self.order.accumulate}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after that many steps."""
        self.given = state["step"] * self.order.accumulate


def eval_batches(
    source: Source, batch_size: int, *, rank: int = 0, world: int = 1, workers: int = 0
) -> Batches:
    """All images once and in order, nearly equal batches, as many for every process."""
    count = world * max(1, -(-len(source) // (batch_size * world)))
    parts = np.array_split(np.arange(len(source)), count)[rank::world]
    return Batches(source, [part.tolist() for part in parts], workers)


class _Fetched(Dataset[Any]):
    """A source whose errors are values: a worker process cannot raise in the one that waits."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, indices: list[int]) -> Any:
        try:
            return self.source.__getitems__(indices)
        except DataError as error:
            return DataError(str(error))  # a plain one: others cannot be pickled


def _as_it_is(batch: Any) -> Any:
    return batch
