"""Trials that processes share: who is dead, what is left, what was spent, on trials of no cost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from sinet.errors import SinetError, UsageError
from sinet.search.ledger import (
    GRACE_SECONDS,
    best,
    climb,
    finished,
    open_study,
    spent,
    take_up,
    work,
)

NOBODY = 2**22 + 1  # above the largest process number of Linux


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return str(tmp_path / "search.journal")


def opened(storage: str, **identity: object) -> optuna.Study:
    return open_study(storage, "test", identity or {"recipe": {"lr": 0.1}})


def left_running(study: optuna.Study, worker: str, beat: float) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    for name, value in (("worker", worker), ("beat", beat), ("cells", [1, 2])):
        trial.set_user_attr(name, value)
    return trial


def test_another_search_is_refused_with_what_differs(storage: str) -> None:
    opened(storage, recipe={"lr": 0.1, "mixup": 0.0}, space="sinet")
    opened(storage, recipe={"lr": 0.1, "mixup": 0.0}, space="sinet")
    with pytest.raises(UsageError, match=r"recipe\.lr was 0\.1, is 0\.2"):
        opened(storage, recipe={"lr": 0.2, "mixup": 0.0}, space="sinet")
    with pytest.raises(UsageError, match=r"space was 'sinet', is 'nasnet'; .*--storage"):
        opened(storage, recipe={"lr": 0.1, "mixup": 0.0}, space="nasnet")


def test_a_storage_that_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing://here cannot be opened"):
        opened("nothing://here")


def test_without_optuna_the_extra_is_named(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'sinet\[search\]'"):
        opened(storage)


def test_who_comes_later_draws_something_else(storage: str) -> None:
    def draw() -> float:
        trial = opened(storage).ask()
        return trial.suggest_float("x", 0, 1)

    assert draw() != draw()


def test_a_data_base_does_as_well(tmp_path: Path) -> None:
    study = opened(f"sqlite:///{tmp_path}/search.db")
    work(study, lambda trial: trial.suggest_float("x", 0, 1), lambda: len(finished(study)) < 2)
    assert len(finished(opened(f"sqlite:///{tmp_path}/search.db"))) == 2


@pytest.mark.parametrize(
    ("worker", "age", "dead"),
    [
        (f"{socket.gethostname()}:{NOBODY}", 0, True),
        (f"{socket.gethostname()}:{os.getppid()}", 0, False),
        (f"{socket.gethostname()}:{os.getpid()}", 0, True),  # of before the machine was restarted
        ("elsewhere:1", 0, False),
        ("elsewhere:1", GRACE_SECONDS + 1, True),
    ],
    ids=["ended", "parent", "before a restart", "elsewhere", "elsewhere, silent"],
)
def test_trials_of_the_dead_are_taken_up_once(
    storage: str, worker: str, age: float, dead: bool
) -> None:
    study = opened(storage)
    trial = left_running(study, worker, time.time() - age)
    assert take_up(study) == ([trial.number] if dead else [])
    assert take_up(study) == []
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == trial.params["x"] or not dead
    assert (again.user_attrs.get("cells") == [1, 2]) == dead
    assert (again.user_attrs.get("again") == trial.number) == dead


def test_a_trial_that_dies_twice_keeps_its_folder(storage: str) -> None:
    study = opened(storage)
    first = left_running(study, f"{socket.gethostname()}:{NOBODY}", time.time())
    take_up(study)
    left_running(study, f"{socket.gethostname()}:{NOBODY}", time.time())
    take_up(study)
    assert study.ask().user_attrs["again"] == first.number


def test_a_trial_that_is_being_worked_on_is_left_alone(storage: str) -> None:
    study, seen = opened(storage), []

    def objective(trial: optuna.Trial) -> float:
        seen.append(take_up(study))
        return 1.0

    work(study, objective, lambda: not seen)
    assert seen == [[]]


SCRIPT = """
import os, signal, sys
from sinet.search.ledger import open_study, work

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    if trial.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return x

study = open_study(sys.argv[1], "test", {"recipe": {"lr": 0.1}})
work(study, objective, lambda: True)
"""


def test_a_killed_process_loses_no_finished_trial(storage: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, storage], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    study = opened(storage)
    assert [t.number for t in finished(study)] == [0, 1]
    lost = study.trials[2].params["x"]
    work(study, lambda t: t.suggest_float("x", 0, 1), lambda: len(finished(study)) < 3)
    assert finished(study)[-1].params["x"] == lost
    assert [t.state for t in study.trials] == [
        TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE
    ]  # fmt: skip


def test_a_failed_training_ends_its_trial_only(storage: str) -> None:
    study = opened(storage)

    def objective(trial: optuna.Trial) -> float:
        if trial.number == 0:
            raise SinetError("the loss became infinite")
        return 1.0

    work(study, objective, lambda: len(study.trials) < 2)
    assert study.trials[0].user_attrs["why"] == "the loss became infinite"
    assert [t.number for t in finished(study)] == [1]


def test_the_best_third_climbs(storage: str) -> None:
    study, fitted = opened(storage), []

    def objective(trial: optuna.Trial) -> float:
        def fit(units: int) -> float:
            fitted.append((trial.number, units))
            return -float(trial.number)

        return climb(trial, fit)

    work(study, objective, lambda: len(study.trials) < 3)
    assert fitted == [(0, 1), (0, 3), (0, 9), (1, 1), (2, 1)]
    assert [t.state for t in study.trials[1:]] == [TrialState.PRUNED] * 2


def test_who_came_furthest_wins(storage: str) -> None:
    study = opened(storage)
    for value, step in ((0.9, 1), (0.5, 9), (0.6, 9)):
        trial = study.ask()
        trial.report(value, step)
        study.tell(trial, value if step == 9 else None, None if step == 9 else TrialState.PRUNED)
    found = best(study)
    assert found is not None
    assert found.value == 0.6


@pytest.fixture
def at() -> Callable[[float], datetime]:
    start = datetime(2026, 1, 1)
    return lambda minutes: start + timedelta(minutes=minutes)


def test_minutes_count_once_and_pauses_not(storage: str, at: Callable[[float], datetime]) -> None:
    study = opened(storage)
    for begin, end in ((0, 10), (5, 12), (60, 70)):
        trial = create_trial(state=TrialState.COMPLETE, value=1.0)
        trial.datetime_start, trial.datetime_complete = at(begin), at(end)
        study.add_trial(trial)
    dead = create_trial(state=TrialState.FAIL, user_attrs={"beat": at(105).timestamp()})
    dead.datetime_start, dead.datetime_complete = at(100), at(900)
    study.add_trial(dead)
    assert spent(study) == pytest.approx(27)


SHARED = """
import sys, time
from sinet.search.ledger import finished, open_study, work

def objective(trial):
    time.sleep(0.05)
    return trial.suggest_float("x", 0, 1)

study = open_study(sys.argv[1], "test", {"recipe": {"lr": 0.1}})
started = time.time()
while len({t.user_attrs.get("worker") for t in study.trials}) < 2 and time.time() < started + 200:
    work(study, objective, lambda n=len(finished(study)): len(finished(study)) <= n)
"""


def test_two_processes_share_the_trials(storage: str) -> None:
    opened(storage)
    command = [sys.executable, "-W", "error", "-c", SHARED, storage]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    trials = finished(opened(storage))
    assert {t.state for t in opened(storage).trials} == {TrialState.COMPLETE}
    assert len({t.user_attrs["worker"] for t in trials}) == 2
    assert len({t.params["x"] for t in trials}) == len(trials), "the same trial twice"
