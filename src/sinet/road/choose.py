"""Steps 1 to 3: look at the images, time the candidates, train the best."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import timm

from sinet.data import ImageDataset
from sinet.data.inspection import inspect_dataset
from sinet.data.sheet import UNUSED, draw_refusal, draw_sheet, painter
from sinet.errors import BudgetError, DataError, UsageError
from sinet.files import atomic_path, read_json, write_json
from sinet.measurement.machine import machine
from sinet.measurement.profile import DeviceProfile
from sinet.models.spec import ModelSpec
from sinet.road.run import Run
from sinet.search.candidates import Candidate, near_misses, time_candidates
from sinet.search.halving import Job, Search, Trial, successive_halving
from sinet.search.specs import hub_reachable, task_specs
from sinet.tasks import learner
from sinet.tasks.base import described
from sinet.tasks.signatures import signature
from sinet.tasks.train_command import refuse_frozen_noise, usual_recipe
from sinet.training.loop import step_seconds, train
from sinet.training.trained import Trained

TIMING_SECONDS = 150.0
"""Most seconds spent timing candidates; a table that is kept from an earlier run costs none."""


def inspect(run: Run) -> ImageDataset:
    """Step 1: read the data and say what is in there."""
    with run.bar("inspect") as bar:
        try:
            found = inspect_dataset(
                run.config.data, seed=run.config.seed, task=run.config.task, progress=bar
            )
        except DataError as error:
            if sheet := draw_refusal(error, run.folder / "sheet.png"):
                run.say("warning", f"what is wrong is drawn in {sheet}")
            raise
    data = found.data
    for note in found.notes:
        run.say("inspect", note.text)
    for warning in found.warnings:
        run.say("warning", warning.text)
    write_json(run.folder / "dataset.json", found.to_dict())
    paint = painter(data.task, signature(described(data, UNUSED)))
    draw_sheet(found, run.folder / "sheet.png", paint)
    if found.problem:
        raise DataError(f"{run.config.data}: {found.problem}")
    write_json(run.folder / "machine.json", machine().to_dict())
    run.say("machine", machine().hardware)
    return data


def time_models(run: Run, data: ImageDataset) -> list[Candidate]:
    """Step 2: what would each network cost, on this machine or on the profile's."""
    config, path = run.config, run.folder / "candidates.json"
    if path.is_file():
        candidates = [Candidate.from_dict(c) for c in read_json(path)]
    else:
        candidates = _timed(run, data)
        if candidates and all(c.latency is None for c in candidates):
            raise UsageError(f"no candidate can be built or timed; the first: {candidates[0].why}")
        write_json(path, [c.to_dict() for c in candidates])
    run.candidates(candidates)
    if not any(c.fits for c in candidates):
        near = [
            f"; nearest: {c.spec.label} {c.precision}, {c.why}"
            for c in near_misses(candidates, config.limits, 1)
        ]
        raise BudgetError(
            f"none of {len(candidates)} candidates keeps {config.budget}{''.join(near)}; "
            "allow more, or name smaller models with --model"
        )
    return candidates


def _timed(run: Run, data: ImageDataset) -> list[Candidate]:
    config = run.config
    task = learner(data.task)
    sides = task.typical(data)
    specs = _specs(run, data)
    fitted = partial(task.preprocessing, data=data, stats=task.stats(data))
    recipe = config.recipe_for(specs[0], usual_recipe(task, specs[0], data))
    recipe.check_for(task.name, task.options)
    profile = DeviceProfile.load(config.profile) if config.profile else None
    for note in profile.notes() if profile else ():
        run.say("warning", note)
    with run.bar("candidates") as bar:
        return time_candidates(
            specs,
            config.limits,
            image_hw=sides,
            channels=data.channels,
            num_classes=data.num_classes,
            task=task.name,
            preprocess=fitted,
            threads=config.threads or None,
            seconds=min(TIMING_SECONDS, 20 * config.minutes),
            progress=lambda done, total, _: bar(done, total),
            profile=profile,
            mirrored=recipe.tta,
        )


