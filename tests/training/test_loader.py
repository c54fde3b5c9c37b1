from __future__ import annotations

import numpy as np
import pytest

from sinet.data.image import ImageError
from sinet.errors import DataError, UsageError
from sinet.training.loader import Order, TrainBatches, eval_batches


class Numbers:
    """A source whose images are their own indices."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: list[int]) -> list[int]:
        return list(indices)


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    batches = list(Order(12, 4, epochs=2, seed=0))
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first.tolist() != second.tolist()


def test_the_order_is_that_of_the_seed() -> None:
    assert list(Order(12, 4, 2, seed=1)) == list(Order(12, 4, 2, seed=1))
    assert list(Order(12, 4, 2, seed=1)) != list(Order(12, 4, 2, seed=2))


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "steps"),
    [(12, 4, 2, 6), (13, 4, 2, 6), (3, 8, 2, 2), (12, 4, 0.5, 2), (12, 4, 0.001, 1)],
)
def test_number_of_steps(images: int, batch: int, epochs: float, steps: int) -> None:
    order = Order(images, batch, epochs, seed=0)
    assert len(order) == len(list(order)) == steps


def test_processes_share_the_global_batch() -> None:
    whole = list(Order(24, 8, 1, seed=0))
    parts = [list(Order(24, 8, 1, seed=0, rank=rank, world=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_an_indivisible_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 2"):
        Order(24, 7, 1, seed=0, world=2)


@pytest.mark.parametrize(("world", "parts"), [(1, 2), (2, 2), (4, 1)])
def test_parts_of_a_slice_make_the_global_batch(world: int, parts: int) -> None:
    whole = list(Order(24, 8, 1, seed=0))
    orders = [Order(24, 8, 1, 0, rank, world, parts) for rank in range(world)]
    assert {order.steps for order in orders} == {3}
    assert {len(order) for order in orders} == {3 * parts}
    lists = [list(order) for order in orders]
    for step, batch in enumerate(whole):
        slices = [some[step * parts : (step + 1) * parts] for some in lists]
        assert [i for part in slices for some in part for i in some] == batch


@pytest.mark.parametrize(("world", "parts"), [(2, 2), (1, 3), (3, 1)])
def test_indivisible_parts_are_refused(world: int, parts: int) -> None:
    with pytest.raises(UsageError, match=f"a batch of 7 images .*multiple of {world * parts} "):
        Order(7, 8, 1, seed=0, world=world, accumulate=parts)


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_resumed_stream_goes_on_with_the_next_batch(stop: int) -> None:
    whole = list(TrainBatches(Numbers(12), Order(12, 4, 3, seed=0), 0, False))
    first = TrainBatches(Numbers(12), Order(12, 4, 3, seed=0), 0, False)
    stream = iter(first)
    begun = [next(stream) for _ in range(stop)]
    second = TrainBatches(Numbers(12), Order(12, 4, 3, seed=0), 0, False)
    second.load_state_dict(first.state_dict())
    assert begun + list(second) == whole


def test_the_order_over_the_whole_is_the_same_whatever_processes_took_it() -> None:
    """Two processes, then one, then one whose batches are in parts, then two again."""
    whole = list(Order(12, 4, 4, seed=0))
    seen: list[list[int]] = []
    state = {"step": 0}
    for world, parts, steps in ((2, 1, 2), (1, 1, 3), (1, 4, 3), (2, 2, 4)):
        slices: list[list[int]] = [[] for _ in range(steps)]
        for rank in range(world):
            order = Order(12, 4, 4, seed=0, rank=rank, world=world, accumulate=parts)
            batches = TrainBatches(Numbers(12), order, 0, False)
            batches.load_state_dict(state)
            stream = iter(batches)
            for some in slices:
                some += [i for _ in range(parts) for i in next(stream)]
            after = batches.state_dict()
        seen, state = seen + slices, after
    assert seen == whole


class Vanishing(Numbers):
    """The images of the third batch are gone."""

    def __getitems__(self, indices: list[int]) -> list[int]:
        if 5 in indices:
            raise ImageError("5.jpg", "it is gone")
        return list(indices)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_the_data_is_said_by_the_process_that_trains(workers: int) -> None:
    batches = iter(eval_batches(Vanishing(8), 2, workers=workers))
    assert [next(batches), next(batches)] == [[0, 1], [2, 3]]
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value) == str(ImageError("5.jpg", "it is gone"))  # no trace of the worker's


@pytest.mark.parametrize(("images", "batch", "world"), [(10, 4, 1), (10, 4, 2), (7, 8, 2)])
def test_validation_sees_every_image_once_in_equally_many_batches(
    images: int, batch: int, world: int
) -> None:
    parts = [list(eval_batches(Numbers(images), batch, rank=r, world=world)) for r in range(world)]
    assert len({len(part) for part in parts}) == 1
    seen = sorted(index for part in parts for indices in part for index in indices)
    assert seen == list(range(images))
    assert max(len(indices) for part in parts for indices in part) <= batch
