from __future__ import annotations

import random
from dataclasses import replace

import pytest
import timm
import torch

from sinet.models._nasnet_cell import NORMAL_A, OPERATIONS, REDUCTION_A, CellSpec
from sinet.search.cells import Cells, mutated, random_cells
from sinet.search.strategies import Child, Evolution, RandomSearch, value_of

CELLS = random_cells(random.Random(1))


def choices(cells: Cells) -> list[object]:
    return [c for cell in (cells.normal, cells.reduction) for b in cell.blocks for c in b]


def test_a_survives_the_way_through_plain_values() -> None:
    cells = Cells(NORMAL_A, REDUCTION_A)
    assert Cells.of(cells.to_dict()) == cells
    spec = cells.stacked(32, 6, 32)
    with torch.device("meta"):
        ours, published = spec.create(10), timm.create_model("nasnet_cifar")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in published.state_dict().items()
    }


def test_cells_are_transferred_to_larger_images() -> None:
    spec = CELLS.stacked(96, 2, 8)
    assert spec.name == "nasnet_mobile"
    with torch.device("meta"):
        assert spec.create(7)(torch.zeros(1, 3, 96, 96)).shape == (1, 7)


@pytest.mark.parametrize("seed", range(8))
def test_drawn_cells_are_networks(seed: int) -> None:
    cells = random_cells(random.Random(seed), blocks=3)
    network = cells.stacked(16, 1, 4).create(5, 1).eval()
    assert network(torch.randn(2, 1, 16, 16)).isfinite().all()


def test_drawing_reaches_every_choice() -> None:
    drawn = [c for seed in range(40) for c in choices(random_cells(random.Random(seed)))]
    assert set(drawn) == {*OPERATIONS, "add", "concat", *range(6)}


def test_a_sum_has_no_order() -> None:
    a = CellSpec(((0, "sep3", 1, "avg3", "add"),))
    b = CellSpec(((1, "avg3", 0, "sep3", "add"),))
    assert Cells(a, a).key == Cells(b, a).key
    joined = [CellSpec(((*cell.blocks[0][:4], "concat"),)) for cell in (a, b)]
    assert Cells(joined[0], a).key != Cells(joined[1], a).key


@pytest.mark.parametrize("seed", range(20))
def test_a_mutation_changes_one_choice(seed: int) -> None:
    child = mutated(CELLS, random.Random(seed))
    pairs = zip(choices(CELLS), choices(child), strict=True)
    assert sum(a != b for a, b in pairs) == 1


def test_evolution_begins_at_random_and_then_changes_the_best() -> None:
    evolution = Evolution(population=4, sample=4)
    history = [Child(random_cells(random.Random(i)), reward=i) for i in range(3)]
    start = evolution.propose(history, 3)
    assert start == evolution.propose(history, 3) != evolution.propose(history, 4)
    history.append(Child(CELLS, 9.0))
    child = evolution.propose(history, 5)
    assert sum(a != b for a, b in zip(choices(CELLS), choices(child), strict=True)) == 1
    young = [*history, *(replace(c, reward=-1.0) for c in history[:3]), replace(history[0])]
    assert evolution.propose(young, 6) != evolution.propose(history, 6), "the old die"


def test_chance_depends_on_seed_and_number() -> None:
    assert RandomSearch(0).propose([], 1) == RandomSearch(0).propose([], 1)
    assert RandomSearch(0).propose([], 1) != RandomSearch(1).propose([], 1)


def test_nothing_is_tried_twice() -> None:
    assert value_of(CELLS, [Child(CELLS, 0.25)]) == 0.25
    assert value_of(mutated(CELLS, random.Random(0)), [Child(CELLS, 0.25)]) is None
