"""The same road for clips: class folders of videos in, a file that says how things move out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_files import walks

Run = Callable[..., Result]
FIT = ("--model", "sinet_test", "--minutes", "0.02", "--budget", "1000ms", "batch_size=4")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walks(tmp_path_factory.mktemp("data") / "walks", 4)


@pytest.fixture(scope="module")
def fitted(sinet: Run, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "walks"
    result = sinet("fit", clips, *FIT, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_what_ships_was_verified(fitted: Path) -> None:
    chain = json.loads((fitted / "chain.json").read_text())
    rows = {row["name"]: row for row in chain["rows"]}
    assert set(rows) == {"eager", "fp32", "int8"}
    assert (chain["metric_name"], chain["images"]) == ("val/top1", 8)
    assert rows["fp32"]["max_difference"] <= 1e-3
    first = json.loads((fitted / "candidates.json").read_text())[0]["spec"]
    assert (first["name"], first["kwargs"]["frames"]) == ("video_conv21d", 8)


def test_a_run_leaves_its_evidence(fitted: Path) -> None:
    with np.load(fitted / "predictions.npz") as stored:
        assert stored["probability"].shape == (8, 2)
    assert (fitted / "sheet.png").is_file()
    assert "top-1 accuracy" in (fitted / "report.html").read_text()
    card = (fitted / "ship/README.md").read_text()
    assert "pipeline_tag: video-classification" in card
    assert "uint8 (N, 8, height, width, 3)" in card
    assert "centre 64 x 64" in card
    assert "pip install onnxruntime numpy pillow av" in card


def test_val_and_predict_speak_of_clips(
    sinet: Run, fitted: Path, clips: Path, tmp_path: Path
) -> None:
    result = sinet("val", fitted / "model.onnx", clips, "--json")
    found = json.loads(result.stdout)
    chain = json.loads((fitted / "chain.json").read_text())
    shipped = next(row for row in chain["rows"] if row["name"] == chain["shipped"])
    assert found["metric"] == pytest.approx(shipped["metric"])
    drawn, out = tmp_path / "drawn", tmp_path / "out.csv"
    done = sinet("predict", fitted, clips / "test/left", "--draw", drawn, "--out", out)
    assert done.exit_code == 0, done.output
    head, *rows = out.read_text().splitlines()
    assert head == "file,label,id,score,error"
    assert len(rows) == 4
    with Image.open(drawn / "0.png") as strip:
        assert strip.size == (128, 32)


def test_the_ship_folder_runs_alone(sinet: Run, fitted: Path, clips: Path, tmp_path: Path) -> None:
    clip, out = clips / "test/right/1.mp4", tmp_path / "out.json"
    command = [sys.executable, str(fitted / "ship/run.py"), str(clip), "absent.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    good, bad = (line.split("\t") for line in done.stdout.splitlines())
    assert bad[1] == "error"
    assert sinet("predict", fitted, clip, "--out", out).exit_code == 0
    (ours,) = json.loads(out.read_text())
    assert good[1] == ours["label"]
    assert float(good[3]) == pytest.approx(ours["score"], abs=1e-4)
