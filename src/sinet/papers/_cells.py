"""NASNet's search, shrunken: PPO against random search on tiny images, as many children each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.dataset import ImageDataset, Split
from sinet.files import read_json, write_json
from sinet.papers._arms import complete
from sinet.papers._claims import images
from sinet.papers.base import Finding, Outcome, Setting
from sinet.search.cells import Cells
from sinet.search.controller import Controller
from sinet.search.strategies import Child, RandomSearch, Strategy, value_of

SIDE, BLOCKS, STACK = 8, 3, (1, 4)
"""Pixels; blocks a cell; normal cells a stage and channels."""
CHILDREN, MORE_CHILDREN = 60, 150
"""On two cores within ten minutes, and where there is more."""
UPDATES = 10
TRAIN_IMAGES, VAL_IMAGES = 800, 1000
CHILD_EPOCHS, LONG_EPOCHS, BATCH = 2, 10, 100
ARMS = ("ppo", "random")

Images = tuple[Tensor, Tensor]


def ppo_against_random(claim: str, setting: Setting, seeds: Sequence[int]) -> Finding:
    """The rule: the last third of PPO's children better than random ones by two standard errors.

    The paper's learning rate is for 20,000 children; for these few it is 0.01, in ten updates.
    """
    count = MORE_CHILDREN if setting.device == "cuda" else CHILDREN
    if setting.quick:
        count, seeds = 6, seeds[:1]
    data = images(setting.data, setting.quick, TRAIN_IMAGES)

    def file(arm: str, seed: int) -> Any:
        return setting.work / f"search-{arm}-{seed}-{count}.json"

    def do(arm: str, seed: int) -> None:
        write_json(file(arm, seed), _searched(arm, seed, count, data))

    complete(setting, [(arm, seed) for seed in seeds for arm in ARMS], file, do)
    runs = {arm: [read_json(file(arm, seed)) for seed in seeds] for arm in ARMS}
    thirds = {
        arm: [100 * statistics.fmean(run["rewards"][-(count // 3) :]) for run in found]
        for arm, found in runs.items()
    }
    longer = {arm: [100 * run["best_longer"] for run in found] for arm, found in runs.items()}
    return _judged(claim, thirds, longer, count, data)


def _judged(
    claim: str,
    thirds: dict[str, list[float]],
    longer: dict[str, list[float]],
    count: int,
    data: ImageDataset,
) -> Finding:
    """The verdict; a single seed decides nothing."""
    gain = statistics.fmean(thirds["ppo"]) - statistics.fmean(thirds["random"])
    seeds = len(thirds["ppo"])
    variances = [statistics.variance(v) / seeds for v in thirds.values()] if seeds > 1 else []
    error = sum(variances) ** 0.5
    verdict: Outcome = "not decided"
    if variances:
        verdict = "confirmed" if gain > 2 * error else "refuted"
    best = {arm: statistics.fmean(values) for arm, values in longer.items()}
    measured = {
        "top1": thirds,
        "top1_best_longer": longer,
        "gain_points": gain,
        "error_points": error,
        "children": count,
        "data": data.root.name,
        "size": SIDE,
        "seeds": seeds,
    }
    return Finding(
        claim,
        "20,000 children; the best of reinforcement learning more than 1 % better than the best of "
        "random search",
        measured,
        verdict,
        f"last third of {count} children {gain:+.2f} +- {error:.2f} points against random ones; "
        f"the best trained longer {best['ppo']:.2f}% against {best['random']:.2f}%",
    )


def _searched(arm: str, seed: int, count: int, data: ImageDataset) -> dict[str, Any]:
    """Rewards in order, and what the best child reaches when it is trained longer."""
    train, val = _tiny(data.train, TRAIN_IMAGES), _tiny(data.val, VAL_IMAGES)
    proposer: Strategy = RandomSearch(seed, BLOCKS)
    if arm == "ppo":
        proposer = Controller("ppo", seed, BLOCKS, lr=0.01, batch=max(2, count // UPDATES))
    history: list[Child] = []
    while len(history) < count:
        cells = proposer.propose(history, len(history))
        known = value_of(cells, history)
        reward = _learned(cells, train, val, CHILD_EPOCHS, seed) if known is None else known
        history.append(Child(cells, reward))
    best = max(history, key=lambda child: child.reward)
    return {
        "rewards": [child.reward for child in history],
        "best": best.cells.to_dict(),
        "best_longer": _learned(best.cells, train, val, LONG_EPOCHS, seed),
    }


def _tiny(split: Split, most: int) -> Images:
    """Grey images of `SIDE` pixels, about -1 to 1, and labels."""
    count = min(most, len(split))
    grey = [split.image(i).mean(-1) for i in range(count)]
    small = [F.adaptive_avg_pool2d(torch.from_numpy(g)[None].float(), SIDE) for g in grey]
    return torch.stack(small) / 127.5 - 1, torch.as_tensor(split.labels[:count])


def _learned(cells: Cells, train: Images, val: Images, epochs: int, seed: int) -> float:
    """Validation accuracy of a child after so many epochs of Adam, its rate falling to zero."""
    torch.manual_seed(seed)
    network: nn.Module = cells.stacked(SIDE, *STACK).create(int(val[1].max()) + 1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    steps = epochs * (len(train[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=max(2, steps))
    for _ in range(epochs):
        for chosen in torch.randperm(len(train[0])).split(BATCH):
            if len(chosen) < BATCH:
                continue
            loss = F.cross_entropy(network(train[0][chosen]), train[1][chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        right = [(network(x).argmax(1) == y).sum() for x, y in _batches(val)]
    return float(sum(right)) / len(val[0])


def _batches(images_: Images) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images_[0].split(250), images_[1].split(250), strict=True))
