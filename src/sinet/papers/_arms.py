"""Controlled experiments: networks that differ in one thing, trained alike, and what that decides.

Most claims of architecture papers can be examined small: swap the one operator that the paper is
about, keep parameters or multiply-adds equal, train every arm by one recipe with several seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sinet.measurement.cost import cost
from sinet.measurement.proxy import equal_recipe, side_by_side
from sinet.models.spec import ModelSpec
from sinet.papers._claims import images
from sinet.papers.base import Finding, Outcome, Setting
from sinet.training.recipe import Recipe
from sinet.training.trainer import accelerator_for

Build = Callable[[int, int], nn.Module]
"""(num_classes, in_chans) -> a fresh network."""


@dataclass(frozen=True)
class Arm(ModelSpec):
    """A network that a function builds, under a name of its own."""

    build: Build = field(default=nn.Linear, hash=False, compare=False)

    def create(
        self, num_classes: int, in_chans: int = 3, *, load: bool = True, **kwargs: Any
    ) -> nn.Module:
        """A fresh network."""
        return self.build(num_classes, in_chans)


@dataclass(frozen=True)
class Contest:
    """What the arms reached, validation top-1 in points by seed, and under which conditions."""

    top1: Mapping[str, Sequence[float]]
    conditions: Mapping[str, Any]

    def mean(self, arm: str) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.top1[arm])

    def gain(self, ours: str, other: str) -> float:
        """Difference of two arms' means; accuracies are counts, so single precision's rest goes."""
        return round(self.mean(ours) - self.mean(other), 4)

    def error(self, *arms: str) -> float:
        """Pooled standard error of the difference of two arms' means."""
        variances = [statistics.variance(v) / len(v) for a in arms if len(v := self.top1[a]) > 1]
        return float(sum(variances) ** 0.5)


def contest(
    setting: Setting,
    arms: Mapping[str, Build],
    *,
    size: int = 32,
    epochs: float = 10,
    train_images: int = 10_000,
    batch_size: int = 64,
    lr: float = 2e-3,
    seeds: Sequence[int] = (0, 1, 2),
    recipe: Recipe | None = None,
) -> Contest:
    """Train every arm with every seed by one recipe; finished trainings are read, not repeated.

    Quick settings use one seed, 1,500 images and one epoch: enough to see that it runs.

    Args:
        setting: where, on what and how thoroughly.
        arms: name -> builder; costs are noted beside the results.
        size: input height and width.
        epochs: passes over the images.
        train_images: at most so many.
        batch_size: images a step.
        lr: peak learning rate of AdamW.
        seeds: of weights, order and augmentation.
        recipe: another recipe; `epochs`, `batch_size` and `lr` then come from it.
    """
    data = images(setting.data, setting.quick, train_images)
    recipe = recipe or Recipe(epochs=epochs, batch_size=batch_size, lr=lr, warmup=0.2)
    if setting.quick:
        recipe, seeds = recipe.replace(epochs=1.0), seeds[:1]
    specs = {name: Arm(f"arm-{name}", size, build=build) for name, build in arms.items()}
    top1 = equal_recipe(specs, data, recipe, setting.work, seeds=seeds, device=setting.device)
    costs = {
        name: cost(spec.create(data.num_classes, data.channels), size, data.channels)
        for name, spec in specs.items()
    }
    conditions = {
        "params": {name: c.params for name, c in costs.items()},
        "macs": {name: c.macs for name, c in costs.items()},
        "data": data.root.name,
        "train_images": len(data.train),
        "val_images": len(data.val),
        "epochs": recipe.epochs,
        "size": size,
        "seeds": list(seeds),
    }
    return Contest(top1, conditions)


def complete(
    setting: Setting,
    order: Sequence[tuple[str, int]],
    file: Callable[[str, int], Path],
    do: Callable[[str, int], None],
) -> None:
    """Do what of the arms and seeds has no file yet, one on each core.

    Args:
        setting: where.
        order: (arm, seed); seeds outside, so that a run cut short has compared all arms on some.
        file: what `do` writes for an arm and a seed.
        do: trains and measures.
    """
    if accelerator_for(setting.device)[0] == "cpu":
        side_by_side([partial(do, *job) for job in order if not file(*job).is_file()])
    for job in order:
        if not file(*job).is_file():
            do(*job)


def beats(claim: str, paper: str, found: Contest, ours: str, others: Sequence[str]) -> Finding:
    """Whether one arm is better than each of the others by more than a pooled standard error.

    Confirmed if it is; refuted if any other is better than it by as much; else not decided, as it
    is with a single seed.
    """
    gains = {other: found.gain(ours, other) for other in others}
    errors = {other: found.error(ours, other) for other in others}
    verdict: Outcome = "not decided"
    if len(found.top1[ours]) > 1:
        if all(gains[o] > errors[o] for o in others):
            verdict = "confirmed"
        elif any(gains[o] < -errors[o] for o in others):
            verdict = "refuted"
    why = f"{ours} {found.mean(ours):.2f}%; " + "; ".join(
        f"{gains[o]:+.2f} +- {errors[o]:.2f} points against {o}" for o in others
    )
    measured = {"top1": dict(found.top1), "gain_points": gains, **found.conditions}
    return Finding(claim, paper, measured, verdict, why)
