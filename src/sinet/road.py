"""The road: inspect, candidates, train, shrink and export, verify, report; one run, one folder.

Each step is a function of the run and of what the step before it made. What a stopped run has
done already (timed candidates, finished trials, checkpoints) is not done again.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from sinet.compression.quantize import QuantizeReport, quantize_best
from sinet.data import EvalImages, ImageDataset, PreprocessModule
from sinet.data.inspection import inspect_dataset
from sinet.data.sheet import draw_sheet
from sinet.deployment.export import assemble, describe, export_network
from sinet.deployment.ship import Card, ship
from sinet.errors import BudgetError, DataError, UsageError, unknown
from sinet.files import atomic_path, read_json, write_json, write_text
from sinet.measurement.latency import session
from sinet.measurement.layers import layer_times
from sinet.measurement.machine import machine
from sinet.measurement.profile import DeviceProfile
from sinet.measurement.verify import Verdict, metric, verify
from sinet.models.spec import ModelSpec
from sinet.report import render, save_predictions
from sinet.report.terminal import Voice
from sinet.search.budget import Budget
from sinet.search.candidates import Candidate, near_misses, time_candidates
from sinet.search.halving import Job, Search, Trial, successive_halving
from sinet.search.specs import default_specs, hub_reachable, matching_specs
from sinet.tasks import Classify
from sinet.tasks.train_command import split_overrides
from sinet.training.inputs import pixel_stats, preprocess_for
from sinet.training.loop import step_seconds, train
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

TIMING_SECONDS = 150.0
"""Most seconds spent timing candidates; a table that is kept from an earlier run costs none."""
CALIBRATION_IMAGES = 256
"""Training images whose activations set the ranges of INT8."""


@dataclass(frozen=True)
class FitConfig:
    """What a person asks of `fit`; empty means: not asked for."""

    data: str
    """Folder, file or archive of images."""
    budget: str = ""
    """Limits of the shipped file, as `Budget.parse` reads them."""
    minutes: float = 10.0
    """Minutes of training, over all candidates."""
    out: str = ""
    """Run folder; `runs/NAME` by the name of the data."""
    profile: str = ""
    """A device's profile: choose for that device instead of this machine."""
    models: tuple[str, ...] = ()
    """Only models of these names (wildcards allowed)."""
    recipe: str = ""
    """Recipe; `finetune` for pretrained models and `default` for others."""
    overrides: tuple[str, ...] = ()
    """Recipe values such as `lr=0.01`."""
    weights: str = ""
    """Folder with pretrained weights."""
    max_drop: float = 0.5
    """Points that INT8 may lose against the trained model."""
    threads: int = 0
    """Threads of the shipped model; 0 = all cores."""
    device: str = "auto"
    """Where to train."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is read."""
        if self.minutes <= 0:
            raise UsageError(f"--minutes {self.minutes:g} given; a number above 0 expected")
        if self.budget:
            Budget.parse(self.budget)

    @property
    def folder(self) -> Path:
        """The run folder."""
        name = Path(self.data).resolve().name.split(".")[0]
        return Path(self.out) if self.out else Path("runs") / name

    @property
    def limits(self) -> Budget:
        """The budget; no limit where none is given."""
        return Budget.parse(self.budget) if self.budget else Budget()

    def recipe_for(self, spec: ModelSpec) -> Recipe:
        """The recipe that this network learns by."""
        recipe = Recipe.from_yaml(self.recipe or ("finetune" if spec.weights else "default"))
        return recipe.replace(seed=self.seed, **split_overrides(self.overrides)[0])


def fit(
    data: str | Path,
    budget: str = "",
    *,
    dry_run: bool = False,
    console: Console | None = None,
    **options: Any,
) -> Path:
    """From images and a budget to a model that ships, with its report.

    Args:
        data: folder, file or archive of images.
        budget: limits of the shipped file, such as "10ms" or "30fps,4MB"; empty = none.
        dry_run: stop after the table of candidates.
        console: where to say what happens; standard output if None.
        **options: the other fields of `FitConfig`, such as `minutes=30`.

    Returns:
        The run folder: `model.onnx`, `ship/`, `report.html` and all that they were made from.

    Raises:
        DataError: the images cannot be used.
        UsageError: an option makes no sense, or the run folder holds another run.
        BudgetError: nothing keeps the budget; the report says what comes nearest.
        GateError: the exported file disagrees with the trained model.
    """
    for name in options:
        if name not in FitConfig.__dataclass_fields__:
            raise unknown("option of fit", name, FitConfig.__dataclass_fields__)
    config = FitConfig(str(data), budget, **options)
    run = _Run(config, console)
    with run.reported():
        images = inspect(run)
        candidates = time_models(run, images)
        if dry_run:
            return run.folder
        trained = train_best(run, images, candidates)
        file, verdict = shrink_and_verify(run, images, trained)
        hand_over(run, images, trained, file, verdict)
    return run.folder


