"""`loader_overhead*`: a real training step against the same step on tensors already in memory.

Real: fetch the batch, augment it as the recipe does, train. Synthetic: the same network and
optimizer on a batch that is ready. Both take turns, step by step. Three sources:

    array        50,000 decoded images of 32 px in memory         -> loader_overhead
    webdataset   JPEGs of 160 px in shards, decoded at the start  -> loader_overhead_webdataset
    on_demand    the same, as if memory were too small for them   -> loader_overhead_on_demand

On a CPU the last must read and decode on the cores that train; on a GPU they are idle otherwise.

    python benchmarks/loader.py
    python benchmarks/loader.py webdataset on_demand
"""

from __future__ import annotations

import io
import itertools
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from resume import generated

from sinet.data import cache, open_dataset
from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.evaluate import autocast
from sinet.training.loader import Order, TrainBatches
from sinet.training.loop import build_network
from sinet.training.recipe import Recipe
from sinet.training.trainer import accelerator_for

STEPS = 25
SHARDS, EACH = 4, 256


@contextmanager
def array() -> Iterator[tuple[ModelSpec, ImageDataset, Recipe]]:
    """Images like CIFAR-10's."""
    names = [str(i) for i in range(10)]
    splits = {"train": generated(50_000, 0), "val": generated(64, 1)}
    data = ImageDataset(Path("generated"), "generated", names, list(range(10)), False, splits)
    yield ModelSpec("sinet_tiny", 32, {"stem_stride": 1}), data, Recipe.from_yaml("cifar10")


@contextmanager
def webdataset() -> Iterator[tuple[ModelSpec, ImageDataset, Recipe]]:
    """Photo-like JPEGs in shards, and the recipe for ImageNet at a batch that fits here."""
    kind, _ = accelerator_for("auto")
    large = Recipe.from_yaml("sinet_tiny_90e")
    fits = large.replace(batch_size=32, precision="fp32") if kind == "cpu" else large
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(SHARDS):
            write_shard(Path(folder) / f"train-{shard:04}.tar", shard)
        yield ModelSpec("sinet_tiny", 128), open_dataset(folder), fits


@contextmanager
def on_demand() -> Iterator[tuple[ModelSpec, ImageDataset, Recipe]]:
    """Read from the shards when a batch wants them."""
    with mock.patch.object(cache, "MEMORY_SHARE", 0.0), webdataset() as source:
        yield source


def write_shard(path: Path, seed: int) -> None:
    """Blotches of colour of two kinds, as JPEGs of about 10 kB."""
    draw = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for i in range(EACH):
            coarse = draw.integers(0, 200, (20, 20, 3)) + 50 * (i % 2)
            fine = coarse.repeat(8, 0).repeat(8, 1) + draw.integers(-10, 10, (160, 160, 3))
            jpeg = io.BytesIO()
            Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(jpeg, "JPEG", quality=90)
            for ending, content in (("jpg", jpeg.getvalue()), ("cls", str(i % 2).encode())):
                info = tarfile.TarInfo(f"{seed:04}_{i:04}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def measure(spec: ModelSpec, data: ImageDataset, recipe: Recipe) -> dict[str, list[float]]:
    """Seconds of both kinds of step, in turn."""
    kind, _ = accelerator_for("auto")
    preprocess = Preprocess(spec.size, 3, (0.5,) * 3, (0.25,) * 3)
    network = build_network(spec, data, recipe, 3, load=False)
    task = Classify(network, data, recipe.replace(progressive=1.0), preprocess).to(kind)
    task.train()
    optimizer = task.configure_optimizers()["optimizer"]
    source = task.train_source()
    order = Order(len(source), recipe.batch_size, recipe.epochs, recipe.seed)
    stream = iter(TrainBatches(source, order, 0, kind == "cuda"))

    def fetched() -> object:
        batch = task.transfer_batch_to_device(next(stream), task.device, 0)
        return task.augment(batch, spec.size)

    ready = fetched()
    seconds: dict[str, list[float]] = {"real": [], "synthetic": []}
    for step, way in itertools.product(range(STEPS + 3), seconds):
        start = time.perf_counter()
        images, targets = fetched() if way == "real" else ready
        with autocast(kind, recipe.precision):
            loss = task.loss(task.network(task.ordered(images)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if kind == "cuda":
            torch.cuda.synchronize()
        if step >= 3:
            seconds[way].append(time.perf_counter() - start)
    return seconds


def main(*names: str) -> None:
    """Time each source."""
    sources = {"array": array, "webdataset": webdataset, "on_demand": on_demand}
    for name in names or sources:
        with sources[name]() as (spec, data, recipe):
            seconds = measure(spec, data, recipe)
        pairs = [a / b for a, b in zip(seconds["real"], seconds["synthetic"], strict=True)]
        low, middle, high = statistics.quantiles(pairs, n=4)
        extra = {
            "model": spec.label,
            "batch": recipe.batch_size,
            "device": accelerator_for("auto")[0],
            "real_ms": 1000 * statistics.median(seconds["real"]),
            "synthetic_ms": 1000 * statistics.median(seconds["synthetic"]),
            "pairs": len(pairs),
        }
        result = "loader_overhead" if name == "array" else f"loader_overhead_{name}"
        print(
            record(
                result, middle, "x", 1.05, "lower", spread=(low, high), extra=extra,
                threads=torch.get_num_threads(),
            )
        )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
