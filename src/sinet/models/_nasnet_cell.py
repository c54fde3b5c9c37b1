"""What a NASNet cell computes, as plain values: the blocks of the search space, and cells A."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sinet.errors import UsageError, unknown

OPERATIONS = (
    "identity", "conv1x3", "conv1x7", "dil3", "avg3", "max3", "max5", "max7", "conv1", "conv3",
    "sep3", "sep5", "sep7",
)  # fmt: skip
"""The search space's: `conv1x3` is 1 x 3 then 3 x 1, `dil3` a 3 x 3 of dilation 2, `sep`
separable."""
COMBINATIONS = ("add", "concat")

Block = tuple[int, str, int, str, str]
"""(state, its operation, state, its operation, combination)."""


@dataclass(frozen=True)
class CellSpec:
    """What a cell computes.

    States are numbered: 0 the current input, 1 the previous one, 2 + k the result of block k.

    Attributes:
        blocks: of `OPERATIONS` and `COMBINATIONS`, on states that are there by then.
        outputs: states that are concatenated, in this order; None = those that no block uses.

    Raises:
        UsageError: an unknown operation or combination, or a state that is not there.
    """

    blocks: tuple[Block, ...]
    outputs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.blocks:
            raise UsageError("a cell without blocks computes nothing; give it one at least")
        for k, (i, op_i, j, op_j, combination) in enumerate(self.blocks):
            for state in (i, j):
                _check_state(state, k + 2, f"block {k}")
            for op in (op_i, op_j):
                if op not in OPERATIONS:
                    raise unknown("operation of a cell", str(op), OPERATIONS)
            if combination not in COMBINATIONS:
                raise unknown("combination of a cell", str(combination), COMBINATIONS)
        for state in self.outputs or ():
            _check_state(state, len(self.blocks) + 2, "the output")

    @property
    def ends(self) -> tuple[int, ...]:
        """The states that make up the output."""
        if self.outputs is not None:
            return self.outputs
        used = {state for block in self.blocks for state in (block[0], block[2])}
        return tuple(s for s in range(len(self.blocks) + 2) if s not in used)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as options of a `ModelSpec`."""
        blocks = [list(block) for block in self.blocks]
        return {"blocks": blocks, "outputs": list(self.outputs) if self.outputs else None}

    @classmethod
    def of(cls, values: CellSpec | Mapping[str, Any]) -> CellSpec:
        """Undo `to_dict`; a spec stays as it is.

        Raises:
            UsageError: the values are no cell.
        """
        if isinstance(values, CellSpec):
            return values
        try:
            blocks: Any = tuple(tuple(block) for block in values["blocks"])
            if any(len(block) != 5 for block in blocks):
                raise ValueError
            outputs = values.get("outputs")
            return cls(blocks, tuple(outputs) if outputs else None)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{values!r} is no cell; give blocks: a list of [state, operation, state, "
                "operation, combination]"
            ) from error


def _check_state(state: int, count: int, where: str) -> None:
    if not (isinstance(state, int) and 0 <= state < count):
        raise UsageError(f"{where} of a cell reads state {state}; there are 0 to {count - 1}")


NORMAL_A = CellSpec(
    blocks=(
        (0, "sep5", 1, "sep3", "add"),
        (1, "sep5", 1, "sep3", "add"),
        (0, "avg3", 1, "identity", "add"),
        (1, "avg3", 1, "avg3", "add"),
        (0, "sep3", 0, "identity", "add"),
    ),
    outputs=(1, 2, 3, 4, 5, 6),
)
REDUCTION_A = CellSpec(
    blocks=(
        (0, "sep5", 1, "sep7", "add"),
        (0, "max3", 1, "sep7", "add"),
        (0, "avg3", 1, "sep5", "add"),
        (3, "identity", 2, "avg3", "add"),
        (2, "sep3", 0, "max3", "add"),
    ),
    outputs=(3, 4, 5, 6),
)
