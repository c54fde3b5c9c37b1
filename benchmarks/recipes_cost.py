"""`recipes_cost`: a real step of every recipe for ImageNet, and what the whole would take.

A step is measured with all that belongs to it (augmentation, forward, backward, optimizer, average)
on generated images at 224 px. On a GPU: a batch of at most 256 in the recipe's precision, from
which follow the GPU-hours of 1,281,167 images a pass, at one GPU's speed and without the time that
several need to talk. Where the image size grows (`progressive`), a step is taken to cost as its
pixels do. On a CPU only the step is stated, at a batch of 8 in fp32: GPU-hours do not follow.

The line `# Cost:` in the head of each recipe is written anew. The value is the number of recipes
measured.

    python benchmarks/recipes_cost.py
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from resume import generated

from sinet.data.dataset import ImageDataset, Split
from sinet.data.preprocess import Preprocess
from sinet.files import write_text
from sinet.measurement.machine import machine
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training import recipe as recipes
from sinet.training.loop import step_seconds
from sinet.training.optimizer import image_size
from sinet.training.recipe import Recipe, named

IMAGENET, SIZE = 1_281_167, 224
ON_GPU, ON_CPU = 256, 8  # images a step
FOLDER = Path(recipes.__file__).parent / "recipes"


def pictures(count: int) -> ImageDataset:
    """Noise at the final size."""
    small = generated(count, 0)
    large = np.asarray(small.items).repeat(7, axis=1).repeat(7, axis=2)
    split = Split(large, small.labels, small.names)
    names = [str(i) for i in range(1000)]
    splits = {"train": split, "val": split}
    return ImageDataset(Path("generated"), "generated", names, list(range(1000)), False, splits)


def relative_cost(recipe: Recipe) -> float:
    """Pixels of the whole training as a share of what they were at full size throughout."""
    sizes = [image_size(recipe, SIZE, done) for done in np.linspace(0, 1, 1000, endpoint=False)]
    return float(np.mean([(size / SIZE) ** 2 for size in sizes]))


def measure(name: str, gpu: bool) -> dict[str, float]:
    """One recipe."""
    recipe = Recipe.from_yaml(name)
    batch = min(recipe.batch_size, ON_GPU) if gpu else ON_CPU
    here = recipe.replace(batch_size=batch, precision=recipe.precision if gpu else "fp32")
    spec = ModelSpec(name.rsplit("_", 1)[0], SIZE)
    preprocess = Preprocess(SIZE, 3, (0.5,) * 3, (0.25,) * 3)
    seconds = step_seconds(spec, pictures(batch), here, preprocess, task=Classify)
    found = {"batch": batch, "step_ms": 1000 * seconds, "images_per_second": batch / seconds}
    if gpu:
        whole = IMAGENET * recipe.epochs * relative_cost(recipe)
        found["gpu_hours"] = whole / found["images_per_second"] / 3600
    return {key: round(value, 2) for key, value in found.items()}


def write_cost(name: str, found: dict[str, float], where: str) -> None:
    """Say it in the head of the recipe."""
    path = FOLDER / f"{name}.yaml"
    step = f"{found['step_ms']:.0f} ms a step of {found['batch']:.0f} images on {where}"
    if "gpu_hours" in found:
        said = f"# Cost: {found['gpu_hours']:.0f} GPU-hours, from {step}"
    else:
        said = f"# Cost: GPU-hours not measured; {step}"
    text = path.read_text(encoding="utf-8")
    new = re.sub(r"^# Cost:.*\n(#  .*\n)*", f"{said}\n#       (benchmarks/recipes_cost.py).\n",
                 text, count=1, flags=re.MULTILINE)  # fmt: skip
    write_text(path, new)


def main() -> None:
    """Measure all."""
    gpu = torch.cuda.is_available()
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name() if gpu else f"{threads} threads of {machine().hardware}"
    large = [name for name in named() if name.endswith(("_300e", "_90e"))]
    found = {}
    for name in large:
        found[name] = measure(name, gpu)
        write_cost(name, found[name], where)
        print(name, found[name], flush=True)
    extra = {"device": where, "recipes": found}
    print(record("recipes_cost", len(found), "recipes", len(large), threads=threads, extra=extra))


if __name__ == "__main__":
    main()
