"""NASNet's search space: pairs of cells, drawn, changed, told apart, and stacked into networks.

Card: arXiv 1707.07012. A block chooses two states, an operation for each and how the results are
combined; five blocks make a cell, a cell that keeps the size and one that halves it a pair.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sinet.models._nasnet_cell import COMBINATIONS, OPERATIONS, Block, CellSpec
from sinet.models.spec import ModelSpec
from sinet.search.specs import SMALL_IMAGE

BLOCKS = 5


@dataclass(frozen=True)
class Cells:
    """The cell that keeps the size of a map and the one that halves it."""

    normal: CellSpec
    reduction: CellSpec

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Cells:
        """Undo `to_dict`."""
        return cls(CellSpec.of(values["normal"]), CellSpec.of(values["reduction"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, which are options of our NASNets too."""
        return {"normal": self.normal.to_dict(), "reduction": self.reduction.to_dict()}

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for cells that compute the same because a sum has no order."""
        return tuple(
            (tuple(_ordered(block) for block in cell.blocks), cell.ends)
            for cell in (self.normal, self.reduction)
        )

    def stacked(self, image_size: int, repeats: int, dim: int) -> ModelSpec:
        """The network of `repeats` normal cells a stage, as NASNet's N @ F.

        Small images (at most 64 px) are taken as CIFAR-10's are, others as ImageNet's, so that a
        cell found on small images is transferred by asking for more repeats, width and pixels.

        Args:
            image_size: input height and width, pixels.
            repeats: normal cells a stage, N.
            dim: channels of an operation in the first stage, F; a multiple of 4 for larger images.
        """
        small = image_size <= SMALL_IMAGE
        options = {"cells": 3 * repeats, "dim": dim, "stem_width": 3 * dim if small else 32}
        name = "nasnet_cifar" if small else "nasnet_mobile"
        return ModelSpec(name, image_size, {**options, **self.to_dict()})


def _ordered(block: Block) -> Block:
    i, op_i, j, op_j, combination = block
    if combination == "add" and (i, op_i) > (j, op_j):
        return j, op_j, i, op_i, combination
    return block


def random_block(draw: random.Random, states: int) -> Block:
    """Every choice drawn evenly; the block may read the first `states` states."""
    return (
        draw.randrange(states),
        draw.choice(OPERATIONS),
        draw.randrange(states),
        draw.choice(OPERATIONS),
        draw.choice(COMBINATIONS),
    )


def random_cells(draw: random.Random, blocks: int = BLOCKS) -> Cells:
    """A pair of cells of so many blocks."""
    normal, reduction = (
        CellSpec(tuple(random_block(draw, k + 2) for k in range(blocks))) for _ in range(2)
    )
    return Cells(normal, reduction)


def mutated(cells: Cells, draw: random.Random) -> Cells:
    """The same cells but for one choice of one block: a state, or an operation (arXiv 1802.01548).

    A choice is drawn among those that differ from what stands there.
    """
    which = draw.choice(("normal", "reduction"))
    blocks = list(getattr(cells, which).blocks)
    k, place = draw.randrange(len(blocks)), draw.randrange(5)
    choices = (range(k + 2), OPERATIONS, range(k + 2), OPERATIONS, COMBINATIONS)[place]
    changed: Any = list(blocks[k])
    changed[place] = draw.choice([c for c in choices if c != changed[place]])
    blocks[k] = tuple(changed)
    kept = {"normal": cells.normal, "reduction": cells.reduction}
    return Cells(**{**kept, which: CellSpec(tuple(blocks))})
