"""`loader_overhead`: a real training step against the same step on tensors already in memory.

Real: fetch the batch from the decoded images, augment it as the `cifar10` recipe does, train.
Synthetic: the same network and optimizer on a batch that is ready. Both take turns, step by step.

    python benchmarks/loader.py
"""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

import torch
from resume import generated

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.loader import Order, TrainBatches
from sinet.training.loop import build_network
from sinet.training.recipe import Recipe

MODEL = ModelSpec("sinet_tiny", 32, {"stem_stride": 1})
STEPS = 25


def main() -> None:
    """Time both kinds of step in turn."""
    recipe = Recipe.from_yaml("cifar10")
    names = [str(i) for i in range(10)]
    data = ImageDataset(
        Path("generated"), "generated", names, list(range(10)), False,
        {"train": generated(50_000, 0), "val": generated(64, 1)},
    )  # fmt: skip
    preprocess = Preprocess(32, 3, (0.5,) * 3, (0.25,) * 3)
    network = build_network(MODEL, data, recipe, 3, load=False)
    task = Classify(network, data, recipe.replace(progressive=1.0), preprocess)
    task.train()
    optimizer = task.configure_optimizers()["optimizer"]
    order = Order(50_000, recipe.batch_size, recipe.epochs, recipe.seed)
    stream = iter(TrainBatches(task.train_source(), order, 0, False))
    ready = task.augment(next(stream), MODEL.size)
    seconds: dict[str, list[float]] = {"real": [], "synthetic": []}
    for step, kind in itertools.product(range(STEPS + 3), seconds):
        start = time.perf_counter()
        images, targets = task.augment(next(stream), MODEL.size) if kind == "real" else ready
        loss = task.loss(task.network(task.ordered(images)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 3:
            seconds[kind].append(time.perf_counter() - start)
    pairs = [a / b for a, b in zip(seconds["real"], seconds["synthetic"], strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    extra = {
        "model": MODEL.label,
        "batch": recipe.batch_size,
        "real_ms": 1000 * statistics.median(seconds["real"]),
        "synthetic_ms": 1000 * statistics.median(seconds["synthetic"]),
        "pairs": len(pairs),
    }
    print(
        record(
            "loader_overhead", middle, "x", 1.05, "lower", spread=(low, high), extra=extra,
            threads=torch.get_num_threads(),
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
