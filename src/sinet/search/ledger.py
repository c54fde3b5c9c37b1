"""Trials in an Optuna storage, which processes and machines work on together.

A trial is a line in a file (or a row of a data base) before its training begins. Who works on it
says so every half minute; one whose worker has died is queued again as it was, and since trainings
resume from their checkpoints, little more than its last minutes is done twice. What is finished
stays finished, whatever kills a process.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinet.errors import SinetError, UsageError, missing_extra
from sinet.training.checkpoint import difference

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

BEAT_SECONDS = 30.0
"""Between two signs of life of a worker."""
GRACE_SECONDS = 150.0
"""Without a sign of life a worker on another machine counts as dead."""
RUNGS = (1, 3, 9)
"""Resources of a trial's trainings, in units; the best third goes on to the next."""


def open_study(
    storage: str,
    name: str,
    identity: Mapping[str, Any],
    seed: int = 0,
) -> Study:
    """Begin a search, or join the one that the storage holds.

    Args:
        storage: the file of a journal, or the URL of a data base, such as `sqlite:///search.db`.
        name: of the search within the storage.
        identity: plain values that the trials depend on.
        seed: of the sampler (tree-structured Parzen estimators).

    Raises:
        UsageError: Optuna is missing, the storage cannot be opened, or what it holds is another
            search; what differs is said.
    """
    optuna = _optuna()
    try:
        study: Study = optuna.create_study(
            storage=_storage(storage),
            study_name=name,
            direction="maximize",
            pruner=successive_halving(),
            load_if_exists=True,
        )
    except Exception as error:  # SQLAlchemy, the file system and Optuna raise kinds of their own
        raise UsageError(
            f"the storage {storage} cannot be opened: {str(error).splitlines()[0][:200]}; give "
            "--storage a file or a URL such as sqlite:///search.db"
        ) from error
    # who comes later, or again, must not draw once more what the first has drawn
    drawn = 10_007 * len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed + drawn, constant_liar=True)
    known = study.user_attrs.get("identity")
    if known is None:
        study.set_user_attr("identity", dict(identity))
    elif other := [key for key, value in identity.items() if known.get(key) != value]:
        raise UsageError(
            f"{storage} holds another search: {difference(known, dict(identity), other)}; repeat "
            "what it was begun with, or choose another --out or --storage"
        )
    return study


def successive_halving() -> BasePruner:
    """A trial goes on from a rung if it is among the best third that have come so far.

    Asynchronous (arXiv 1810.05934), so that no worker waits for another.
    """
    pruner: BasePruner = _optuna().pruners.SuccessiveHalvingPruner(
        min_resource=RUNGS[0], reduction_factor=RUNGS[1]
    )
    return pruner


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _storage(where: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in where:
        return RDBStorage(where)
    Path(where).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(where))


def work(
    study: Study,
    objective: Callable[[Trial], float],
    goes_on: Callable[[], bool],
    on_trial: Callable[[FrozenTrial], None] | None = None,
) -> None:
    """Take trial after trial as long as `goes_on`.

    Args:
        study: the search.
        objective: value of a trial, larger is better; it may raise `optuna.TrialPruned`. A training
            that fails by itself ends its trial with the reason in `why`.
        goes_on: asked before each trial.
        on_trial: told of each finished trial.
    """
    from optuna import TrialPruned
    from optuna.trial import TrialState

    while True:
        take_up(study)
        if not goes_on():
            return
        trial = study.ask()
        with _signs_of_life(trial):
            try:
                value, state = objective(trial), TrialState.COMPLETE
            except TrialPruned:
                value, state = None, TrialState.PRUNED
            except UsageError:
                raise  # would end every other trial too
            except SinetError as error:
                trial.set_user_attr("why", str(error))
                value, state = None, TrialState.PRUNED
            done = study.tell(trial, value, state)
        if on_trial is not None:
            on_trial(done)


