"""NASNet's controller: a small recurrent network that learns which cells are rewarded.

arXiv 1707.07012, section 3 and appendix: a one-layer LSTM of 100 units emits the choices of both
cells in turn, a softmax each, the choice before embedded as input. The joint log-probability is
trained by PPO, or by REINFORCE, against a moving average of the rewards. What it has learned
follows from its seed and the rewarded cells in their order, so it needs no checkpoint: it reads
the record of the search again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sinet.models._nasnet_cell import COMBINATIONS, OPERATIONS, CellSpec
from sinet.search.cells import BLOCKS, Cells
from sinet.search.strategies import Child

UNITS = 100
START = 0.1
"""Weights begin uniform in plus and minus this."""
CLIP = 0.2
"""How far PPO lets the probability of a choice move in an update."""


class Policy(nn.Module):
    """The LSTM and its softmaxes. A pair of cells is a row of 2 x blocks x 5 choices.

    The choices of a block are two states, two operations and a combination, in this order.

    Args:
        blocks: of each cell.
    """

    def __init__(self, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.blocks = blocks
        kinds = (blocks + 1, blocks + 1, len(OPERATIONS), len(OPERATIONS), len(COMBINATIONS))
        self.kinds = kinds
        self.start = nn.Parameter(torch.empty(1, UNITS))
        self.embeddings = nn.ModuleList(nn.Embedding(count, UNITS) for count in kinds)
        self.lstm = nn.LSTMCell(UNITS, UNITS)
        self.heads = nn.ModuleList(nn.Linear(UNITS, count) for count in kinds)
        for weight in self.parameters():
            nn.init.uniform_(weight, -START, START)

    def forward(
        self, rows: Tensor | None = None, count: int = 1, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw rows, or say how probable given ones are.

        Args:
            rows: (n, 2 x blocks x 5) of int64, or None to draw.
            count: how many are drawn.
            generator: draws them.

        Returns:
            The rows; the log-probability (n,) and the entropy (n,) of each, summed over its
            choices.
        """
        n = count if rows is None else len(rows)
        state, cell = torch.zeros(n, UNITS), torch.zeros(n, UNITS)
        x = self.start.expand(n, UNITS)
        chosen, logs, entropies = [], [], []
        for place in range(2 * self.blocks * 5):
            block, kind = place // 5 % self.blocks, place % 5
            state, cell = self.lstm(x, (state, cell))
            scores = self.heads[kind](state)
            if kind < 2:  # a block reads what is there by then
                scores = scores[:, : block + 2]
            shares = scores.log_softmax(1)
            if rows is None:
                pick = torch.multinomial(shares.exp(), 1, generator=generator)[:, 0]
            else:
                pick = rows[:, place]
            chosen.append(pick)
            logs.append(shares.gather(1, pick[:, None])[:, 0])
            entropies.append(-(shares.exp() * shares).sum(1))
            x = self.embeddings[kind](pick)
        return torch.stack(chosen, 1), torch.stack(logs, 1).sum(1), torch.stack(entropies, 1).sum(1)


def to_row(cells: Cells) -> list[int]:
    """A pair of cells as the controller's choices."""
    row: list[int] = []
    for cell in (cells.normal, cells.reduction):
        for i, op_i, j, op_j, combination in cell.blocks:
            ops = (OPERATIONS.index(op_i), OPERATIONS.index(op_j))
            row += [i, j, *ops, COMBINATIONS.index(combination)]
    return row


def to_cells(row: Sequence[int]) -> Cells:
    """The inverse of `to_row`."""
    blocks = [
        (i, OPERATIONS[op_i], j, OPERATIONS[op_j], COMBINATIONS[combination])
        for i, j, op_i, op_j, combination in (row[k : k + 5] for k in range(0, len(row), 5))
    ]
    half = len(blocks) // 2
    return Cells(CellSpec(tuple(blocks[:half])), CellSpec(tuple(blocks[half:])))


class Controller:
    """Proposes cells, and learns from what they were worth.

    Args:
        algorithm: "ppo" or "reinforce".
        seed: of the weights and of what is drawn.
        blocks: of each cell.
        lr: of Adam.
        batch: children an update.
        epochs: PPO's steps on a batch; REINFORCE takes one.
        entropy: weight of the entropy, which keeps choices open.
        decay: of the moving average of rewards.
    """

    def __init__(
        self,
        algorithm: Literal["ppo", "reinforce"] = "ppo",
        seed: int = 0,
        blocks: int = BLOCKS,
        lr: float = 3.5e-4,
        batch: int = 20,
        epochs: int = 4,
        entropy: float = 1e-5,
        decay: float = 0.95,
    ) -> None:
        self.algorithm, self.seed, self.batch = algorithm, seed, batch
        self.epochs = epochs if algorithm == "ppo" else 1
        self.entropy, self.decay = entropy, decay
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = Policy(blocks)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr)
        self.baseline: float | None = None
        self.learned = 0

    @torch.no_grad()
    def propose(self, history: Sequence[Child], number: int) -> Cells:
        """Learn from whole batches of the history that are new, then draw."""
        while len(history) >= self.learned + self.batch:
            self.update(history[self.learned : self.learned + self.batch])
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        rows, _, _ = self.policy(generator=generator)
        return to_cells(rows[0].tolist())

    @torch.enable_grad()
    def update(self, children: Sequence[Child]) -> None:
        """Make what was rewarded above the average more probable."""
        rows = torch.tensor([to_row(child.cells) for child in children])
        rewards = torch.tensor([child.reward for child in children])
        before = self.baseline if self.baseline is not None else float(rewards.mean())
        advantages = rewards - before
        for reward in rewards.tolist():
            before = self.decay * before + (1 - self.decay) * reward
        self.baseline = before
        with torch.no_grad():
            _, old, _ = self.policy(rows)
        for _ in range(self.epochs):
            _, log, entropy = self.policy(rows)
            gain = _gain(self.algorithm, log, old, advantages) + self.entropy * entropy
            self.optimizer.zero_grad()
            (-gain.mean()).backward()
            self.optimizer.step()
        self.learned += len(children)


def _gain(algorithm: str, log: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
    """What each child adds to the objective, (n,)."""
    if algorithm == "reinforce":
        return log * advantages
    ratio = (log - old).exp()
    clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
    return torch.minimum(ratio * advantages, clipped * advantages)
