"""The same road for pixels: images with masks in, a file that names every pixel out."""

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

from sinet.models import create_network

Run = Callable[..., Result]
FIT = ("--model", "sinet_test", "--minutes", "0.02", "--budget", "1000ms", "batch_size=4")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "scenes"
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4), ("test", 4)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((60, 90), np.uint8)
            mask[rng.integers(15, 45) :] = 1
            image = np.where(mask[..., None] == 0, [50, 60, 200], [60, 160, 40])
            image = image + rng.integers(-25, 25, image.shape)
            Image.fromarray(image.astype(np.uint8)).save(root / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{i}.png")
    (root / "classes.txt").write_text("sky\ngrass\n")
    return root


@pytest.fixture(scope="module")
def fitted(sinet: Run, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "scenes"
    result = sinet("fit", scenes, *FIT, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_run_leaves_its_evidence(fitted: Path) -> None:
    stored = json.loads((fitted / "evidence/evidence.json").read_text())
    assert [row["name"] for row in stored["classes"]] == ["sky", "grass"]
    for shown in stored["pictures"]:
        assert size_of(fitted / "evidence" / shown["file"])[0] > 100
    page = (fitted / "report.html").read_text()
    assert "mean IoU" in page
    assert "Truth and answer" in page
    assert "Where it is wrong" not in page


def test_what_ships_was_verified(fitted: Path) -> None:
    chain = json.loads((fitted / "chain.json").read_text())
    rows = {row["name"]: row for row in chain["rows"]}
    assert set(rows) == {"eager", "fp32", "int8"}
    assert chain["metric_name"] == "val/miou"
    assert rows["fp32"]["max_difference"] <= 1e-3


def test_val_and_predict_speak_of_pixels(
    sinet: Run, fitted: Path, scenes: Path, tmp_path: Path
) -> None:
    result = sinet("val", fitted / "model.onnx", scenes, "--json")
    found = json.loads(result.stdout)
    chain = json.loads((fitted / "chain.json").read_text())
    shipped = next(row for row in chain["rows"] if row["name"] == chain["shipped"])
    assert found["metric"] == pytest.approx(shipped["metric"])
    assert {"iou", "dice", "boundary f"} <= set(found["classes"][0])
    images, drawn, out = scenes / "test/images", tmp_path / "drawn", tmp_path / "out.csv"
    assert sinet("predict", fitted, images, "--draw", drawn, "--out", out).exit_code == 0
    assert out.read_text().splitlines()[0] == "file,sky,grass,error"
    assert size_of(drawn / "0.png") == (90, 60)


def test_predict_writes_masks(sinet: Run, fitted: Path, scenes: Path, tmp_path: Path) -> None:
    images, out, coco = scenes / "test/images", tmp_path / "a.json", tmp_path / "a.coco.json"
    assert sinet("predict", fitted, images, "--out", out).exit_code == 0
    answers = json.loads(out.read_text())
    assert [answer["size"] for answer in answers] == [[60, 90]] * 4
    result = sinet("predict", fitted, images, "--out", coco)
    assert result.exit_code == 0, result.output
    stored = json.loads(coco.read_text())
    names = {row["id"]: row["name"] for row in stored["categories"]}
    for image, answer in zip(stored["images"], answers, strict=True):
        parts = [row for row in stored["annotations"] if row["image_id"] == image["id"]]
        assert image["file_name"] == answer["source"]
        assert sum(part["area"] for part in parts) == 60 * 90
        for part in parts:
            share = answer["shares"][names[part["category_id"]]]
            assert part["area"] == pytest.approx(60 * 90 * share)
            assert part["bbox"][2] * part["bbox"][3] >= part["area"]


def test_the_ship_folder_runs_alone(fitted: Path, scenes: Path, tmp_path: Path) -> None:
    image = tmp_path / "new.png"
    image.write_bytes((scenes / "test/images/0.png").read_bytes())
    command = [sys.executable, str(fitted / "ship/run.py"), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(line.split("\t")[1] for line in done.stdout.splitlines()) <= {"sky", "grass"}
    assert size_of(tmp_path / "new.classes.png") == (90, 60)


def test_a_network_of_several_depths_ships_the_first_that_is_enough(
    sinet: Run, scenes: Path, tmp_path: Path
) -> None:
    asked = ("--model", "unetpp_test", "--minutes", "0.05", "--budget", "1000ms", "batch_size=4")
    result = sinet("fit", scenes, *asked, "--max-drop", "100", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "depth 1 of 4 is enough" in result.output
    chain = json.loads((tmp_path / "run/chain.json").read_text())
    rows = {row["name"]: row for row in chain["rows"]}
    assert rows["fp32"]["max_difference"] <= 1e-3
    whole = sum(p.numel() for p in create_network("unetpp_test", num_classes=2).parameters())
    assert rows["fp32"]["file_mb"] < 4 * whole / 1e6


def test_a_network_with_a_size_rule_gets_a_size_that_fits(
    sinet: Run, scenes: Path, tmp_path: Path
) -> None:
    asked = ("--model", "attswinunet_test", "--dry-run")
    result = sinet("fit", scenes, *asked, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "attswinunet_test@64" in result.output
    asked = ("--model", "attswinunet_test", "--epochs", "0.1", "--size", "70", "batch_size=4")
    result = sinet("train", scenes, *asked, "--out", tmp_path / "trained")
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "trained/trained.json").read_text())["preprocess"]
    assert (stored["size"], stored["width"]) == (64, 128)


def test_heads_of_other_tasks_are_refused(sinet: Run, scenes: Path, tmp_path: Path) -> None:
    for verb in ("fit", "train"):
        result = sinet(verb, scenes, "--model", "retinanet", "--out", tmp_path / verb)
        assert result.exit_code == 2, result.output
        assert "retinanet is a network for detect, not for segment" in " ".join(
            result.output.split()
        )
