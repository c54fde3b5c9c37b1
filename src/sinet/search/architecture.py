"""Hardware-aware search over SiNets: the most accurate that keeps a measured budget.

Tree-structured Parzen estimators propose (Optuna's, with the budget as a constraint), the exported
candidate is timed, and asynchronous successive halving over short trainings by one recipe decides
which are trained longer. There is no weight-sharing supernet: widths, kernels and resolutions that
share weights rank poorly against each other at the few minutes that a person has, and each
candidate's own short training is what `sinet fit` decides by too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinet.errors import BudgetError, SinetError
from sinet.files import write_json
from sinet.models.spec import ModelSpec
from sinet.search.budget import Budget
from sinet.search.clock import TOLERANCE, Stopwatch, Taken, features, predicted
from sinet.search.ledger import best, climb, finished, once, open_study, work
from sinet.search.outcome import draw, write_table
from sinet.search.session import Request, Say, Session, told, units_of_a_trial, write_spec
from sinet.search.spaces import HAND_SET, SiNetSpace
from sinet.training.trained import Trained

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

COLUMNS = ("ms", "mb", "memory_mb", "macs", "epochs")


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        spec: the network.
        folder: of the search: `found.yaml`, `search.csv`, `search.png`, `search.json`, and the
            last training.
        score: validation metric of its last trial.
        trained: the last training; None for one who only helped.
    """

    spec: ModelSpec
    folder: Path
    score: float
    trained: Trained | None


def search_sinet(request: Request, budget: Budget, say: Say = print) -> Found:
    """Search, and train what was found with the minutes that are left.

    The same call goes on with a search that was stopped; several processes with the same storage
    share one.

    Args:
        request: what is asked.
        budget: what the exported FP32 file may cost here.
        say: told of the progress.

    Raises:
        BudgetError: no point of the space keeps the budget; the fastest is named.
        UsageError: the storage holds another search.
    """
    session = Session(request, "search", ("classify",))
    space = SiNetSpace(session.image_size)
    stopwatch = Stopwatch(
        session.data, session.task, space.spec(space.smallest()), request.out, request.threads
    )
    conditions = {"space": "sinet", "budget": str(budget), "threads": request.threads}
    study = open_study(
        request.journal,
        "sinet",
        session.identity(**conditions, machine=session.machine()),
        request.seed,
    )
    run = Architectures(session, space, budget, stopwatch, study)
    run.begin()
    work(study, run.objective, lambda: session.goes_on(study), lambda t: say(run.line(t)))
    return run.end(say)


