"""Who proposes the next cells: chance, or evolution (`controller` has the learned one).

Each is a function of the seed and of the search's record, so that a search that was killed, or is
shared by several processes, goes on without any state of its own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sinet.search.cells import BLOCKS, Cells, mutated, random_cells

STRATEGIES = ("ppo", "reinforce", "evolution", "random")


@dataclass(frozen=True)
class Child:
    """Cells, and the validation accuracy of their network."""

    cells: Cells
    reward: float


class Strategy(Protocol):
    """Proposes cells."""

    def propose(self, history: Sequence[Child], number: int) -> Cells:
        """The cells to try next.

        Args:
            history: what was tried, in the order in which it was finished.
            number: of the proposal; no other of this search has it.
        """
        ...


@dataclass(frozen=True)
class RandomSearch:
    """Every choice drawn evenly: the baseline of the paper."""

    seed: int = 0
    blocks: int = BLOCKS

    def propose(self, history: Sequence[Child], number: int) -> Cells:
        """Drawn anew, whatever was tried."""
        return random_cells(random.Random(f"{self.seed}/{number}"), self.blocks)


@dataclass(frozen=True)
class Evolution:
    """Regularized evolution (arXiv 1802.01548): the best of a sample of the youngest, changed once.

    Age, not accuracy, decides who dies: lucky children do not stay for ever.

    Attributes:
        seed: of what is drawn.
        blocks: of each cell.
        population: the youngest that may become parents.
        sample: of these, drawn for a contest.
    """

    seed: int = 0
    blocks: int = BLOCKS
    population: int = 20
    sample: int = 5

    def propose(self, history: Sequence[Child], number: int) -> Cells:
        """A changed copy of the best of the sample; at random until there is a population."""
        draw = random.Random(f"{self.seed}/{number}")
        if len(history) < self.population:
            return random_cells(draw, self.blocks)
        contest = draw.sample(list(history[-self.population :]), self.sample)
        return mutated(max(contest, key=lambda child: child.reward).cells, draw)


def value_of(cells: Cells, history: Sequence[Child]) -> float | None:
    """The reward of cells that were tried before, so that nothing is trained twice."""
    known = {child.cells.key: child.reward for child in history}
    return known.get(cells.key)