def climb(trial: Trial, fit: Callable[[int], float]) -> float:
    """Successive halving of one trial: the value at the last rung.

    Args:
        trial: of a study with `successive_halving`.
        fit: trains with so many units and gives the value.

    Raises:
        optuna.TrialPruned: not among the best third of a rung.
    """
    from optuna import TrialPruned

    value = 0.0
    for units in RUNGS:
        value = fit(units)
        trial.report(value, units)
        if units != RUNGS[-1] and trial.should_prune():
            raise TrialPruned
    return value


def take_up(study: Study) -> list[int]:
    """Queue the trials of dead workers again; returns their numbers."""
    from optuna.exceptions import OptunaError
    from optuna.trial import TrialState

    taken = []
    for dead in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _alive(dead):
            continue
        with suppress(OptunaError, ValueError):  # another worker was faster
            study.tell(dead.number, state=TrialState.FAIL)
            kept = {k: v for k, v in dead.user_attrs.items() if k not in ("worker", "beat")}
            study.enqueue_trial(dead.params, user_attrs={"again": dead.number, **kept})
            taken.append(dead.number)
    return taken


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _alive(trial: FrozenTrial) -> bool:
    """Whether a worker is on it: its process lives here, or it gave a sign of life elsewhere."""
    host, _, process = str(trial.user_attrs.get("worker", "")).rpartition(":")
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    fresh = time.time() - float(trial.user_attrs.get("beat", begun)) < GRACE_SECONDS
    if not fresh or host != socket.gethostname():
        return fresh
    if int(process) == os.getpid():
        return trial.number in _mine
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_mine: set[int] = set()
"""Trials that this process is on."""


@contextmanager
def _signs_of_life(trial: Trial) -> Iterator[None]:
    """Say who is on the trial, and that it still is, while the block runs."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            with suppress(Exception):  # a busy data base costs one sign
                trial.set_user_attr("beat", time.time())

    trial.set_user_attr("worker", _worker())
    trial.set_user_attr("beat", time.time())
    _mine.add(trial.number)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _mine.discard(trial.number)


def finished(study: Study) -> list[FrozenTrial]:
    """Trials with a value, in the order in which they were finished."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.PRUNED)
    done = [t for t in study.get_trials(deepcopy=False, states=states) if t.value is not None]
    return sorted(done, key=lambda t: t.datetime_complete or t.datetime_start)  # type: ignore[arg-type, return-value]


def begun(study: Study) -> int:
    """Trials with a value, and those that someone is on."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return len(finished(study)) + len(running)


def best(study: Study) -> FrozenTrial | None:
    """The best of those that came furthest."""
    done = finished(study)
    furthest = max((t.last_step or 0 for t in done), default=0)
    return max(
        (t for t in done if (t.last_step or 0) == furthest),
        key=lambda t: t.value or 0.0,
        default=None,
    )


def spent(study: Study) -> float:
    """Minutes in which anyone worked on the search: pauses and parallel work count once."""
    spans = sorted(_span(t) for t in study.get_trials(deepcopy=False) if t.datetime_start)
    total, reached = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 60


def _span(trial: FrozenTrial) -> tuple[float, float]:
    """When a trial began and when it was last worked on, seconds."""
    from optuna.trial import TrialState

    assert trial.datetime_start is not None
    start = trial.datetime_start.timestamp()
    if trial.state == TrialState.RUNNING and _alive(trial):
        return start, time.time()
    if trial.datetime_complete is None or trial.state == TrialState.FAIL:  # its worker died
        return start, max(start, float(trial.user_attrs.get("beat", start)))
    return start, trial.datetime_complete.timestamp()


def once(study: Study, key: str, make: Callable[[], Any]) -> Any:
    """A plain value that every worker of the search must share; the first makes it."""
    if key not in study.user_attrs:
        study.set_user_attr(key, make())
    return study.user_attrs[key]