class _Run(Voice):
    """A run folder, its configuration and its voice."""

    def __init__(self, config: FitConfig, console: Console | None) -> None:
        super().__init__(console)
        self.config, self.folder = config, config.folder
        asked = {f.name: getattr(config, f.name) for f in fields(config)}
        asked = {k: list(v) if isinstance(v, tuple) else v for k, v in asked.items()}
        path = self.folder / "config.yaml"
        if path.is_file():
            _check_same(path, asked)
        else:
            command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
            started = datetime.now(timezone.utc).isoformat(timespec="seconds")
            known = {**asked, "command": command, "started": started}
            write_text(path, yaml.safe_dump(known, sort_keys=False))

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Whatever happens, the report is written with what there is."""
        try:
            yield
        finally:
            self.say("report", str(render(self.folder)))


def _check_same(path: Path, asked: dict[str, Any]) -> None:
    known = yaml.safe_load(path.read_text(encoding="utf-8"))
    other = [k for k, v in asked.items() if k != "out" and known.get(k) != v]
    if other:
        said = ", ".join(f"{k} {known.get(k)!r} then, {asked[k]!r} now" for k in other)
        raise UsageError(
            f"{path.parent} holds another run ({said}); choose another --out, or delete it"
        )


def inspect(run: _Run) -> ImageDataset:
    """Step 1: read the data and say what is in there."""
    with run.bar("inspect") as bar:
        found = inspect_dataset(run.config.data, seed=run.config.seed, progress=bar)
    data = found.data
    for note in found.notes:
        run.say("inspect", note)
    for warning in found.warnings:
        run.say("warning", warning)
    write_json(run.folder / "dataset.json", found.to_dict())
    draw_sheet(found, run.folder / "sheet.png")
    if found.problem:
        raise DataError(f"{run.config.data}: {found.problem}")
    write_json(run.folder / "machine.json", machine().to_dict())
    run.say("machine", machine().hardware)
    return data


def typical_size(data: ImageDataset, sample: int = 64) -> tuple[int, int]:
    """Median (height, width) of a sample of the images, evenly spaced."""
    chosen = np.unique(np.linspace(0, len(data.val) - 1, sample).astype(int))
    shapes = [data.val.image(int(i)).shape[:2] for i in chosen]
    height, width = np.median(np.array(shapes), axis=0).astype(int)
    return int(height), int(width)


def time_models(run: _Run, data: ImageDataset) -> list[Candidate]:
    """Step 2: what would each network cost, on this machine or on the profile's."""
    config, path = run.config, run.folder / "candidates.json"
    if path.is_file():
        candidates = [Candidate.from_dict(c) for c in read_json(path)]
    else:
        candidates = _timed(run, data)
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


def _timed(run: _Run, data: ImageDataset) -> list[Candidate]:
    config = run.config
    height, width = typical_size(data)
    folder = Path(config.weights) if config.weights else None
    side, hub = min(height, width), hub_reachable()
    if config.models:
        specs = matching_specs(config.models, side, folder=folder, hub=hub)
    else:
        specs = default_specs(side, folder=folder, hub=hub)
    profile = DeviceProfile.load(config.profile) if config.profile else None
    for note in profile.notes() if profile else ():
        run.say("warning", note)
    with run.bar("candidates") as bar:
        return time_candidates(
            specs,
            config.limits,
            image_hw=(height, width),
            channels=data.channels,
            num_classes=data.num_classes,
            threads=config.threads or None,
            seconds=min(TIMING_SECONDS, 20 * config.minutes),
            progress=lambda done, total, _: bar(done, total),
            profile=profile,
        )


