"""The same road for photographs: pictures in, a file that makes any picture larger out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn
from typer.testing import Result

from sinet.models import _networks

Run = Callable[..., Result]
FIT = ("--task", "superres", "--minutes", "0.02", "--budget", "1000ms", "batch_size=2")


@pytest.fixture(scope="module")
def tiny() -> Iterator[str]:
    """A network of the test's own: two convolutions."""

    def tiny_sr(num_classes: int = 0, in_chans: int = 3) -> nn.Module:
        layers = nn.Conv2d(in_chans, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 4 * in_chans, 3, 1, 1)
        return nn.Sequential(*layers, nn.PixelShuffle(2))

    _networks.register_for("superres")(tiny_sr)
    yield "tiny_sr"
    del _networks._registered["tiny_sr"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        (root / split).mkdir(parents=True)
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
            coarse.resize((85 + i, 60), Image.Resampling.BICUBIC).save(root / split / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def fitted(sinet: Run, tiny: str, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pictures"
    result = sinet("fit", pictures, *FIT, "--model", tiny, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_what_ships_was_verified_against_bicubic(fitted: Path) -> None:
    chain = json.loads((fitted / "chain.json").read_text())
    rows = {row["name"]: row for row in chain["rows"]}
    assert chain["metric_name"] == "val/psnr"
    assert rows["fp32"]["max_difference"] <= 1e-3
    stored = json.loads((fitted / "evidence/evidence.json").read_text())
    assert [row["name"] for row in stored["classes"]] == ["this model", "bicubic", "gain"]
    page = (fitted / "report.html").read_text()
    assert "bicubic" in page
    assert " dB" in page


def test_val_and_predict(sinet: Run, fitted: Path, pictures: Path, tmp_path: Path) -> None:
    result = sinet("val", fitted / "model.onnx", pictures, "--json")
    found = json.loads(result.stdout)
    chain = json.loads((fitted / "chain.json").read_text())
    shipped = next(row for row in chain["rows"] if row["name"] == chain["shipped"])
    assert found["metric"] == pytest.approx(shipped["metric"])
    assert found["classes"][1]["PSNR"].endswith(" dB")
    drawn = tmp_path / "drawn"
    done = sinet("predict", fitted, pictures / "test", "--draw", drawn)
    assert done.exit_code == 0, done.output
    with Image.open(drawn / "1.png") as picture:
        assert picture.size == (172, 120)


def test_the_ship_folder_runs_alone(fitted: Path, tmp_path: Path) -> None:
    image = tmp_path / "new.png"
    noise = np.random.default_rng(0).integers(0, 256, (70, 230, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)  # two pieces
    command = [sys.executable, str(fitted / "ship/run.py"), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\t")[2].strip() == "460 x 140"
    with Image.open(tmp_path / "new.x2.png") as picture:
        assert picture.size == (460, 140)
