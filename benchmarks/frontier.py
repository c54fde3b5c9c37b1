"""Are SiNet-Tiny and SiNet-Small on the frontier of accuracy against latency?

    python benchmarks/frontier.py cifar10/ --minutes 10

Fourteen networks learn CIFAR-10 by one recipe, a core each, for as many epochs as the slowest of
them finishes in the minutes if it has all cores. Their latency in ONNX Runtime is measured in turn
in one run, FP32 and INT8, at the size they were trained at. Ours, and what comes close to them,
learn with more seeds. Killed and started again, it goes on.
Writes docs/results/frontier.json and docs/images/frontier.png.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import torch
import typer
from rich.progress import track

from sinet.data import open_dataset
from sinet.data.dataset import ImageDataset
from sinet.files import atomic_path, read_json, write_json
from sinet.measurement.bench import bench_networks
from sinet.measurement.proxy import equal_recipe
from sinet.measurement.results import record, results_dir
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.inputs import pixel_stats, preprocess_for
from sinet.training.loop import step_seconds
from sinet.training.recipe import Recipe

OURS = ("sinet_tiny", "sinet_small")
OTHERS = (
    "mobilenetv3_large_100", "mobilenetv4_conv_small", "mobilenetv4_conv_medium",
    "tf_efficientnet_lite0", "hgnetv2_b0", "repvit_m0_9", "starnet_s1", "convnext_atto",
    "levit_conv_128", "lsnet_t", "patnet_t0",
)  # fmt: skip
CLOSE = 1.0
"""Points between two networks that one seed does not tell apart."""
BEYOND = ("resnet18",)
"""Drawn, not counted: 1.8 GMACs at 224 px, more than the 0.1 to 1.5 that are compared."""
RECIPE = Recipe(batch_size=128, lr=2e-3, label_smoothing=0.1, warmup=0.2, ema=0.998)


def epochs_in(minutes: float, specs: Mapping[str, ModelSpec], data: ImageDataset) -> float:
    """Passes over the images that the slowest network finishes in the minutes on all cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of them trains
    stats = pixel_stats(data)
    steps = [
        step_seconds(spec, data, RECIPE, preprocess_for(spec, data, stats), task=Classify)
        for spec in track(specs.values(), "speed of training")
    ]
    torch.set_num_threads(threads)
    seconds = max(steps) * len(data.train) / RECIPE.batch_size
    return round(60 * minutes * threads / seconds, 1)


def on_frontier(name: str, rows: dict[str, dict[str, Any]], precision: str) -> bool:
    """Whether no other network of its range is both faster and more accurate."""
    mine = rows[name]
    return not any(
        other[precision] <= mine[precision]
        and statistics.fmean(other["top1"]) > statistics.fmean(mine["top1"])
        for key, other in rows.items()
        if key != name and key not in BEYOND
    )


def close(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Those of ours, and the networks that would displace them if they were a little better."""
    return [
        name
        for name, row in rows.items()
        if name not in BEYOND
        and any(
            name == mine or (not slower(row, rows[mine]) and distance(row, rows[mine]) < CLOSE)
            for mine in OURS
        )
    ]


def slower(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """In both precisions."""
    return all(row[precision] > other[precision] for precision in ("fp32", "int8"))


def distance(row: dict[str, Any], other: dict[str, Any]) -> float:
    """Points between them."""
    return abs(statistics.fmean(row["top1"]) - statistics.fmean(other["top1"]))


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Accuracy against latency, ours in colour, those beyond the range as rings."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axis, precision in zip(axes, ("fp32", "int8"), strict=True):
        for name, row in rows.items():
            color = "#009688" if name in OURS else "#777777"
            face = "none" if name in BEYOND else color
            point = (row[precision], statistics.fmean(row["top1"]))
            axis.scatter(*point, edgecolors=color, facecolors=face)
            axis.annotate(name, point, fontsize=7)
        axis.set(xscale="log", xlabel=f"{precision.upper()} latency, ms", title=precision.upper())
    axes[0].set_ylabel("top-1, %")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main(
    data: Annotated[Path, typer.Argument(help="CIFAR-10 as folders, or any data set.")],
    minutes: Annotated[float, typer.Option(help="Training of the slowest network.")] = 10.0,
    epochs: Annotated[float, typer.Option(help="Instead of what fits into the minutes.")] = 0.0,
    size: Annotated[int, typer.Option(help="Input height and width.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of ours and of the close ones.")] = 3,
    work: Annotated[Path, typer.Option(help="Where trainings are kept.")] = Path("runs/frontier"),
) -> None:
    """Train, time, record, draw."""
    loaded = open_dataset(data)
    specs = {name: ModelSpec(name, size) for name in (*OURS, *OTHERS, *BEYOND)}
    plan = work / f"{size}-{minutes:g}.json"
    if not epochs and not plan.is_file():
        write_json(plan, epochs_in(minutes, specs, loaded))
    recipe = RECIPE.replace(epochs=epochs or read_json(plan))
    kept = work / f"{size}-epochs-{recipe.epochs:g}"
    found = equal_recipe(specs, loaded, recipe, kept, seeds=(0,), on_result=say)
    rows: dict[str, dict[str, Any]] = {name: {"top1": top1} for name, top1 in found.items()}
    networks = {name: (spec.create(loaded.num_classes), size) for name, spec in specs.items()}
    for row in bench_networks(networks, precisions=("fp32", "int8"), seconds=5.0 * len(rows)):
        name, _, int8 = row.name.partition(" ")
        rows[name]["int8" if int8 else "fp32"] = row.latency.median_ms
    again = {name: specs[name] for name in close(rows)}
    more = equal_recipe(again, loaded, recipe, kept, seeds=range(seeds), on_result=say)
    for name, top1 in more.items():
        rows[name]["top1"] = top1
    both = [n for n in OURS if on_frontier(n, rows, "fp32") and on_frontier(n, rows, "int8")]
    conditions = {"size": size, "images": len(loaded.train), "epochs": recipe.epochs}
    extra = {**conditions, "beyond": BEYOND, "models": rows}
    said = f"--epochs {epochs:g}" if epochs else f"--minutes {minutes:g}"
    command = f"python benchmarks/frontier.py {data.name}/ {said} --size {size} --seeds {seeds}"
    record("frontier", len(both), "of ours on the frontier", len(OURS), seeds=range(seeds),
           command=command, extra=extra)  # fmt: skip
    draw(rows, results_dir().parent / "images" / "frontier.png")


def say(name: str, seed: int, top1: float) -> None:
    """Print a result."""
    print(f"{name}, seed {seed}: {top1:.2f}%")


if __name__ == "__main__":
    typer.run(main)
