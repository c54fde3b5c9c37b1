"""Hyper-parameters of a recipe, tuned for the images at hand: Optuna's TPE and successive halving.

Every trial is the recipe with other values, trained from the start at a ninth of the epochs; the
best third goes on to a third of them, and of those the best third to all. The first trial is the
recipe as it is, so tuning ends no worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinet.errors import SinetError, UsageError
from sinet.models._networks import check_task
from sinet.models.spec import ModelSpec
from sinet.search.ledger import RUNGS, best, climb, finished, open_study, work
from sinet.search.outcome import write_table
from sinet.search.session import FEWEST_EPOCHS, Request, Say, Session, told
from sinet.training.recipe import TASK_OPTIONS, Recipe

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

FACTOR = 10.0
"""Rates and decays are tried from so many times less to so many times more than the recipe's."""
SHARES: dict[str, tuple[float, float, float]] = {
    "warmup": (0.0, 0.4, 0.05),
    "label_smoothing": (0.0, 0.3, 0.05),
    "mixup": (0.0, 0.8, 0.2),
    "cutmix": (0.0, 1.0, 0.25),
    "randaugment": (0.0, 10.0, 1.0),
    "color_jitter": (0.0, 0.6, 0.1),
    "random_erasing": (0.0, 0.5, 0.1),
    "drop_path": (0.0, 0.3, 0.05),
    "dropout": (0.0, 0.5, 0.1),
}
"""Lowest, highest, step."""


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
        recipe: the best, at the full epochs.
        path: its file, for `sinet train --recipe`.
        score: validation metric with it.
        before: with the recipe as it was; None if that trial was stopped early.
    """

    recipe: Recipe
    path: Path
    score: float
    before: float | None


def tune(request: Request, model: str, size: int, epochs: float | None, say: Say = print) -> Tuned:
    """Tune a recipe; the same call goes on, and several processes may share the trials.

    Args:
        request: what is asked; `trials` at least 1.
        model: a registered model, or the file of a spec.
        size: input size, pixels; 0 = the images' own, at most 224.
        epochs: of a full training; None = the recipe's.
        say: told of the progress.

    Raises:
        UsageError: no trials, or the storage holds another search.
    """
    if not request.trials:
        raise UsageError("--trials 0 given; tuning wants at least one")
    session = Session(request, "tune", share=1.0)
    if model.endswith((".yaml", ".yml", ".json")):
        spec = ModelSpec.from_file(model)
    else:
        spec = ModelSpec(model, size or min(224, session.image_size))
    check_task(spec.name, session.data.task)
    full = session.recipe.replace(epochs=epochs or session.recipe.epochs)
    study = open_study(
        request.journal,
        "tune",
        session.identity(model=spec.to_dict(), epochs=full.epochs),
        request.seed,
    )
    run = Tuning(session, spec, full, study)
    study.enqueue_trial(run.as_it_is(), skip_if_exists=True)
    work(study, run.objective, lambda: session.goes_on(study), lambda t: say(told(t, {})))
    return run.end()


class Tuning:
    """One worker's side of tuning."""

    def __init__(self, session: Session, spec: ModelSpec, full: Recipe, study: Study) -> None:
        self.session, self.spec, self.full, self.study = session, spec, full, study
        self.metric = session.metric(spec)

    def shares(self) -> dict[str, tuple[float, float, float]]:
        """Those of `SHARES` that the task knows, wide enough for the recipe's own value."""
        ignored = TASK_OPTIONS - set(self.session.task.options)
        plain = not {"ce", "focal"} & set(self.full.loss.split("+"))
        found = {}
        for name, (low, high, step) in SHARES.items():
            if name in ignored or (name == "label_smoothing" and plain):
                continue
            found[name] = (low, max(high, getattr(self.full, name)), step)
        return found

    def as_it_is(self) -> dict[str, float]:
        """The recipe's own values, on the steps of `shares`."""
        point = {"lr": self.full.lr, "weight_decay": max(self.full.weight_decay, 1e-6)}
        for name, (_, _, step) in self.shares().items():
            point[name] = _on_step(getattr(self.full, name), step)
        return point

    def recipe(self, trial: Trial) -> Recipe:
        """The recipe of a trial."""
        values: dict[str, Any] = {}
        for name in ("lr", "weight_decay"):
            middle = self.as_it_is()[name]
            values[name] = trial.suggest_float(name, middle / FACTOR, middle * FACTOR, log=True)
        for name, (low, high, step) in self.shares().items():
            value = trial.suggest_float(name, low, _on_step(high, step), step=step)
            values[name] = _on_step(value, step)
        return self.full.replace(**values)

    def objective(self, trial: Trial) -> float:
        """The metric at the full epochs, if the trial comes so far."""
        recipe = self.recipe(trial)
        trial.set_user_attr("recipe", recipe.to_dict())

        def fit(units: int) -> float:
            epochs = max(FEWEST_EPOCHS, round(recipe.epochs * units / RUNGS[-1], 3))
            folder = self.session.folder(trial, units)
            trained = self.session.fit_by(recipe.replace(epochs=epochs), self.spec, folder)
            return trained.metrics[self.metric]

        return climb(trial, fit)

    def end(self) -> Tuned:
        """Write the best recipe, and the table."""
        winner = best(self.study)
        if winner is None or winner.value is None:
            raise SinetError("no trial finished a training; give more --minutes")
        out = self.session.request.out
        recipe = Recipe.from_dict(winner.user_attrs["recipe"])
        path = recipe.to_yaml(out / "recipe.yaml")
        write_table(self.study.get_trials(deepcopy=False), (), self.metric, out / "tune.csv")
        return Tuned(recipe, path, winner.value, self.before())

    def before(self) -> float | None:
        """The metric of the recipe as it is, if it was trained in full."""
        for trial in finished(self.study):
            if trial.last_step == RUNGS[-1] and _same(trial, self.as_it_is()):
                return trial.value
        return None


def _on_step(value: float, step: float) -> float:
    """The nearest multiple of a step, without the rest that binary fractions leave."""
    return round(round(value / step) * step, 6)


def _same(trial: FrozenTrial, point: dict[str, float]) -> bool:
    return all(abs(trial.params[name] - value) < 1e-9 for name, value in point.items())
