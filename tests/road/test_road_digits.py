"""The same road for numbers: drawn house numbers in, a file that reads them out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from sinet.data.street_numbers import write_numbers

Run = Callable[..., Result]
FIT = ("--model", "sinet_test", "--minutes", "0.02", "--budget", "1000ms", "batch_size=16")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbers(tmp_path_factory.mktemp("data") / "numbers", 60)


@pytest.fixture(scope="module")
def fitted(sinet: Run, numbers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "numbers"
    result = sinet("fit", numbers, *FIT, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_what_ships_was_verified(fitted: Path) -> None:
    chain = json.loads((fitted / "chain.json").read_text())
    rows = {row["name"]: row for row in chain["rows"]}
    assert chain["metric_name"] == "val/sequence"
    assert rows["fp32"]["max_difference"] <= 1e-3
    stored = json.loads((fitted / "evidence/evidence.json").read_text())
    assert stored["classes"][-1]["name"] == "all"
    assert "sequence accuracy" in (fitted / "report.html").read_text()


def test_val_and_predict(sinet: Run, fitted: Path, numbers: Path, tmp_path: Path) -> None:
    result = sinet("val", fitted / "model.onnx", numbers, "--json")
    found = json.loads(result.stdout)
    chain = json.loads((fitted / "chain.json").read_text())
    shipped = next(row for row in chain["rows"] if row["name"] == chain["shipped"])
    assert found["metric"] == pytest.approx(shipped["metric"])
    out = tmp_path / "out.csv"
    done = sinet("predict", fitted, numbers / "test", "--out", out)
    assert done.exit_code == 0, done.output
    assert out.read_text().splitlines()[0] == "file,number,confidence,error"


def test_the_ship_folder_runs_alone(fitted: Path, numbers: Path) -> None:
    image = numbers / "test" / "000000.jpg"
    command = [sys.executable, str(fitted / "ship/run.py"), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, number, confidence = done.stdout.strip().split("\t")
    assert number == "none" or number.isdigit()
    assert 0 <= float(confidence) <= 1
