"""The search for cells: small networks of proposed cells are trained alike, the best are stacked.

NASNet's own protocol (arXiv 1707.07012), cut down to a person's minutes: children see the images
small, are trained for the same epochs each, and their validation metric is the reward. What was
found is then stacked deeper and wider, for the images at their own size: the transfer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinet.errors import BudgetError, SinetError, UsageError, unknown
from sinet.files import write_json
from sinet.models._nasnet_cell import NORMAL_A, REDUCTION_A
from sinet.models.spec import ModelSpec
from sinet.search.architecture import Found
from sinet.search.budget import Budget
from sinet.search.cells import Cells
from sinet.search.clock import Stopwatch
from sinet.search.controller import Controller
from sinet.search.ledger import best, finished, once, open_study, work
from sinet.search.outcome import write_table
from sinet.search.session import Request, Say, Session, told, write_spec
from sinet.search.strategies import (
    STRATEGIES,
    Child,
    Evolution,
    RandomSearch,
    Strategy,
    value_of,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

CELLS_A = Cells(NORMAL_A, REDUCTION_A)
CHILD_SIZE = 32
"""Children see images of at most this many pixels."""
CHILD = (1, 8)
"""Normal cells a stage and channels of a child; the paper's were 2 and 32, on 500 GPUs."""
STACKS = ((6, 44), (4, 44), (4, 32), (3, 24), (2, 24), (2, 16), (1, 16), (1, 8), (1, 4))
"""Normal cells a stage and channels of what the found cells are stacked into, largest first."""
USUAL_STACK = (2, 16)
"""Without a budget."""


def strategy(name: str, seed: int) -> Strategy:
    """One of `STRATEGIES`.

    Raises:
        UsageError: there is no such; the nearest is offered.
    """
    if name == "ppo":
        return Controller("ppo", seed)
    if name == "reinforce":
        return Controller("reinforce", seed)
    if name == "evolution":
        return Evolution(seed)
    if name == "random":
        return RandomSearch(seed)
    raise unknown("strategy", name, STRATEGIES)


def search_cells(
    request: Request,
    budget: Budget | None = None,
    by: str = "ppo",
    transfer: bool = True,
    say: Say = print,
) -> Found:
    """Search for cells, and train the network stacked of the best.

    Args:
        request: what is asked.
        budget: of the exported stacked network; None = none.
        by: the strategy.
        transfer: stack the cells deeper and wider for the images' own size; otherwise the child
            itself is trained longer.
        say: told of the progress.

    Raises:
        BudgetError: the smallest stack breaks the budget.
        UsageError: the storage holds another search, or a budget without `transfer`.
    """
    if budget is not None and not transfer:
        raise UsageError(
            f"budget {budget} given, but children are of one size; add --cells to stack the cells "
            "as the budget allows, or leave the budget out"
        )
    session = Session(request, "search", ("classify",))
    proposer = strategy(by, request.seed)
    identity = session.identity(space="nasnet", by=by)
    study = open_study(request.journal, "nasnet", identity)
    run = CellSearch(session, study, proposer)
    if budget is not None and not request.join:
        run.stacked_within(CELLS_A, budget)
    work(study, run.objective, lambda: session.goes_on(study), lambda t: say(run.line(t)))
    return run.end(budget, transfer, say)


class CellSearch:
    """One worker's side of a search for cells."""

    def __init__(self, session: Session, study: Study, proposer: Strategy) -> None:
        self.session, self.study, self.proposer = session, study, proposer
        self.size = min(CHILD_SIZE, max(16, session.image_size))
        example = self.child(CELLS_A)
        self.metric = session.metric(example)
        self.epochs: float = once(study, "epochs", lambda: session.unit_epochs(example, 1.0))

    def child(self, cells: Cells) -> ModelSpec:
        """The network by which cells are judged."""
        return cells.stacked(self.size, *CHILD)

    def history(self) -> list[Child]:
        """What was tried, as the strategies want it."""
        return [
            Child(Cells.of(t.user_attrs["cells"]), t.value or 0.0) for t in finished(self.study)
        ]

    def objective(self, trial: Trial) -> float:
        """The metric of a child of the proposed cells; read where they were tried before."""
        history = self.history()
        if "cells" in trial.user_attrs:  # taken up again
            cells = Cells.of(trial.user_attrs["cells"])
        else:
            cells = self.proposer.propose(history, trial.number)
            trial.set_user_attr("cells", cells.to_dict())
        known = value_of(cells, history)
        if known is not None:
            return known
        trained = self.session.fit(self.child(cells), self.epochs, self.session.folder(trial, 1))
        return trained.metrics[self.metric]

    def line(self, trial: FrozenTrial) -> str:
        """For the terminal."""
        return told(trial, {})

    def stacked_within(self, cells: Cells, budget: Budget) -> ModelSpec:
        """The largest stack of cells that keeps a budget.

        Raises:
            BudgetError: none does.
        """
        session = self.session
        size = session.sides()
        smallest = CELLS_A.stacked(size, *STACKS[-1])
        watch = Stopwatch(
            session.data, session.task, smallest, session.request.out, session.request.threads
        )
        reference_ms = watch.own_ms()
        for repeats, dim in STACKS:
            spec = cells.stacked(size, repeats, dim)
            taken = watch(spec, reference_ms, budget.memory_mb is not None)
            if taken.excess(budget) <= 0:
                return spec
        raise BudgetError(
            f"no stack of cells keeps {budget}: the smallest takes {taken.ms:.3g} ms and "
            f"{taken.mb:.3g} MB; allow more, or search --space sinet"
        )

    def end(self, budget: Budget | None, transfer: bool, say: Say) -> Found:
        """Write down what was found, and train it; a helper leaves that to whom it helps."""
        winner = best(self.study)
        if winner is None or winner.value is None:
            raise SinetError("no child finished its training; give more --minutes")
        request, cells = self.session.request, Cells.of(winner.user_attrs["cells"])
        spec = self.child(cells)
        if request.join:
            return Found(spec, request.out, winner.value, None)
        if budget is not None:
            spec = self.stacked_within(cells, budget)
        elif transfer:
            spec = cells.stacked(self.session.sides(), *USUAL_STACK)
        write_json(request.out / "cells.json", cells.to_dict())
        write_spec(spec, request.out / "found.yaml")
        trials = self.study.get_trials(deepcopy=False)
        write_table(trials, ("cells",), self.metric, request.out / "search.csv")
        say(f"found in trial {winner.number}: {winner.value:.4f}; {request.out / 'cells.json'}")
        trained = self.session.finish(self.study, spec, None, say)
        facts = {
            "spec": spec.to_dict(),
            "trial": winner.number,
            "trials": len(trials),
            "score": winner.value,
            "metric": self.metric,
            "final": trained.metrics,
        }
        write_json(request.out / "search.json", facts)
        return Found(spec, request.out, winner.value, trained)
