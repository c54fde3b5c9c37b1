"""The recipes for ImageNet, each on generated pictures and the smallest network of its family."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import many
import numpy as np
import pytest
import tiny

from sinet.data.preprocess import Preprocess
from sinet.models.spec import ModelSpec
from sinet.training.recipe import Recipe, named

SMALLEST = {"sinet": "sinet_test", "minspnet": "minspnet_test"}
LARGE = [name for name in named() if name.endswith(("_300e", "_90e"))]
PREPROCESS = Preprocess(64, 3, (0.5,) * 3, (0.25,) * 3)


def cut_down(name: str, batch: int) -> tuple[Recipe, ModelSpec]:
    """A recipe at a batch that fits here, with the rate that belongs to it, and its network."""
    recipe = Recipe.from_yaml(name)
    family = name.split("_")[0]
    share = batch / recipe.batch_size  # SGD's rate goes with the batch, Adam's with its root
    rate = recipe.lr * (share if recipe.optimizer == "sgd" else share**0.5)
    smaller = recipe.replace(batch_size=batch, lr=rate)
    return smaller, ModelSpec(SMALLEST[family], 64)


def test_every_size_has_both() -> None:
    sizes = [f"sinet_{size}" for size in ("tiny", "small", "base", "large")]
    sizes += [f"minspnet_{size}" for size in ("minimal", "small", "medium", "large")]
    assert set(LARGE) == {f"{size}_{epochs}e" for size in sizes for epochs in (300, 90)}
    for name in LARGE:
        assert Recipe.from_yaml(name).epochs == int(name.rsplit("_", 1)[1][:-1])


@pytest.mark.parametrize("family", ["sinet_{}_{}e", "minspnet_{}_{}e"])
def test_a_shorter_training_is_regularised_no_more(family: str) -> None:
    """Nor is a smaller network."""
    sizes = {"s": ("tiny", "small", "base", "large"), "m": ("minimal", "small", "medium", "large")}
    fields = ("mixup", "cutmix", "randaugment", "random_erasing", "drop_path", "dropout")

    def strength(size: str, epochs: int) -> np.ndarray:
        recipe = Recipe.from_yaml(family.format(size, epochs))
        return np.array([getattr(recipe, field) for field in fields])

    for epochs in (300, 90):
        rising = [strength(size, epochs) for size in sizes[family[0]]]
        assert all((small <= large).all() for small, large in itertools.pairwise(rising))
    for size in sizes[family[0]]:
        assert (strength(size, 90) <= strength(size, 300)).all()


@pytest.mark.parametrize("name", LARGE)
def test_its_first_steps(name: str, tmp_path: Path) -> None:
    recipe, spec = cut_down(name, 8)
    data = tiny.dataset(24, 8)
    trained = tiny.run(tmp_path, recipe.replace(epochs=1), data, spec, preprocess=PREPROCESS)
    assert trained.steps == 3
    assert np.isfinite(trained.metrics["val/loss"])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_its_first_200_steps_learn(name: str, tmp_path: Path) -> None:
    """Of the whole schedule: the warm-up and the beginning of the descent."""
    recipe, spec = cut_down(name, 32)
    warm = 50 / recipe.epochs / 10  # of ten steps an epoch: the rest is at the full rate
    data = tiny.dataset(320, 32)
    recipe = recipe.replace(warmup=warm)
    many.stopped(tmp_path, recipe, after=200, data=data, spec=spec, preprocess=PREPROCESS)
    with (tmp_path / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 20
    assert np.isfinite(losses).all()
    # blended and distorted images leave the largest networks little to learn in so few steps
    assert np.mean(losses[-3:]) < 0.98 * losses[0]
