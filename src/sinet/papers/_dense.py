"""Small controlled trainings of networks that score every position: one loop, Dice, a verdict.

Samples are drawn as they are needed, the same for every arm: from the average brain that nilearn
brings along, or from shapes whose truth is known because they were painted.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sinet.errors import missing_extra
from sinet.files import read_json, write_json
from sinet.papers._arms import Contest, beats, complete
from sinet.papers.base import Finding, Setting

Draw = Callable[[torch.Generator, int], tuple[torch.Tensor, torch.Tensor]]
"""Draws so many images (B, C, ...), and what class each of their positions has (B, ...)."""

Measure = Callable[[nn.Module], dict[str, float]]
"""What a trained network is judged by."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def trainings(
    setting: Setting,
    arms: Mapping[str, Callable[[], nn.Module]],
    draw: Draw,
    measure: Measure,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seeds: Sequence[int],
) -> dict[str, list[dict[str, float]]]:
    """Train every arm with every seed alike; what was finished before is read, not repeated.

    Quick settings use one seed and ten steps: enough to see that it runs.

    Args:
        setting: where, and how thoroughly.
        arms: name -> builder.
        draw: makes the samples, which depend on the seed and not on the arm.
        measure: what each trained network is judged by.
        steps: of AdamW.
        batch_size: samples a step.
        lr: peak learning rate, after a tenth of the steps; then down to zero by a cosine.
        seeds: of weights and samples.

    Returns:
        Arm -> its measurements, one a seed.
    """
    if setting.quick:
        steps, seeds = 20, seeds[:1]

    def file(arm: str, seed: int) -> Path:
        return setting.work / f"{arm}-{steps}-{seed}.json"

    def do(arm: str, seed: int) -> None:
        torch.manual_seed(seed)
        model = arms[arm]().to(setting.device)
        _train(model, draw, steps, batch_size, lr, seed)
        write_json(file(arm, seed), measure(model.eval()))

    complete(setting, [(arm, seed) for seed in seeds for arm in arms], file, do)
    return {arm: [read_json(file(arm, seed)) for seed in seeds] for arm in arms}


def _train(model: nn.Module, draw: Draw, steps: int, batch_size: int, lr: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    for _ in range(steps):
        images, labels = (x.to(device) for x in draw(generator, batch_size))
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def loss(outputs: torch.Tensor | list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy + 1 - soft Dice; of several outputs (deep supervision) the mean."""
    if isinstance(outputs, list):
        return torch.stack([loss(out, labels) for out in outputs]).mean()
    truth = F.one_hot(labels, outputs.shape[1]).movedim(-1, 1).to(outputs.dtype)
    places = (0, *range(2, outputs.ndim))
    given = outputs.softmax(1)
    overlap = (2 * (given * truth).sum(places) + 1) / (given.sum(places) + truth.sum(places) + 1)
    return F.cross_entropy(outputs, labels) + 1 - overlap.mean()


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The class of every position, one image at a time."""
    device = next(model.parameters()).device
    return torch.cat([model(image[None].to(device)).argmax(1).cpu() for image in images])


def dice(found: torch.Tensor, truth: torch.Tensor, label: int) -> float:
    """Dice of one class over all positions, in points of 100."""
    ours, theirs = found == label, truth == label
    return float(200 * (ours & theirs).sum() / (ours.sum() + theirs.sum()).clamp_min(1))


def mean_dice(found: torch.Tensor, truth: torch.Tensor, classes: int) -> float:
    """The mean Dice of all classes but 0, the background."""
    return sum(dice(found, truth, label) for label in range(1, classes)) / (classes - 1)


def better(
    claim: str,
    paper: str,
    results: Mapping[str, Sequence[Mapping[str, float]]],
    conditions: Mapping[str, Any],
    *,
    by: str,
    ours: str,
    others: Sequence[str],
) -> Finding:
    """Whether one arm is better than others by more than a pooled standard error of the seeds.

    Args:
        claim: what is tested.
        paper: what the paper says.
        results: of `trainings`.
        conditions: what else there is to know.
        by: the measurement, in points, more is better.
        ours: the arm in question.
        others: those it is held against.
    """
    scores = {arm: [run[by] for run in results[arm]] for arm in (ours, *others)}
    finding = beats(claim, paper, Contest(scores, conditions), ours, others)
    measured = dict(finding.measured)
    return replace(finding, measured={by: measured.pop("top1"), **measured})


def figures(model: nn.Module, *shape: int) -> dict[str, int]:
    """Parameters, and multiply-adds for an input of this shape; the network is not run."""
    twin = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        twin(torch.empty(shape, device="meta"))
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "macs": flops.get_total_flops() // 2,
    }


def smooth_noise(
    generator: torch.Generator, count: int, sides: Sequence[int], knots: int
) -> torch.Tensor:
    """Normal noise at `knots` places a side, linear between them: (count, 1, *sides)."""
    coarse = torch.randn(count, 1, *[knots] * len(sides), generator=generator)
    return F.interpolate(coarse, tuple(sides), mode=_LINEAR[len(sides)], align_corners=True)


def uniform(
    generator: torch.Generator, count: int, low: float, high: float, dims: int
) -> torch.Tensor:
    """A number a sample, ready to be broadcast over its positions: (count, 1, *ones)."""
    return low + (high - low) * torch.rand(count, 1, *[1] * dims, generator=generator)


def brain() -> tuple[torch.Tensor, torch.Tensor]:
    """The average brain MNI152 at 2 mm in [0, 1], and its tissue: 1 grey, 2 white, 0 the rest.

    Shapes: (99, 117, 95) both, from left to right, back to front, bottom to top

    Raises:
        UsageError: nilearn, which brings it along, is not installed.
    """
    if importlib.util.find_spec("nilearn") is None:
        raise missing_extra("nilearn", "medical")
    with warnings.catch_warnings():  # about its own next release
        warnings.simplefilter("ignore")
        datasets = importlib.import_module("nilearn.datasets")
        loaders = (
            datasets.load_mni152_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
        )
        maps = [np.asarray(load(resolution=2).get_fdata(), np.float32) for load in loaders]
    t1, grey, white = map(torch.from_numpy, maps)
    return t1.clamp_min(0), torch.stack([1 - grey - white, grey, white]).argmax(0)
