"""Searches as a person types them: on pictures of 16 px, with trainings of a step or two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from typer.testing import Result

from sinet.models.spec import ModelSpec
from sinet.search.budget import Budget
from sinet.search.clock import Taken, predicted
from sinet.search.ledger import finished
from sinet.search.session import Request
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

Run = Callable[..., Result]
SMALL = ("batch_size=32", "ema=0")


def said(result: Result, code: int, *words: str) -> str:
    output = " ".join(result.output.split())
    assert result.exit_code == code, output
    for word in words:
        assert word in output
    return output


def test_a_found_network_keeps_the_budget_and_can_be_trained(
    sinet: Run, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("search", photos, "--budget", "1000ms", "--trials", "2", "--minutes", "0.02",
             "--out", out, *SMALL)  # fmt: skip
    said(sinet(*words), 0, "found in trial", "val/top1")
    spec = ModelSpec.from_file(out / "found.yaml")
    facts = json.loads((out / "search.json").read_text())
    assert facts["ms"] <= 1000
    assert facts["spec"] == spec.to_dict() == Trained.load(out).spec.to_dict()
    rows = (out / "search.csv").read_text().splitlines()
    assert len(rows) == 1 + facts["trials"] + facts["rejected"]
    assert (out / "search.png").read_bytes()[1:4] == b"PNG"
    trained = sorted((out / "trials").iterdir())
    assert [p.name for p in trained[:3]] == ["0000-1", "0000-3", "0000-9"]
    times = [(p / "trained.json").stat().st_mtime_ns for p in trained]
    said(sinet(*words), 0, "found in trial")
    assert times == [(p / "trained.json").stat().st_mtime_ns for p in trained], "trained again"
    said(sinet("train", photos, "--model", out / "found.yaml", "--epochs", "0.1", "--out",
               tmp_path / "again"), 0)  # fmt: skip
    assert Trained.load(tmp_path / "again").spec == spec
    said(sinet(*words, "lr=0.5"), 2, "holds another search", "recipe.lr was", "is 0.5", "--storage")


def test_a_budget_that_no_point_keeps(sinet: Run, photos: Path, tmp_path: Path) -> None:
    words = ("search", photos, "--budget", "0.0001ms", "--out", tmp_path)
    said(sinet(*words), 4, "no point of the space keeps 0.0001ms", "the fastest", "ms > 0.0001")
    said(
        sinet("search", photos, "--space", "nasnet", "--cells", *words[2:]), 4, "no stack of cells"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--space", "sinett", "--budget", "8ms"), "did you mean 'sinet'"),
        ((), "give --budget"),
        (("--budget", "8ms", "--cells"), "are for --space nasnet"),
        (("--space", "nasnet", "--by", "chance"), "known: evolution, ppo"),
        (("--space", "nasnet", "--budget", "8ms"), "add --cells"),
        (("--budget", "8ms", "--minutes", "0"), "above zero"),
        (("--budget", "8ms", "epochs=3"), "sets the model and the epochs"),
    ],
)
def test_wrong_words(
    sinet: Run, photos: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    said(sinet("search", photos, "--out", tmp_path, *words), 2, expected)


def test_cells_are_found_and_stacked(sinet: Run, photos: Path, tmp_path: Path) -> None:
    words = ("search", photos, "--space", "nasnet", "--by", "random", "--trials", "2",
             "--minutes", "0.02", "--out", tmp_path, *SMALL)  # fmt: skip
    said(sinet(*words, "--cells"), 0, "cells.json")
    spec = ModelSpec.from_file(tmp_path / "found.yaml")
    assert (spec.kwargs["cells"], spec.kwargs["dim"]) == (6, 16)
    assert json.loads((tmp_path / "cells.json").read_text())["normal"] == spec.kwargs["normal"]
    assert Trained.load(tmp_path).spec == spec
    said(sinet(*words, "--by", "evolution"), 2, "by was 'random', is 'evolution'")


def test_tuning_ends_with_a_recipe(sinet: Run, photos: Path, tmp_path: Path) -> None:
    words = ("tune", photos, "--model", "sinet_test", "--trials", "3", "--epochs", "2",
             "--out", tmp_path, *SMALL)  # fmt: skip
    said(sinet(*words), 0, "as it was", "recipe.yaml")
    recipe = Recipe.from_yaml(tmp_path / "recipe.yaml")
    assert (recipe.epochs, recipe.batch_size) == (2, 32)
    rows = (tmp_path / "tune.csv").read_text().splitlines()
    assert len(rows) == 4
    assert sum(",complete," in row for row in rows) >= 1
    said(sinet(*words, "--epochs", "3"), 2, "epochs was 2.0, is 3.0")


WORKER = """
import sys
from pathlib import Path
from sinet.search.session import Request
from sinet.search.tune import tune
tune(Request(Path(sys.argv[1]), Path(sys.argv[2]), 10.0, 200, overrides=("batch_size=8",)),
     "sinet_test", 16, 0.5, lambda line: print(line, flush=True))
"""


def test_a_killed_search_goes_on(sinet: Run, photos: Path, tmp_path: Path) -> None:
    """SIGKILL in the midst of trials: what is finished stays, what was begun is begun again."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(photos), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"trial 0")
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "search.journal")))
    study = optuna.load_study(study_name="tune", storage=storage)
    before = {t.number: t.value for t in finished(study)}
    assert before
    running = [t for t in study.trials if t.state.name == "RUNNING"]
    count = str(len(before) + 1)
    said(sinet("tune", photos, "--model", "sinet_test", "--size", "16", "--epochs", "0.5",
               "--trials", count, "--out", tmp_path, "batch_size=8"), 0)  # fmt: skip
    after = {t.number: t for t in finished(study)}
    assert before.items() <= {n: t.value for n, t in after.items()}.items()
    for lost in running:
        again = [t for t in after.values() if t.user_attrs.get("again") == lost.number]
        assert [t.params for t in again] == [lost.params]


def test_a_prediction_wants_enough_and_follows_the_line() -> None:
    draw = np.random.default_rng(0)
    rows = [[1.0, *draw.uniform(1, 9, 3)] for _ in range(12)]
    known = [(row, 0.5 * row[0] + 2 * row[1] + 0.1 * row[2] + row[3]) for row in rows]
    assert predicted(known[:7], rows[9]) is None
    assert predicted(known[:9], rows[9]) == pytest.approx(known[9][1])


def test_excess_is_above_zero_when_the_budget_breaks() -> None:
    budget = Budget.parse("8ms,4MB")
    assert Taken(8, 4).excess(budget) == 0
    assert Taken(4, 6).excess(budget) == pytest.approx(0.5)
    assert Taken(9, 1).why_not(budget) == "9 ms > 8"


def test_requests_are_held_to_reason(tmp_path: Path) -> None:
    assert Request(tmp_path, tmp_path, 1.0).journal == str(tmp_path / "search.journal")
