"""From the words of a command line to one training."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from sinet.data.dataset import ImageDataset, open_dataset
from sinet.errors import UsageError
from sinet.files import write_text
from sinet.models._networks import check_task
from sinet.models.spec import ModelSpec
from sinet.models.weights import find_pretrained
from sinet.tasks import learner
from sinet.tasks.base import ImageTask
from sinet.training.loop import train
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

_LARGEST = 224  # of the sizes that are chosen by themselves
FEW_IMAGES = 50
"""Below so many training images a class, pretrained networks learn by the recipe `few_images`."""


def run_training(
    data: Path,
    *,
    model: str,
    recipe: str,
    out: Path,
    size: int,
    weights: str,
    task: str,
    overrides: tuple[str, ...],
    given: dict[str, Any],
    init: Path | None,
    **options: Any,
) -> Trained:
    """Train a network and write the resolved configuration beside the result.

    Args:
        data: any data set that `open_dataset` reads.
        model: a registered model, or the .yaml or .json file of a `ModelSpec`.
        recipe: name or YAML file; empty = by task and starting weights.
        out: folder of the run.
        size: input size, pixels; 0 = the images' own, at most 224.
        weights: `auto` (what can be had offline), `none`, or a source of `load_weights`.
        task: what the labels are for; empty = by the look of the data.
        overrides: `key=value` for the recipe, `model.key=value` for the model.
        given: recipe values of options; None = not given.
        init: an earlier training to start from.
        **options: of `train`.

    Raises:
        UsageError: an override that is not `key=value`, an unknown name, a model of another task,
            frozen layers in a network from scratch.
    """
    values, model_values = split_overrides(overrides)
    values.update({key: value for key, value in given.items() if value is not None})
    images = open_dataset(data, task=task)
    learns = learner(images.task)
    own = min(_LARGEST, *learns.typical(images))
    if model.endswith((".yaml", ".yml", ".json")):
        base = ModelSpec.from_file(model)
        auto = base.weights
    else:
        base, auto = ModelSpec(model, own), find_pretrained(model)
    check_task(base.name, images.task)
    source = {"auto": auto, "none": None}.get(weights, weights)
    spec = ModelSpec(base.name, size or base.size, {**base.kwargs, **model_values}, source)
    begun = replace(spec, weights=spec.weights or (str(init) if init else None))
    chosen = Recipe.from_yaml(recipe or usual_recipe(learns, begun, images)).replace(**values)
    chosen.check_for(learns.name, learns.options)
    if not begun.weights:
        refuse_frozen_noise(model, chosen, recipe)
    preprocess = learns.preprocessing(spec, images)
    config = {
        "data": str(data),
        "model": spec.to_dict(),
        "init": str(init) if init else None,
        "preprocess": preprocess.to_dict(),
        "recipe": chosen.to_dict(),
    }
    if int(os.environ.get("RANK", 0)) == 0:
        write_text(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    return train(
        spec, images, chosen, out, preprocess=preprocess, task=learns, init=init, **options
    )


def usual_recipe(task: type[ImageTask], spec: ModelSpec, data: ImageDataset) -> str:
    """The recipe that a network learns these data by unless another is asked for."""
    usual = task.recipe_name(spec)
    few = len(data.train) < FEW_IMAGES * data.num_classes
    return "few_images" if usual == "finetune" and few else usual


def refuse_frozen_noise(model: str, recipe: Recipe, source: str = "") -> None:
    """Refuse to keep layers of a network that starts from scratch.

    Args:
        model: its name.
        recipe: how it would learn.
        source: name or file of the recipe, for the message.

    Raises:
        UsageError: the recipe freezes layers.
    """
    if recipe.freeze:
        where = f" (of the recipe {source})" if source else ""
        raise UsageError(
            f"freeze={recipe.freeze}{where} keeps layers as they are, but {model} starts from "
            "scratch, where they know nothing; give it --weights, or set freeze=0"
        )


def frozen(groups: int | None, linear_probe: bool) -> int | None:
    """The recipe's `freeze` that `--freeze` or `--linear-probe` means; None if neither is given.

    Raises:
        UsageError: both are.
    """
    if linear_probe and groups is not None:
        raise UsageError("--linear-probe freezes all but the classifier; leave --freeze out")
    return -1 if linear_probe else groups


def split_overrides(pairs: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`("lr=0.1", "model.stem_stride=1")` -> `({"lr": "0.1"}, {"stem_stride": 1})`.

    Raises:
        UsageError: one is not of the form key=value.
    """
    recipe: dict[str, Any] = {}
    model: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{pair!r} is not understood; give recipe values as key=value")
        if key.startswith("model."):
            model[key.removeprefix("model.")] = yaml.safe_load(value)
        else:
            recipe[key] = value
    return recipe, model