def train_best(run: _Run, data: ImageDataset, candidates: list[Candidate]) -> Trained:
    """Step 3: spend the minutes by successive halving; the winner gets most of them."""
    preprocess = partial(preprocess_for, data=data, stats=pixel_stats(data))

    def epoch_seconds(candidate: Candidate) -> float:
        recipe = run.config.recipe_for(candidate.spec)
        spec = candidate.spec
        step = step_seconds(spec, data, recipe, preprocess(spec), task=Classify)
        return step * max(1, len(data.train) // min(recipe.batch_size, len(data.train)))

    def trainer(job: Job) -> Trained:
        spec = job.candidate.spec
        recipe = run.config.recipe_for(spec).replace(epochs=round(job.epochs, 3))
        options = "".join(f"-{k}={v}" for k, v in sorted(spec.kwargs.items()))
        name = f"{job.rung}-{spec.name}-{spec.size}{options}".replace(" ", "")
        run.say("train", f"{spec.label}: {job.epochs:.1f} epochs, {job.minutes:.1f} minutes")
        return train(
            spec,
            data,
            recipe,
            run.folder / "trials" / name,
            preprocess=preprocess(spec),
            task=Classify,
            init=job.init,
            device=run.config.device,
        )

    def told(trial: Trial) -> None:
        run.say("trial", f"{trial.label}: {100 * trial.score:.2f}% in {trial.minutes:.1f} minutes")

    search: Search = successive_halving(
        candidates,
        trainer,
        run.config.minutes,
        epoch_seconds=epoch_seconds,
        trials_path=run.folder / "trials.json",
        on_trial=told,
    )
    for name in ("metrics.csv", "trained.json", "weights.safetensors"):
        with atomic_path(run.folder / name) as temporary:
            temporary.write_bytes((search.folder / name).read_bytes())
    return Trained.load(run.folder)


def shrink_and_verify(run: _Run, data: ImageDataset, trained: Trained) -> tuple[Path, Verdict]:
    """Steps 4 to 6: export, quantize, and judge both files on held-out images."""
    work, network = run.folder / "work", trained.model()
    body = export_network(network, trained.preprocess.size, trained.channels, work / "network.onnx")
    run.say("quantize", "INT8: looking for the cheapest calibration that keeps the accuracy")
    report = _quantize(run, data, trained, body, work / "network-int8.onnx")
    for attempt in report.attempts:
        run.say("quantize", str(attempt))
    files = {
        name: assemble(
            part, trained.preprocess, describe(trained, precision=name), work / f"{name}.onnx"
        )
        for name, part in (("fp32", body), ("int8", report.path))
    }
    with run.bar("verify") as bar:
        verdict = verify(
            network,
            PreprocessModule(trained.preprocess),
            files,
            data.test,
            channels=trained.channels,
            multilabel=trained.multilabel,
            max_drop=run.config.max_drop,
            budget_ms=run.config.limits.ms,
            threads=run.config.threads or None,
            progress=bar,
        )
    write_json(run.folder / "chain.json", verdict.to_dict())
    run.chain(verdict)
    run.say("verify", verdict.why)
    return files[verdict.shipped], verdict


def _quantize(
    run: _Run, data: ImageDataset, trained: Trained, network: Path, out: Path
) -> QuantizeReport:
    """INT8 by calibration on training images; attempts are judged on validation images."""
    seen = EvalImages(data.val, trained.preprocess)
    some = np.unique(np.linspace(0, len(data.train) - 1, CALIBRATION_IMAGES).astype(int))
    calibration = EvalImages(data.train.subset(some), trained.preprocess)
    threads = run.config.threads or None

    def score(file: Path) -> float:
        running = session(file, threads)
        pairs = [
            (running.run(None, {"input": images.numpy()})[0], labels.numpy())
            for images, labels in seen.batches(64)
        ]
        logits, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return metric(logits, labels, trained.multilabel)

    batches = [images.numpy() for images, _ in calibration.batches(32)]
    return quantize_best(network, out, batches, score, score(network), run.config.max_drop)


def hand_over(
    run: _Run, data: ImageDataset, trained: Trained, file: Path, verdict: Verdict
) -> None:
    """Step 7: the file that ships, what it needs, and what the report shows of it."""
    found = verdict.predictions
    save_predictions(run.folder, found.names, found.labels, found.probability,
                     lambda i: data.test.image(i, trained.channels))  # fmt: skip
    image = data.test.image(0, trained.channels)[None]
    layers = layer_times(file, image, machine(), run.config.threads or None)
    write_json(run.folder / "layers.json", [layer.to_dict() for layer in layers])
    with atomic_path(run.folder / "model.onnx") as temporary:
        temporary.write_bytes(file.read_bytes())
    folder = ship(run.folder / "ship", file, _card(run, data, trained, verdict))
    write_json(run.folder / "card.json", read_json(folder / "card.json"))
    run.say("ship", f"{folder}: model.onnx, labels.txt, card.json, README.md, run.py")
    limits, row = run.config.limits, verdict.row
    broken = limits.why_not(
        row.latency.median_ms if row.latency else None, row.file_mb, row.memory_mb
    )
    if broken and not run.config.profile:
        raise BudgetError(
            f"the file that ships breaks the budget ({broken}); {verdict.why}. Allow more, or let "
            "INT8 lose more with --max-drop"
        )


def _card(run: _Run, data: ImageDataset, trained: Trained, verdict: Verdict) -> Card:
    """What was measured, for the model card."""
    row = verdict.row
    known = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    return Card(
        name=f"{trained.spec.label} on {Path(run.config.data).name}",
        data=f"{Path(run.config.data).name}: {len(data.train)} training images, "
        f"{data.num_classes} classes",
        metric_name=verdict.metric_name,
        metric=row.metric,
        low=row.low,
        high=row.high,
        images=verdict.images,
        latency=str(row.latency),
        hardware=machine().hardware,
        init=trained.spec.weights or "scratch",
        command=known["command"],
    )
