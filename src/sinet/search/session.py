"""What every search does alike: the data, one recipe, the minutes, the last training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sinet.data.dataset import ImageDataset, open_dataset
from sinet.errors import UsageError
from sinet.files import write_text
from sinet.measurement.machine import describe
from sinet.models.spec import ModelSpec
from sinet.search.halving import SAFETY
from sinet.search.ledger import RUNGS, begun, finished, once, spent
from sinet.search.specs import SMALL_IMAGE
from sinet.tasks import learner
from sinet.tasks.base import ImageTask, described
from sinet.tasks.signatures import signature
from sinet.tasks.train_command import split_overrides
from sinet.training.loop import step_seconds, train
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

Say = Callable[[str], None]

SEARCH_SHARE = 0.6
"""Of the minutes; the rest trains what was found."""
USUAL_TRIALS = 24
"""What the minutes are laid out for when nobody says."""
FEWEST_EPOCHS = 0.02


@dataclass(frozen=True)
class Request:
    """What a person asks of a search; see `sinet search` and `sinet tune`.

    Attributes:
        data: where the images are.
        out: folder of the search.
        minutes: for the search and the last training.
        trials: trained candidates at which the search ends; 0 = when its minutes do.
        storage: where the trials are kept, a file or a URL; "" = in `out`.
        recipe: name or file; "" = by the task.
        overrides: `key=value` of the recipe.
        threads: of the runtime when latency is measured; None = as usual.
        device: trains on.
        seed: of everything random.
        join: only help a search that another process has begun.
    """

    data: Path
    out: Path
    minutes: float
    trials: int = 0
    storage: str = ""
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    threads: int | None = None
    device: str = "auto"
    seed: int = 0
    join: bool = False

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.trials < 0:
            raise UsageError(
                f"--minutes {self.minutes:g} and --trials {self.trials} given; minutes must be "
                "above zero, trials not below"
            )

    @property
    def journal(self) -> str:
        """Where the trials are kept."""
        return self.storage or str(self.out / "search.journal")


class Session:
    """Opens the data and trains on them within the minutes.

    Args:
        request: what is asked.
        kind: the verb.
        tasks: what can be searched for; none = any.
        share: of the minutes, for the trials.

    Raises:
        UsageError: data of another task, or options that the recipe does not know.
    """

    def __init__(
        self, request: Request, kind: str, tasks: Sequence[str] = (), share: float = SEARCH_SHARE
    ) -> None:
        self.request, self.kind, self.share = request, kind, share
        self.data: ImageDataset = open_dataset(request.data)
        if tasks and self.data.task not in tasks:
            raise UsageError(
                f"{request.data} is for {self.data.task}; sinet {kind} is for "
                f"{' and '.join(tasks)}, for other tasks try sinet fit"
            )
        self.task: type[ImageTask] = learner(self.data.task)
        values, model = split_overrides(request.overrides)
        if model or "epochs" in values:
            raise UsageError(
                f"{' '.join(request.overrides)} given; a search sets the model and the epochs "
                "itself, give other values of the recipe"
            )
        plain = ModelSpec("", 0)
        named = Recipe.from_yaml(request.recipe or self.task.recipe_name(plain))
        self.recipe = named.replace(**{"seed": request.seed, **values})
        self.recipe.check_for(self.task.name, self.task.options)

    @cached_property
    def image_size(self) -> int:
        """Typical shorter side of the images, pixels."""
        return min(self.task.typical(self.data))

    def sides(self) -> int:
        """The images' own size as the largest networks here take it, pixels."""
        return self.image_size if self.image_size <= SMALL_IMAGE else min(224, self.image_size)

    def metric(self, spec: ModelSpec) -> str:
        """Name of the validation metric that ranks candidates; larger is better."""
        return signature(described(self.data, self.task.preprocessing(spec, self.data))).metric

    def identity(self, **more: Any) -> dict[str, Any]:
        """What the trials of this search depend on, as plain values."""
        return {
            "kind": self.kind,
            "data": self.data.fingerprint(),
            "recipe": self.recipe.to_dict(),
            **more,
        }

    def machine(self) -> dict[str, Any]:
        """What latency depends on: workers of one search must be alike in it."""
        return {key: describe()[key] for key in ("cpu", "cores")}

    def epoch_seconds(self, spec: ModelSpec) -> float:
        """Seconds of a pass over the training data."""
        preprocess = self.task.preprocessing(spec, self.data)
        step = step_seconds(spec, self.data, self.recipe, preprocess, task=self.task)
        samples = self.task.epoch_samples(self.data, spec)
        return step * max(1, samples // min(self.recipe.batch_size, samples))

    def unit_epochs(self, spec: ModelSpec, units: float) -> float:
        """Epochs of a unit of resource, so that the minutes suffice for the trials.

        Args:
            spec: a network of usual speed.
            units: of a trial on average.
        """
        trials = self.request.trials or USUAL_TRIALS
        seconds = self.request.minutes * 60 * self.share * SAFETY / (trials * units)
        return max(FEWEST_EPOCHS, round(seconds / self.epoch_seconds(spec), 3))

    def goes_on(self, study: Study) -> bool:
        """Whether another trial may begin."""
        if self.request.trials and begun(study) >= self.request.trials:
            return False
        return not finished(study) or spent(study) < self.request.minutes * self.share

    def fit(
        self, spec: ModelSpec, epochs: float, folder: Path, init: Path | None = None
    ) -> Trained:
        """Train for so many epochs by the search's recipe; finished trainings are read."""
        return self.fit_by(self.recipe.replace(epochs=epochs), spec, folder, init)

    def fit_by(
        self, recipe: Recipe, spec: ModelSpec, folder: Path, init: Path | None = None
    ) -> Trained:
        """Train by a recipe."""
        return train(
            spec,
            self.data,
            recipe,
            folder,
            preprocess=self.task.preprocessing(spec, self.data),
            task=self.task,
            init=init,
            device=self.request.device,
            progress=False,
        )

    def folder(self, trial: Trial, units: int) -> Path:
        """Where a trial's training lies; one that is taken up again goes on in the same."""
        number = trial.user_attrs.get("again", trial.number)
        return self.request.out / "trials" / f"{number:04}-{units}"

    def finish(self, study: Study, spec: ModelSpec, init: Path | None, say: Say) -> Trained:
        """Train what was found with the minutes that are left, in the search's folder."""
        minutes = self.request.minutes

        def plan() -> float:
            left = max(minutes - spent(study), minutes * (1 - self.share) / 2)
            return max(FEWEST_EPOCHS, round(left * 60 * SAFETY / self.epoch_seconds(spec), 3))

        epochs = once(study, "final_epochs", plan)
        say(f"training what was found for {epochs:g} epochs")
        return self.fit(spec, epochs, self.request.out, init)


def write_spec(spec: ModelSpec, path: Path) -> Path:
    """The model as `sinet train --model` takes it."""
    return write_text(path, yaml.safe_dump(spec.to_dict(), sort_keys=False))


def units_of_a_trial() -> float:
    """On average, when a third of the trials goes on from each rung."""
    return sum(units / float(RUNGS[1]) ** rung for rung, units in enumerate(RUNGS))


def told(trial: FrozenTrial, facts: Mapping[str, Any]) -> str:
    """A line about a trial for the terminal."""
    value = "" if trial.value is None else f" {trial.value:.4f}"
    why = trial.user_attrs.get("why", "")
    words = ", ".join(f"{k} {v:.3g}" for k, v in facts.items() if v is not None)
    return f"trial {trial.number}:{value} {words}{'; ' + why if why else ''}"
