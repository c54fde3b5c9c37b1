"""Between steps 2 and 3, if asked for: the teachers learn the data, each from the one before it."""

from __future__ import annotations

from pathlib import Path

import timm

from sinet.data import ImageDataset
from sinet.errors import unknown
from sinet.files import read_json, write_json
from sinet.models.spec import ModelSpec
from sinet.road.run import Run
from sinet.search.specs import hub_reachable, task_specs
from sinet.tasks import learner
from sinet.tasks.base import described
from sinet.tasks.signatures import signature
from sinet.tasks.train_command import split_overrides, usual_recipe
from sinet.training.loop import step_seconds, train
from sinet.training.recipe import Recipe
from sinet.training.teacher import open_teacher
from sinet.training.trained import Trained

TEACHING_SHARE = 1 / 3
"""The most of the minutes that all teachers together may take."""


def train_teachers(run: Run, data: ImageDataset) -> float:
    """Train the teachers that are given by name; look at those that are folders of trainings.

    A teacher learns by its usual recipe, for as many epochs as that says or as fit into its part of
    the minutes. One that was trained already, in this folder, is not trained again.

    Returns:
        The minutes that it took, in earlier calls of a resumed run too.

    Raises:
        UsageError: no such model or folder, or it learned other classes.
    """
    config = run.config
    named = [i for i in range(len(config.teachers)) if not Path(config.teachers[i]).exists()]
    for i in named:
        if not timm.is_model(config.teachers[i]):
            raise unknown("teacher", config.teachers[i], timm.list_models())
    minutes, before = 0.0, ""
    for i in range(len(config.teachers)):
        folder = config.teacher_folder(i)
        if i in named:
            trained = _train(run, data, i, before, config.minutes * TEACHING_SHARE / len(named))
            minutes += trained.seconds / 60
        else:
            preprocess = Trained.load(folder).preprocess
            open_teacher(Recipe(teacher=str(folder)), data, preprocess)
        before = str(folder)
    return minutes


def _train(run: Run, data: ImageDataset, number: int, before: str, minutes: float) -> Trained:
    """Train one teacher in its folder, with the teacher before it."""
    config, task = run.config, learner(data.task)
    spec = _spec(run, data, number)
    given = split_overrides(config.overrides)[0]
    # what must not be mirrored must not be for anybody; the other values are the pupil's
    own = {key: given[key] for key in ("flip",) if key in given}
    recipe = Recipe.from_yaml(usual_recipe(task, spec, data)).replace(
        seed=config.seed, teacher=before, **own
    )
    preprocess = task.preprocessing(spec, data, task.stats(data))
    folder, plan = config.teacher_folder(number), config.folder / f"teacher-{number + 1}.json"
    if not plan.is_file():
        step = step_seconds(spec, data, recipe, preprocess, task=task)
        epoch = step * max(1, len(data.train) // min(recipe.batch_size, len(data.train)))
        epochs = max(1e-3, min(recipe.epochs, minutes * 60 / epoch))
        write_json(plan, {"spec": spec.to_dict(), "epochs": round(epochs, 3)})
    recipe = recipe.replace(epochs=read_json(plan)["epochs"])
    begun = f"from {spec.weights}" if spec.weights else "from scratch"
    run.say("teacher", f"{spec.label} {begun}: {recipe.epochs:.1f} epochs")
    trained = train(
        spec, data, recipe, folder, preprocess=preprocess, task=task, device=config.device
    )
    judged = signature(described(data, preprocess))
    score = judged.shown(trained.metrics[judged.metric])
    run.say("teacher", f"{spec.label}: {score} in {trained.seconds / 60:.1f} minutes")
    return trained


def _spec(run: Run, data: ImageDataset, number: int) -> ModelSpec:
    """The teacher by its name, with the weights that were given or can be had."""
    config, task = run.config, learner(data.task)
    plan = config.folder / f"teacher-{number + 1}.json"
    if plan.is_file():  # what can be had may have changed since
        return ModelSpec.from_dict(read_json(plan)["spec"])
    side = min(task.typical(data))
    folder, hub = config.weights_folder, hub_reachable()
    spec = task_specs(task, data, (config.teachers[number],), side, folder=folder, hub=hub)[0]
    if config.weights_of_one and number == 0:
        return ModelSpec(spec.name, spec.size, spec.kwargs, config.weights_of_one)
    return spec
