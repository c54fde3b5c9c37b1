"""From the words of a command line to one training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from sinet.data.dataset import open_dataset
from sinet.errors import UsageError
from sinet.files import write_text
from sinet.models._networks import check_task
from sinet.models.spec import ModelSpec
from sinet.models.weights import find_pretrained
from sinet.tasks import learner
from sinet.training.loop import train
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

_LARGEST = 224  # of the sizes that are chosen by themselves


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
        model: a registered model.
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
        UsageError: an override that is not `key=value`, an unknown name, a model of another task.
    """
    values, model_values = split_overrides(overrides)
    values.update({key: value for key, value in given.items() if value is not None})
    images = open_dataset(data, task=task)
    learns = learner(images.task)
    check_task(model, images.task)
    source = {"auto": find_pretrained(model), "none": None}.get(weights, weights)
    own = min(_LARGEST, *learns.typical(images))
    spec = ModelSpec(model, size or own, model_values, source)
    begun = replace(spec, weights=spec.weights or (str(init) if init else None))
    chosen = Recipe.from_yaml(recipe or learns.recipe_name(begun)).replace(**values)
    chosen.check_for(learns.name, learns.options)
    preprocess = learns.preprocessing(spec, images)
    config = {
        "data": str(data),
        "model": spec.to_dict(),
        "init": str(init) if init else None,
        "preprocess": preprocess.to_dict(),
        "recipe": chosen.to_dict(),
    }
    write_text(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    return train(
        spec, images, chosen, out, preprocess=preprocess, task=learns, init=init, **options
    )


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
