"""The same road for a table: a CSV in, a file that answers rows."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

Run = Callable[..., Result]
FIT = ("--task", "tabular", "--model", "table_snn", "--minutes", "0.02", "model.depth=2",
       "model.width=16", "model.form=rect")  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "plants.csv"
    rng = np.random.default_rng(0)
    rows = ["height,soil,age,kind"]
    for i in range(120):
        height = "" if i % 17 == 3 else f"{(i % 2) * 3 + rng.normal(0, 1):.3f}"
        rows.append(f"{height},{('clay', 'sand')[i % 2 if i % 5 else 0]},{i % 3},{'ab'[i % 2]}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def fitted(sinet: Run, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "plants"
    result = sinet("fit", table, *FIT, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_what_ships_was_verified(fitted: Path) -> None:
    chain = json.loads((fitted / "chain.json").read_text())
    rows = {row["name"]: row for row in chain["rows"]}
    assert chain["metric_name"] == "val/top1"
    assert rows["fp32"]["max_difference"] <= 1e-3
    assert rows["int8"]["file_mb"] > 0
    assert "accuracy" in (fitted / "report.html").read_text()
    readme = (fitted / "ship/README.md").read_text()
    assert "Preprocessing (inside the file)" in readme
    assert "`height`, `soil`, `age`" in readme


def test_val_and_predict_and_the_ship_folder_agree(
    sinet: Run, fitted: Path, table: Path, tmp_path: Path
) -> None:
    done = sinet("val", fitted / "model.onnx", table, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["metric"] > 0.8
    out = tmp_path / "out.csv"
    done = sinet("predict", fitted, table, "--out", out)
    assert done.exit_code == 0, done.output
    with out.open(newline="") as stream:
        answers = list(csv.DictReader(stream))
    assert list(answers[0]) == ["file", "row", "label", "id", "score", "strange", "error"]
    assert len(answers) == 120
    command = [sys.executable, str(fitted / "ship/run.py"), str(table)]
    alone = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [text.split("\t") for text in alone.stdout.splitlines()]
    assert [line[1:4] for line in lines] == [[a["row"], a["label"], a["id"]] for a in answers]


def test_a_table_without_the_task_is_told_of_it(sinet: Run, table: Path, tmp_path: Path) -> None:
    result = sinet("fit", table, "--out", tmp_path / "run")
    assert result.exit_code == 3
    assert "--task tabular" in result.output


def test_a_network_for_images_is_refused(sinet: Run, table: Path, tmp_path: Path) -> None:
    words = ("--task", "tabular", "--model", "resnet18", "--out", tmp_path / "run")
    result = sinet("fit", table, *words)
    assert result.exit_code == 2
    assert "table_snn" in result.output