def _specs(run: Run, data: ImageDataset) -> list[ModelSpec]:
    """The networks to try, with the weights that were asked for.

    Raises:
        UsageError: weights of one network for several, or frozen layers in none that knows a thing.
    """
    config, task = run.config, learner(data.task)
    source = None if config.teachers else config.weights_of_one
    names = config.models or ((named_in(source),) if source else ())
    specs = task_specs(
        task,
        data,
        names,
        min(task.typical(data)),
        options=config.model_options,
        folder=config.weights_folder,
        hub=hub_reachable(),
    )
    if source:
        if others := {s.backbone for s in specs[1:]} - {specs[0].backbone}:
            raise UsageError(
                f"--weights {source} are those of one network, but {specs[0].backbone} and "
                f"{len(others)} more would be tried; name theirs alone with --model"
            )
        specs = list(dict.fromkeys(replace(s, weights=source) for s in specs))
    frozen = [s for s in specs if config.recipe_for(s, usual_recipe(task, s, data)).freeze]
    knowing = [s for s in specs if s.weights or s not in frozen]
    if not knowing or (config.freeze and not any(s.weights for s in specs)):
        recipe = config.recipe_for(specs[0], usual_recipe(task, specs[0], data))
        refuse_frozen_noise(specs[0].name, recipe, config.recipe)
    return knowing


def named_in(source: str) -> str:
    """The model whose weights a source is, by its name: hub:timm/NAME.TAG or NAME.safetensors.

    Raises:
        UsageError: it does not name a registered model.
    """
    name = source.partition(":")[2] if source.startswith("hub:") else source
    name = name.rpartition("/")[2].partition(".")[0]
    if not timm.is_model(name):
        raise UsageError(
            f"--weights {source} does not tell whose weights they are; name it with --model"
        )
    return name


def train_best(
    run: Run, data: ImageDataset, candidates: list[Candidate], minutes: float
) -> Trained:
    """Step 3: spend the minutes by successive halving; the winner gets most of them."""
    task = learner(data.task)
    preprocess = partial(task.preprocessing, data=data, stats=task.stats(data))
    judged = signature(described(data, preprocess(candidates[0].spec)))

    def epoch_seconds(candidate: Candidate) -> float:
        spec = candidate.spec
        recipe = run.config.recipe_for(spec, usual_recipe(task, spec, data))
        step = step_seconds(spec, data, recipe, preprocess(spec), task=task)
        samples = task.epoch_samples(data, spec)
        return step * max(1, samples // min(recipe.batch_size, samples))

    def trainer(job: Job) -> Trained:
        spec = job.candidate.spec
        recipe = run.config.recipe_for(spec, usual_recipe(task, spec, data)).replace(
            epochs=round(job.epochs, 3)
        )
        options = "".join(f"-{k}={v}" for k, v in sorted(spec.kwargs.items()))
        name = f"{job.rung}-{spec.name}-{spec.size}{options}".replace(" ", "")
        run.say("train", f"{spec.label}: {job.epochs:.1f} epochs, {job.minutes:.1f} minutes")
        return train(
            spec,
            data,
            recipe,
            run.folder / "trials" / name,
            preprocess=preprocess(spec),
            task=task,
            init=job.init,
            device=run.config.device,
        )

    def told(trial: Trial) -> None:
        score = judged.shown(trial.score)
        run.say("trial", f"{trial.label}: {score} in {trial.minutes:.1f} minutes")

    search: Search = successive_halving(
        candidates,
        trainer,
        minutes,
        epoch_seconds=epoch_seconds,
        trials_path=run.folder / "trials.json",
        metric=judged.metric,
        on_trial=told,
    )
    for name in ("metrics.csv", "trained.json", "weights.safetensors"):
        with atomic_path(run.folder / name) as temporary:
            temporary.write_bytes((search.folder / name).read_bytes())
    return Trained.load(run.folder)
