from __future__ import annotations

import random

import pytest
import torch

from sinet.search.cells import Cells, random_cells
from sinet.search.controller import Controller, Policy, to_cells, to_row
from sinet.search.strategies import Child


def reward(cells: Cells) -> float:
    """The share of operations that are sep3: what a controller must find out."""
    ops = [op for c in (cells.normal, cells.reduction) for b in c.blocks for op in (b[1], b[3])]
    return ops.count("sep3") / len(ops)


def searched(controller: Controller, count: int, history: list[Child] | None = None) -> list[Child]:
    history = list(history or [])
    while len(history) < count:
        cells = controller.propose(history, len(history))
        history.append(Child(cells, reward(cells)))
    return history


def test_choices_and_back() -> None:
    cells = random_cells(random.Random(0))
    assert to_cells(to_row(cells)) == cells
    assert len(to_row(cells)) == 50


def test_what_is_drawn_is_as_probable_as_it_says() -> None:
    policy = Policy(blocks=2)
    rows, drawn, entropy = policy(count=7, generator=torch.Generator().manual_seed(0))
    same, given, _ = policy(rows)
    assert same.equal(rows)
    torch.testing.assert_close(given, drawn)
    # nearly even at the start: 2 cells x (states 2 2 and 3 3, operations 13^4, combinations 2^2)
    even = 2 * torch.tensor([2.0, 2, 3, 3, 13, 13, 13, 13, 2, 2]).log().sum()
    assert (entropy - even).abs().max() < 0.5
    assert (given + even).abs().max() < 4


def test_weights_start_in_a_tenth() -> None:
    weights = torch.cat([w.detach().flatten() for w in Policy().parameters()])
    assert weights.abs().max() <= 0.1
    assert weights.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_rewarded_choices_become_more_frequent(algorithm: str) -> None:
    controller = Controller(algorithm, blocks=2, lr=0.01, batch=10)  # type: ignore[arg-type]
    history = searched(controller, 200)
    early = sum(c.reward for c in history[:50]) / 50
    late = sum(c.reward for c in history[-50:]) / 50
    assert late > early + 0.15


def test_a_new_process_goes_on_as_the_old_one_would_have() -> None:
    old = Controller(blocks=2, lr=0.01, batch=5)
    history = searched(old, 23)
    new = Controller(blocks=2, lr=0.01, batch=5)
    assert new.propose(history, 23) == old.propose(history, 23)
    assert new.baseline == old.baseline
    fresh = Controller(blocks=2, lr=0.01, batch=5)
    assert fresh.propose([], 23) != new.propose(history, 23)
