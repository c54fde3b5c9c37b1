"""What LightCNN's 14,862 parameters (19,758 for colour images) reach when they learn long enough.

    python benchmarks/lightcnn.py fashion /usr/share/datasets/fashion-mnist
    python benchmarks/lightcnn.py mnist path/to/mnist
    python benchmarks/lightcnn.py cifar10 path/to/cifar10
    python benchmarks/lightcnn.py fashion path/to/fashion-mnist --teacher runs/fashion_mnist

Trains on all training images with three seeds (a killed run goes on when started again) and writes
docs/results/lightcnn_fashion_top1.json and its like: mean top-1 of the test images, with its range.
With a teacher, such as the folder of a `sinet fit` on the same images, the network learns from its
logits too. Whether the article's two stages are better is `sinet reproduce lightcnn`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sinet.data import open_dataset
from sinet.errors import UsageError, unknown
from sinet.measurement.cost import cost
from sinet.measurement.proxy import side_by_side
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.papers.lightcnn import learned, whole
from sinet.tasks.classify import Classify
from sinet.training.recipe import Recipe
from sinet.training.trainer import accelerator_for

RECIPE = Recipe(batch_size=128, lr=4e-3, weight_decay=0.005, warmup=0.05, ema=0.999)
TAUGHT = {"distil": "logits", "distil_weight": 0.7, "temperature": 4.0}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Goal:
    """A network, how it learns, what is asked of it."""

    spec: ModelSpec
    params: int
    recipe: Recipe
    target: float


GREY = ModelSpec("lightcnn", 28), 14_862
# networks this small underfit: images are altered only as much as their class allows anyway
GOALS = {
    "fashion": Goal(*GREY, RECIPE.replace(epochs=80, crop="none"), 90.5),
    "mnist": Goal(*GREY, RECIPE.replace(epochs=40, flip="none", crop="pad"), 99.0),
    "cifar10": Goal(
        ModelSpec("lightcnn_cifar", 32), 19_758, RECIPE.replace(epochs=80, crop="none"), 68.0
    ),
}


def main(
    name: Annotated[str, typer.Argument(help=", ".join(GOALS))],
    data: Annotated[Path, typer.Argument(help="Where its images lie, with a test split.")],
    teacher: Annotated[str, typer.Option(help="Folder of a training on the same classes.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train with every seed, then record the mean."""
    if name not in GOALS:
        raise unknown("data set", name, GOALS)
    goal, images = GOALS[name], open_dataset(data)
    if "test" not in images.splits:
        raise UsageError(f"{data} has no test images to judge by; give the data set with both")
    spec, images = goal.spec, whole(images)
    params = cost(spec.create(images.num_classes, images.channels), spec.size, images.channels)
    if params.params != goal.params:
        raise UsageError(
            f"{data}: {images.num_classes} classes of {images.channels} channels make "
            f"{params.params:,} parameters, not {goal.params:,}; give the data set {name}"
        )
    recipe = goal.recipe.replace(teacher=teacher, **TAUGHT) if teacher else goal.recipe

    def top1(seed: int) -> float:
        folder = Path("runs/lightcnn") / f"{name}{'-taught' if teacher else ''}-{seed}"
        trained = learned(spec, images, recipe.replace(seed=seed), folder, device, Classify)
        return 100 * trained.metrics["val/top1"]

    if accelerator_for(device)[0] == "cpu":
        side_by_side([partial(top1, seed) for seed in SEEDS])
    found = [top1(seed) for seed in SEEDS]
    said: dict[str, Any] = {"params": goal.params, "top1": found, "epochs": recipe.epochs}
    record(
        f"lightcnn_{name}_top1",
        statistics.fmean(found),
        "%",
        goal.target,
        spread=(min(found), max(found)),
        seeds=SEEDS,
        extra={**said, "train_images": len(images.train), "teacher": teacher},
    )


if __name__ == "__main__":
    typer.run(main)
