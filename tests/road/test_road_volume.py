"""The same road for volumes: a decathlon list in, a file that labels every voxel out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import Result

Run = Callable[..., Result]
FIT = ("--task", "volume", "--model", "unetpp_test_3d", "--minutes", "0.02", "batch_size=2")
AFFINE = np.array([[0, -2.0, 0, 9], [-1.0, 0, 0, 4], [0, 0, 3.0, -7], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brain")
    rng = np.random.default_rng(0)
    lists: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    for i in range(6):
        label = np.zeros((17, 20, 14), np.uint8)
        x = int(rng.integers(2, 8))
        label[x : x + 8, 4:16, 3:11] = 1
        image = (label * 90.0 + rng.normal(40, 8, label.shape)).astype(np.float32)
        entry = {"image": f"images/{i}.nii.gz", "label": f"labels/{i}.nii.gz"}
        for array, name in ((image, entry["image"]), (label, entry["label"])):
            (root / name).parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, AFFINE), root / name)
        lists["training" if i < 4 else "validation"].append(entry)
    content = {"labels": {"0": "background", "1": "organ"}, **lists}
    (root / "brain.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def fitted(sinet: Run, brain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "brain"
    result = sinet("fit", brain / "brain.json", *FIT, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_what_ships_was_verified_on_whole_volumes(fitted: Path) -> None:
    chain = json.loads((fitted / "chain.json").read_text())
    rows = {row["name"]: row for row in chain["rows"]}
    assert set(rows) == {"eager", "fp32", "int8"}
    assert chain["metric_name"] == "val/dice"
    assert chain["images"] == 2
    assert rows["fp32"]["max_difference"] <= 1e-3
    assert rows["fp32"]["memory_mb"] > 10


def test_a_run_leaves_its_evidence(fitted: Path) -> None:
    stored = json.loads((fitted / "evidence/evidence.json").read_text())
    assert [row["name"] for row in stored["classes"]] == ["background", "organ"]
    assert "hd95 mm" in stored["classes"][1]
    assert (fitted / "sheet.png").is_file()
    page = (fitted / "report.html").read_text()
    assert "mean Dice" in page
    assert "Truth and answer" in page
    card = (fitted / "ship/README.md").read_text()
    assert "Preprocessing (outside the file)" in card
    assert "float32 (N, 1, 16, 16, 16)" in card


def test_val_and_predict_speak_of_volumes(
    sinet: Run, fitted: Path, brain: Path, tmp_path: Path
) -> None:
    result = sinet("val", fitted / "model.onnx", brain / "brain.json", "--json")
    found = json.loads(result.stdout)
    chain = json.loads((fitted / "chain.json").read_text())
    shipped = next(row for row in chain["rows"] if row["name"] == chain["shipped"])
    assert found["metric"] == pytest.approx(shipped["metric"])
    drawn, out = tmp_path / "drawn", tmp_path / "out"
    result = sinet("predict", fitted, brain / "images", "--draw", drawn, "--out", out)
    assert result.exit_code == 0, result.output
    head, *rows = (out / "results.csv").read_text().splitlines()
    assert head == "file,background ml,organ ml,error"
    assert len(rows) == 6
    answer = nib.load(out / "0.nii.gz")
    assert answer.shape == (17, 20, 14)
    assert np.allclose(answer.affine, AFFINE)
    assert (drawn / "0.png").is_file()


def test_the_ship_folder_runs_alone(fitted: Path, sinet: Run, brain: Path, tmp_path: Path) -> None:
    scan = tmp_path / "new.nii.gz"
    scan.write_bytes((brain / "images/0.nii.gz").read_bytes())
    command = [sys.executable, str(fitted / "ship/run.py"), str(scan)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {line.split("\t")[1] for line in done.stdout.splitlines()} == {"background", "organ"}
    alone = nib.load(tmp_path / "new.labels.nii.gz")
    assert np.allclose(alone.affine, AFFINE)
    assert sinet("predict", fitted, scan, "--out", tmp_path / "ours").exit_code == 0
    ours = nib.load(tmp_path / "ours/new.nii.gz")
    assert (np.asarray(ours.dataobj) == np.asarray(alone.dataobj)).mean() > 0.999
