"""Does searching pay: SiNets against the hand-set one, NASNet's cells against random ones?

    python benchmarks/search.py sinet cifar10/ --minutes 120
    python benchmarks/search.py nasnet cifar10/ --minutes 120

`sinet` searches under the latency of a hand-set SiNet, times the network that it found in turn with
that one, and trains both by one recipe with three seeds: the gain in points. `nasnet` searches for
cells, and trains networks of the best cells and of random ones alike, each as wide as makes its
multiply-adds those of the found ones: the gain in standard errors. Killed
and started again, both go on.
Writes docs/results/search_gain.json or docs/results/nasnet_gain.json.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sinet.data import open_dataset
from sinet.data.dataset import ImageDataset
from sinet.errors import UsageError
from sinet.files import read_json, write_json
from sinet.measurement.bench import bench_networks
from sinet.measurement.cost import cost
from sinet.measurement.proxy import equal_recipe, paired_gain
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.search.architecture import Found, search_sinet
from sinet.search.budget import Budget
from sinet.search.cell_search import search_cells
from sinet.search.cells import Cells, random_cells
from sinet.search.clock import Stopwatch
from sinet.search.session import Request
from sinet.search.spaces import HAND_SET, SiNetSpace
from sinet.tasks.classify import Classify
from sinet.training.recipe import Recipe

RECIPE = Recipe(batch_size=128, lr=2e-3, label_smoothing=0.1, warmup=0.2, ema=0.998)
NO_GAIN, CERTAIN = 0.0, 2.0
WORK = Path("runs/search")

app = typer.Typer()
Data = Annotated[Path, typer.Argument(help="CIFAR-10 as folders, or any data set with labels.")]
Minutes = Annotated[float, typer.Option(help="Of the search and its last training.")]
Trials = Annotated[int, typer.Option(help="At most; 0 = as many as the minutes allow.")]
Epochs = Annotated[float, typer.Option(help="Of the comparison by one recipe.")]
Seeds = Annotated[int, typer.Option(min=2, help="Of the comparison.")]


def say(name: str, seed: int, top1: float) -> None:
    """Print a result."""
    print(f"{name}, seed {seed}: {top1:.2f}%")


@app.command()
def sinet(
    data: Data,
    minutes: Minutes = 120.0,
    hand_set: Annotated[str, typer.Option(help="Which SiNet to beat.")] = "sinet_tiny",
    trials: Trials = 0,
    epochs: Epochs = 20.0,
    seeds: Seeds = 3,
) -> None:
    """`search_gain`: the found SiNet against the hand-set one of equal measured latency."""
    if hand_set not in HAND_SET:
        raise UsageError(f"{hand_set} given; --hand-set takes {', '.join(HAND_SET)}")
    loaded = open_dataset(data)
    space = SiNetSpace(min(Classify.typical(loaded)))
    theirs = space.spec(space.hand_set(hand_set))
    work = WORK / f"{hand_set}-{minutes:g}"
    plan = work / "budget.json"
    if not plan.is_file():
        write_json(plan, hand_set_ms(loaded, space, theirs, work / "search"))
    request = Request(data, work / "search", minutes, trials)
    found = search_sinet(request, Budget(ms=read_json(plan)), print)
    specs = {"found": found.spec, hand_set: theirs}
    times = in_turn(specs, loaded)
    recipe = RECIPE.replace(epochs=epochs)
    top1 = equal_recipe(
        specs, loaded, recipe, work / f"equal-{epochs:g}", seeds=range(seeds), on_result=say
    )
    gain, low, high = paired_gain(top1["found"], top1[hand_set])
    extra = {
        "ms": times, "top1": top1, "spec": found.spec.to_dict(), "epochs": epochs,
        "images": len(loaded.train), "search": facts(found),
    }  # fmt: skip
    record("search_gain", gain, "points", NO_GAIN, seeds=range(seeds), spread=(low, high),
           extra=extra)  # fmt: skip


def hand_set_ms(data: ImageDataset, space: SiNetSpace, spec: ModelSpec, folder: Path) -> float:
    """Milliseconds of a hand-set network as the search itself takes them."""
    watch = Stopwatch(data, Classify, space.spec(space.smallest()), folder)
    return watch(spec, watch.own_ms()).ms


def in_turn(specs: Mapping[str, ModelSpec], data: ImageDataset) -> dict[str, float]:
    """Median milliseconds of networks timed against each other."""
    networks = {n: (s.create(data.num_classes, data.channels), s.size) for n, s in specs.items()}
    rows = bench_networks(networks, in_chans=data.channels, seconds=20.0)
    return {row.name: row.latency.median_ms for row in rows}


def facts(found: Found) -> dict[str, Any]:
    """What the search says about itself."""
    kept: dict[str, Any] = read_json(found.folder / "search.json")
    return {name: kept[name] for name in ("trials", "score", "final")}


@app.command()
def nasnet(
    data: Data,
    minutes: Minutes = 120.0,
    by: Annotated[str, typer.Option(help="ppo, reinforce, evolution or random.")] = "ppo",
    trials: Trials = 0,
    draws: Annotated[int, typer.Option(min=2, help="Random pairs of cells.")] = 8,
    epochs: Epochs = 10.0,
    seeds: Seeds = 3,
) -> None:
    """`nasnet_gain`: found cells against the mean of random cells, in standard errors."""
    loaded = open_dataset(data)
    work = WORK / f"nasnet-{by}-{minutes:g}"
    request = Request(data, work / "search", minutes, trials)
    found = search_cells(request, None, by, transfer=False)
    cells = Cells.of(read_json(work / "search" / "cells.json"))
    size, repeats, dim = min(32, found.spec.size), 1, 12
    ours = cells.stacked(size, repeats, dim)
    target = macs(ours, loaded)
    specs = {"found": ours}
    for i in range(draws):
        drawn = random_cells(random.Random(f"draw {i}"))
        specs[f"random_{i}"] = nearest(drawn, size, target, loaded)
    recipe = RECIPE.replace(epochs=epochs, ema=0.0)
    top1 = equal_recipe(
        specs, loaded, recipe, work / f"equal-{epochs:g}", seeds=range(seeds), on_result=say
    )
    means = {name: statistics.fmean(values) for name, values in top1.items()}
    others = [value for name, value in means.items() if name != "found"]
    points = means["found"] - statistics.fmean(others)
    variances = [statistics.variance(v) / len(v) for v in (others, top1["found"])]
    error = sum(variances) ** 0.5
    extra = {
        "top1": top1, "points": points, "error_points": error, "by": by, "draws": draws,
        "macs": {name: macs(spec, loaded) for name, spec in specs.items()}, "epochs": epochs,
        "images": len(loaded.train), "cells": cells.to_dict(), "search": facts(found),
    }  # fmt: skip
    record("nasnet_gain", points / error, "standard errors", CERTAIN, seeds=range(seeds),
           extra=extra)  # fmt: skip


def macs(spec: ModelSpec, data: ImageDataset) -> int:
    """Multiply-adds of an image."""
    with torch.device("meta"):
        network = spec.create(data.num_classes, data.channels)
    return cost(network, spec.size, data.channels).macs


def nearest(cells: Cells, size: int, target: int, data: ImageDataset) -> ModelSpec:
    """The network of cells whose width brings its multiply-adds nearest to a target."""
    specs = [cells.stacked(size, 1, dim) for dim in range(4, 33, 2)]
    return min(specs, key=lambda spec: abs(macs(spec, data) - target))


if __name__ == "__main__":
    app()
