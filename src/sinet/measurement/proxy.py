"""Which of two networks learns better under the same recipe: a small, equal comparison.

Not the accuracy that either reaches with all the time in the world, but whether a design pays at
equal epochs, images, size and augmentation, over several seeds.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.loop import train
from sinet.training.recipe import Recipe
from sinet.training.trainer import accelerator_for


def shortened(data: ImageDataset, train_images: int | None, seed: int = 0) -> ImageDataset:
    """The same data set with fewer training images, drawn at random but always the same ones.

    Args:
        data: the data set; left as it is.
        train_images: how many to keep; None or more than there are = all.
        seed: of the drawing.
    """
    if train_images is None or train_images >= len(data.train):
        return data
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data.train))[:train_images])
    shorter = copy.copy(data)
    shorter.splits = {**data.splits, "train": data.train.subset(chosen)}
    return shorter


def equal_recipe(
    specs: Mapping[str, ModelSpec],
    data: ImageDataset,
    recipe: Recipe,
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "auto",
    on_result: Callable[[str, int, float], None] | None = None,
) -> dict[str, list[float]]:
    """Train each network with each seed by the same recipe; validation top-1 in points of 100.

    Called again with the same arguments it goes on where it was: finished trainings in `out` are
    read, not repeated.

    Args:
        specs: name -> network; sizes may differ only on purpose.
        data: the images; `val` judges.
        recipe: for all of them; its seed is replaced by each of `seeds`.
        out: folder for the trainings.
        seeds: at least one.
        device: as of `train`.
        on_result: told (name, seed, top-1).

    Raises:
        UsageError: multi-label data, or no seed.
    """
    if data.multilabel or not seeds:
        raise UsageError("an equal-recipe comparison needs single-label data and a seed")
    channels, stats = data.channels, (0.5,) * data.channels

    def top1(name: str, seed: int) -> float:
        spec = specs[name]
        trained = train(
            spec,
            data,
            recipe.replace(seed=seed),
            out / f"{name}-{spec.size}-{seed}",
            preprocess=Preprocess(spec.size, channels, stats, stats),
            task=Classify,
            device=device,
            progress=False,
        )
        return trained.metrics["val/top1"] * 100

    # seeds outside: a run cut short has compared all networks on some seeds
    order = [(name, seed) for seed in seeds for name in specs]
    if accelerator_for(device)[0] == "cpu":
        side_by_side([partial(top1, *job) for job in order])
    results: dict[str, list[float]] = {name: [] for name in specs}
    for name, seed in order:  # what was trained side by side is read
        results[name].append(top1(name, seed))
        if on_result is not None:
            on_result(name, seed, results[name][-1])
    return results


def side_by_side(jobs: Sequence[Callable[[], Any]]) -> None:
    """Do jobs that leave their results on disk, one on each core.

    Two trainings of small networks on a core each are ready in two thirds of the time that they
    take one after the other on both. A job that fails is left undone, for its caller to meet. Only
    Linux copies a process with all that its jobs refer to; elsewhere nothing is done.

    Args:
        jobs: to begin in this order.
    """
    count = min(torch.get_num_threads(), len(jobs))
    if count < 2 or sys.platform != "linux":
        return
    context = multiprocessing.get_context("fork")
    begun, caller = context.Value("i", 0), os.getpid()

    def work() -> None:
        torch.set_num_threads(1)
        while os.getppid() == caller:  # who was killed wants no more of them
            with begun.get_lock():
                mine, begun.value = begun.value, begun.value + 1
            if mine >= len(jobs):
                return
            with suppress(Exception):
                jobs[mine]()

    processes = [context.Process(target=work) for _ in range(count)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    finally:  # an interrupted caller takes them along
        for process in processes:
            process.terminate()


def paired_gain(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of the differences seed by seed; low and high are +- 2 standard errors.

    A single seed has no interval: low and high are then the mean, and nothing is decided by it.
    """
    gains = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(gains)
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return mean, mean - 2 * error, mean + 2 * error
