"""A recorded number carries everything needed to judge and repeat it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sinet.errors import DataError, UsageError
from sinet.measurement import results
from sinet.measurement.machine import Machine, Peak
from sinet.measurement.results import FIELDS, own_command, record, render_table, results_dir


@pytest.fixture(autouse=True)
def _a_known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = (Peak(2, 200, 50, 800, 20),)
    known = Machine("Chip", 2, ("avx2",), 8.0, "Linux", "", {"onnxruntime": "1.31"}, peaks)
    monkeypatch.setattr(results, "machine", lambda: known)


@pytest.mark.parametrize(
    ("value", "target", "better", "passed"),
    [(95, 95, "higher", True), (94.9, 95, "higher", False), (1.0, 1.0, "lower", True),
     (1.1, 1.0, "lower", False)],
)  # fmt: skip
def test_schema(tmp_path: Path, value: float, target: float, better: str, passed: bool) -> None:
    path = record("some_bar", value, "%", target, better, seeds=[0, 1], spread=(90, 96),
                  extra={"note": "x"}, out=tmp_path)  # fmt: skip
    found = json.loads(path.read_text(encoding="utf-8"))
    assert tuple(found) == FIELDS
    assert found["passed"] is passed
    assert found["hardware"].startswith("Chip, 2 cores")
    assert found["versions"] == {"onnxruntime": "1.31"}
    assert (found["seeds"], found["spread"], found["extra"]) == ([0, 1], [90, 96], {"note": "x"})
    assert list(tmp_path.iterdir()) == [path], "nothing temporary is left"


def test_the_command_is_what_one_types_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/far/away/benchmarks/x.py", "--runs", "3"])
    assert own_command() == "python benchmarks/x.py --runs 3"
    monkeypatch.setattr(sys, "argv", ["/some/bin/sinet", "fit", "my photos"])
    assert own_command() == "sinet fit 'my photos'"


def test_the_folder_is_found_from_inside_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "src" / "sinet").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    assert results_dir(tmp_path / "src") == tmp_path / "docs" / "results"


def test_outside_a_checkout_one_must_say_where(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="say where to write with --out"):
        results_dir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("../x", 1.0, "letters, digits"), ("x", float("nan"), "finite")],
)
def test_what_is_refused(tmp_path: Path, name: str, value: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        record(name, value, "x", 1, out=tmp_path)


def test_the_table_says_plainly_what_was_missed(tmp_path: Path) -> None:
    record("good", 2.5, "x", 2, out=tmp_path, command="python benchmarks/a.py")
    record("late", 12, "min", 8, "lower", out=tmp_path, spread=(11, 13))
    table = render_table(tmp_path)
    assert "| good | 2.5 x | >= 2 | kept |" in table
    assert "| late | 12 min | <= 8 | **missed** | 11 to 13 |" in table
    assert "`python benchmarks/a.py`" in table


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"odd\.json"):
        render_table(tmp_path)
