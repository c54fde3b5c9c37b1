"""Are SiNet-Tiny and SiNet-Small on the frontier of accuracy against latency?

    python benchmarks/frontier.py cifar10/ --minutes 10

Fifteen networks learn CIFAR-10 by one recipe, each for as many epochs as fit into the minutes with
the threads that PyTorch has here. Their latency in ONNX Runtime is measured in turn in one run,
FP32 and INT8, at the size they were trained at. Killed and started again, it goes on. Writes
docs/results/frontier.json and docs/images/frontier.png.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import matplotlib.pyplot as plt
import torch
import typer

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
    "levit_conv_128", "lsnet_t", "unireplknet_a", "patnet_t0", "resnet18",
)  # fmt: skip


class Effort(NamedTuple):
    """How long each network learns."""

    minutes: float
    epochs: float
    """For all alike; 0 = as many as fit into the minutes."""


def epochs_in(minutes: float, spec: ModelSpec, data: ImageDataset, recipe: Recipe) -> float:
    """Passes over the images that fit into the minutes."""
    preprocess = preprocess_for(spec, data, pixel_stats(data))
    step = step_seconds(spec, data, recipe, preprocess, task=Classify)
    return round(60 * minutes * recipe.batch_size / (step * len(data.train)), 2)


def trained(
    names: tuple[str, ...], data: ImageDataset, size: int, effort: Effort, seeds: int, work: Path
) -> dict[str, dict[str, Any]]:
    """Top-1 by seed, epochs and threads of each; the plan is kept so that a rerun goes on."""
    plan_path = work / "plan.json"
    plan: dict[str, Any] = read_json(plan_path) if plan_path.is_file() else {}
    recipe = Recipe(batch_size=128, lr=2e-3, label_smoothing=0.1, warmup=0.2, ema=0.998)
    rows = {}
    for name in names:
        spec = ModelSpec(name, size)
        if name not in plan:
            epochs = effort.epochs or epochs_in(effort.minutes, spec, data, recipe)
            plan[name] = {"epochs": epochs, "threads": torch.get_num_threads()}
            write_json(plan_path, plan)
        mine = recipe.replace(epochs=plan[name]["epochs"])
        top1 = equal_recipe({name: spec}, data, mine, work, seeds=range(seeds))[name]
        rows[name] = {"top1": top1, **plan[name]}
        print(f"{name}: {statistics.fmean(top1):.2f}% after {mine.epochs:g} epochs")
    return rows


def on_frontier(name: str, rows: dict[str, dict[str, Any]], precision: str) -> bool:
    """Whether no other network is both faster and more accurate."""
    mine = rows[name]
    return not any(
        other[precision] <= mine[precision]
        and statistics.fmean(other["top1"]) > statistics.fmean(mine["top1"])
        for key, other in rows.items()
        if key != name
    )


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Accuracy against latency, ours in colour."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axis, precision in zip(axes, ("fp32", "int8"), strict=True):
        for name, row in rows.items():
            color = "#009688" if name in OURS else "#777777"
            axis.scatter(row[precision], statistics.fmean(row["top1"]), color=color)
            axis.annotate(name, (row[precision], statistics.fmean(row["top1"])), fontsize=7)
        axis.set(xscale="log", xlabel=f"{precision.upper()} latency, ms", title=precision.upper())
    axes[0].set_ylabel("top-1, %")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main(
    data: Annotated[Path, typer.Argument(help="CIFAR-10 as folders, or any data set.")],
    minutes: Annotated[float, typer.Option(help="Training of each network.")] = 10.0,
    epochs: Annotated[float, typer.Option(help="For all alike, instead of minutes.")] = 0.0,
    size: Annotated[int, typer.Option(help="Input height and width.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ...")] = 1,
    work: Annotated[Path, typer.Option(help="Where trainings are kept.")] = Path("runs/frontier"),
) -> None:
    """Train, time, record, draw."""
    names = (*OURS, *OTHERS)
    loaded = open_dataset(data)
    said = f"--epochs {epochs:g}" if epochs else f"--minutes {minutes:g}"
    work = work / f"{size}-{said[2:].replace(' ', '-')}"
    rows = trained(names, loaded, size, Effort(minutes, epochs), seeds, work)
    networks = {n: (ModelSpec(n, size).create(loaded.num_classes), size) for n in names}
    found = bench_networks(networks, precisions=("fp32", "int8"), seconds=5.0 * len(names))
    for row in found:
        name, _, int8 = row.name.partition(" ")
        rows[name]["int8" if int8 else "fp32"] = row.latency.median_ms
    both = [n for n in OURS if on_frontier(n, rows, "fp32") and on_frontier(n, rows, "int8")]
    extra = {"size": size, "images": len(loaded.train), "models": rows}
    command = f"python benchmarks/frontier.py {data.name}/ {said} --size {size} --seeds {seeds}"
    record("frontier", len(both), "of ours on the frontier", len(OURS), seeds=range(seeds),
           command=command, extra=extra)  # fmt: skip
    draw(rows, results_dir().parent / "images" / "frontier.png")


if __name__ == "__main__":
    typer.run(main)
