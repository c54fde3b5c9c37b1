"""The whole road, as a person walks it: fit, look, run the shipped file, go on after a stop."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

Run = Callable[..., Result]
FIT = ("--model", "sinet_test", "--minutes", "0.02", "--budget", "1000ms", "batch_size=16")


@pytest.fixture(scope="session")
def fitted(sinet: Run, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "photos"
    result = sinet("fit", photos, *FIT, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "dataset.json", "candidates.json", "trials.json", "metrics.csv", "chain.json",
     "predictions.npz", "layers.json", "machine.json", "card.json", "model.onnx", "report.html",
     "sheet.png", "ship/model.onnx", "ship/labels.txt", "ship/card.json", "ship/README.md",
     "ship/run.py"],
)  # fmt: skip
def test_a_run_leaves_everything_in_its_folder(fitted: Path, name: str) -> None:
    assert (fitted / name).stat().st_size > 0


def test_the_config_is_resolved_and_the_report_is_whole(fitted: Path) -> None:
    config = yaml.safe_load((fitted / "config.yaml").read_text())
    assert config["budget"] == "1000ms"
    assert config["seed"] == 0
    assert "</html>" in (fitted / "report.html").read_text()


def test_what_ships_was_verified(fitted: Path) -> None:
    chain = json.loads((fitted / "chain.json").read_text())
    rows = {row["name"]: row for row in chain["rows"]}
    assert set(rows) == {"eager", "fp32", "int8"}
    assert rows["fp32"]["max_difference"] <= 1e-3
    shipped = (fitted / "work" / f"{chain['shipped']}.onnx").read_bytes()
    assert (fitted / "model.onnx").read_bytes() == shipped


def test_predict_and_val_agree_with_the_labels(
    sinet: Run, fitted: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.csv"
    assert sinet("predict", fitted / "model.onnx", photos / "dark", "--out", out).exit_code == 0
    assert len(out.read_text().splitlines()) == 41
    result = sinet("val", fitted / "model.onnx", photos, "--json")
    found = json.loads(result.stdout)
    assert found["images"] == 80
    assert [c["name"] for c in found["classes"]] == ["dark", "light"]
    hits = sum(c["recall"] * c["images"] for c in found["classes"])
    assert hits == pytest.approx(found["metric"] * 80)


def test_val_refuses_classes_that_the_model_does_not_know(
    sinet: Run, fitted: Path, tmp_path: Path
) -> None:
    from tests.conftest import draw

    result = sinet("val", fitted / "model.onnx", draw(tmp_path, 3, ("dark", "purple")))
    assert result.exit_code == 3
    assert "purple" in result.output


def test_the_same_command_does_nothing_twice(sinet: Run, fitted: Path, photos: Path) -> None:
    before = (fitted / "trials.json").read_bytes()
    result = sinet("fit", photos, *FIT, "--out", fitted)
    assert result.exit_code == 0, result.output
    assert (fitted / "trials.json").read_bytes() == before


def test_another_command_is_refused_the_folder(sinet: Run, fitted: Path, photos: Path) -> None:
    result = sinet("fit", photos, *FIT, "--seed", 1, "--out", fitted)
    assert result.exit_code == 2
    assert "seed 0 then, 1 now" in result.output


def test_dry_run_stops_at_the_candidates(sinet: Run, photos: Path, tmp_path: Path) -> None:
    result = sinet("fit", photos, *FIT, "--dry-run", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "candidates.json").exists()
    assert not (tmp_path / "run" / "trials.json").exists()


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from sinet import cli; cli.attach_verbs();"
        "heavy = ('torch', 'timm', 'onnx', 'lightning', 'matplotlib');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "order", ["import sinet, timm", "import timm, sinet", "import sinet.layers, timm"]
)
def test_models_are_registered_whichever_is_imported_first(order: str) -> None:
    code = f"{order}; print(timm.is_model('sinet_small'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
