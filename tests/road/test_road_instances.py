"""The same road for objects and their pixels: numbered masks in, a file that paints them out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from sinet.data.masks import palette

Run = Callable[..., Result]
FIT = ("--model", "sinet_test", "--minutes", "0.02", "--budget", "2000ms", "batch_size=4")


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "discs"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :90]
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for kind in ("images", "instances/green", "instances/red"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 60, (60, 90, 3))
            for number, (name, colour) in enumerate((("green", 1), ("red", 0))):
                middle = rng.integers(15, 45) + 30 * number, rng.integers(15, 45)
                inside = np.hypot(x - middle[0], y - middle[1]) < 12
                image[inside] = 40
                image[inside, colour] = 220
                mask = Image.fromarray(inside.astype(np.uint8))
                mask.save(root / split / "instances" / name / f"{i}.png")
            Image.fromarray(image.astype(np.uint8)).save(root / split / "images" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def fitted(sinet: Run, discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "discs"
    result = sinet("fit", discs, *FIT, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def count_of(sheet: Path, colour: Sequence[int]) -> int:
    """How many pixels of the picture sheet have exactly this colour."""
    with Image.open(sheet) as image:
        return int((np.asarray(image.convert("RGB")) == colour).all(-1).sum())


def test_a_run_leaves_its_evidence(fitted: Path) -> None:
    stored = json.loads((fitted / "evidence/evidence.json").read_text())
    assert [row["name"] for row in stored["classes"]] == ["green", "red"]
    for shown in stored["pictures"]:
        assert size_of(fitted / "evidence" / shown["file"])[0] > 100
    assert "mask mAP at IoU 0.5" in (fitted / "report.html").read_text()


def test_what_ships_was_verified(fitted: Path) -> None:
    chain = json.loads((fitted / "chain.json").read_text())
    rows = {row["name"]: row for row in chain["rows"]}
    assert set(rows) == {"eager", "fp32", "int8"}
    assert chain["metric_name"] == "val/mask_map50"
    assert rows["fp32"]["max_difference"] <= 1e-3
    assert rows["fp32"]["metric"] == pytest.approx(rows["eager"]["metric"], abs=0.02)


def test_val_and_predict_speak_of_objects(
    sinet: Run, fitted: Path, discs: Path, tmp_path: Path
) -> None:
    found = json.loads(sinet("val", fitted / "model.onnx", discs, "--json").stdout)
    chain = json.loads((fitted / "chain.json").read_text())
    shipped = next(row for row in chain["rows"] if row["name"] == chain["shipped"])
    assert found["metric"] == pytest.approx(shipped["metric"])
    images, drawn, out = discs / "test/images", tmp_path / "drawn", tmp_path / "out.csv"
    assert sinet("predict", fitted, images, "--draw", drawn, "--out", out).exit_code == 0
    assert out.read_text().splitlines()[0] == "file,label,id,score,x1,y1,x2,y2,pixels,error"
    assert size_of(drawn / "0.png") == (90, 60)


def test_inspect_draws_the_objects(sinet: Run, discs: Path, tmp_path: Path) -> None:
    assert sinet("inspect", discs, "--out", tmp_path).exit_code == 0
    stored = json.loads((tmp_path / "inspection.json").read_text())
    assert (stored["task"], stored["format"]) == ("instances", "instance masks")
    sheet = tmp_path / "sheet.png"
    assert min(count_of(sheet, colour) for colour in palette(2)) > 1000  # their boxes
    bare = (40, 220, 40), (220, 40, 40)
    assert max(count_of(sheet, colour) for colour in bare) == 0  # all pixels of objects are tinted


def test_the_sheet_of_a_run_has_the_objects_too(fitted: Path) -> None:
    assert min(count_of(fitted / "sheet.png", colour) for colour in palette(2)) > 1000


def test_the_ship_folder_runs_alone(fitted: Path, discs: Path, tmp_path: Path) -> None:
    image = tmp_path / "new.png"
    image.write_bytes((discs / "test/images/0.png").read_bytes())
    command = [sys.executable, str(fitted / "ship/run.py"), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(line.split("\t")[1] in ("green", "red") for line in done.stdout.splitlines())
    assert size_of(tmp_path / "new.masks.png") == (90, 60)