class Architectures:
    """One worker's side of a search over SiNets."""

    def __init__(
        self,
        session: Session,
        space: SiNetSpace,
        budget: Budget,
        stopwatch: Stopwatch,
        study: Study,
    ) -> None:
        self.session, self.space, self.budget = session, space, budget
        self.stopwatch, self.study = stopwatch, study
        self.metric = session.metric(space.spec(space.smallest()))

    def begin(self) -> None:
        """Hold the budget against the smallest network, and lay out the minutes.

        Raises:
            BudgetError: it breaks the budget, so every other does.
        """
        self.reference_ms: float = once(self.study, "reference_ms", self.stopwatch.own_ms)
        smallest = self.space.spec(self.space.smallest())
        taken = self.time(smallest)
        if why := taken.why_not(self.budget):
            raise BudgetError(
                f"no point of the space keeps {self.budget}: the fastest, {smallest.label}, "
                f"takes {taken.ms:.3g} ms and {taken.mb:.3g} MB ({why}); allow more, or give "
                "smaller images"
            )
        self.unit: float = once(self.study, "unit_epochs", self.unit_epochs)
        for point in once(self.study, "begun_with", self.first_points):
            self.study.enqueue_trial(point, skip_if_exists=True)

    def time(self, spec: ModelSpec) -> Taken:
        """What a network costs here."""
        memory = self.budget.memory_mb is not None
        return self.stopwatch(spec, self.reference_ms, memory)

    def first_points(self) -> list[dict[str, int | str]]:
        """The smallest and the hand-set networks: the search ends no worse than they are."""
        return [*(self.space.hand_set(name) for name in HAND_SET), self.space.smallest()]

    def unit_epochs(self) -> float:
        """Epochs of the first rung, by the speed of the largest hand-set network that fits."""
        yardstick = self.space.spec(self.space.smallest())
        for name in reversed(HAND_SET):
            spec = self.space.spec(self.space.hand_set(name))
            if self.time(spec).excess(self.budget) <= 0:
                yardstick = spec
                break
        return self.session.unit_epochs(yardstick, units_of_a_trial())

    def objective(self, trial: Trial) -> float:
        """The metric of a candidate at the last rung.

        Raises:
            optuna.TrialPruned: too slow, seen before, or not among the best of a rung.
        """
        from optuna import TrialPruned

        spec = self.space.spec(self.space.suggest(trial))
        twin = self.twin(spec)
        trial.set_user_attr("spec", spec.to_dict())
        if twin is not None:
            trial.set_user_attr("why", f"the network of trial {twin}")
            raise TrialPruned
        excess, why = self.cost(trial, spec)
        trial.set_constraint("budget", excess)
        if excess > 0:
            trial.set_user_attr("why", why)
            raise TrialPruned
        return climb(trial, lambda units: self.fit(trial, spec, units))

    def twin(self, spec: ModelSpec) -> int | None:
        """The trial that has this very network, if any."""
        from optuna.trial import TrialState

        states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
        for other in self.study.get_trials(deepcopy=False, states=states):
            if other.user_attrs.get("spec") == spec.to_dict() and "why" not in other.user_attrs:
                return other.number
        return None

    def cost(self, trial: Trial, spec: ModelSpec) -> tuple[float, str]:
        """By how much a candidate breaks the budget, and why; timed unless it is hopeless."""
        macs = self.stopwatch.macs(spec)
        trial.set_user_attr("macs", macs)
        guess = predicted(self.timed(), features(spec, macs))
        if guess is not None and self.budget.ms and guess > TOLERANCE * self.budget.ms:
            return guess / self.budget.ms - 1, f"predicted {guess:.3g} ms"
        taken = self.time(spec)
        for name, value in asdict(taken).items():
            trial.set_user_attr(name, value)
        return taken.excess(self.budget), taken.why_not(self.budget)

    def timed(self) -> list[tuple[list[float], float]]:
        """Features and milliseconds of every candidate that was timed."""
        attrs = [t.user_attrs for t in self.study.get_trials(deepcopy=False)]
        return [
            (features(ModelSpec.from_dict(a["spec"]), a["macs"]), a["ms"])
            for a in attrs
            if "ms" in a
        ]

    def fit(self, trial: Trial, spec: ModelSpec, units: int) -> float:
        """The metric after a rung, which starts from the weights of the one before."""
        trial.set_user_attr("epochs", units * self.unit)
        before = self.session.folder(trial, units // 3)
        trained = self.session.fit(
            spec,
            round(units * self.unit, 3),
            self.session.folder(trial, units),
            before if units > 1 else None,
        )
        return trained.metrics[self.metric]

    def line(self, trial: FrozenTrial) -> str:
        """For the terminal."""
        return told(trial, {"ms": trial.user_attrs.get("ms")})

    def end(self, say: Say) -> Found:
        """Write down what was found, and train it; a helper leaves that to whom it helps."""
        winner = best(self.study)
        if winner is None or winner.value is None:
            raise SinetError("no candidate finished a training; give more --minutes")
        request = self.session.request
        spec = ModelSpec.from_dict(winner.user_attrs["spec"])
        if request.join:
            return Found(spec, request.out, winner.value, None)
        write_spec(spec, request.out / "found.yaml")
        trials = self.study.get_trials(deepcopy=False)
        write_table(trials, COLUMNS, self.metric, request.out / "search.csv")
        draw(finished(self.study), winner, self.budget, self.metric, request.out / "search.png")
        say(f"found in trial {winner.number}: {winner.value:.4f}, {winner.user_attrs['ms']:.3g} ms")
        number = winner.user_attrs.get("again", winner.number)
        init = request.out / "trials" / f"{number:04}-{winner.last_step}"
        trained = self.session.finish(self.study, spec, init if init.is_dir() else None, say)
        write_json(request.out / "search.json", self.summary(winner, trained))
        return Found(spec, request.out, winner.value, trained)

    def summary(self, winner: FrozenTrial, trained: Trained) -> dict[str, Any]:
        """What was found, as plain values."""
        facts = {name: winner.user_attrs.get(name) for name in COLUMNS}
        done = self.study.get_trials(deepcopy=False)
        return {
            "spec": winner.user_attrs["spec"],
            "trial": winner.number,
            "trials": len(finished(self.study)),
            "rejected": sum(t.state.is_finished() and t.value is None for t in done),
            "metric": self.metric,
            "score": winner.value,
            "final": trained.metrics,
            "budget": str(self.budget),
            **facts,
        }
