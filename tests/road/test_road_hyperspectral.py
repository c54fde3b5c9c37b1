"""The same road for a hyperspectral scene: its labelled pixels in, a map of classes out."""

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

Run = Callable[..., Result]
MODELS = ("freenet_test", "spectral_patch_test")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    labels = np.zeros((24, 30), np.uint8)
    labels[:11, :14], labels[:11, 15:], labels[12:] = 1, 2, 3
    spectra = rng.normal(0, 1, (4, 6))
    cube = spectra[labels] + rng.normal(0, 0.3, (*labels.shape, 6))
    np.save(root / "farm.npy", cube.astype(np.float32))
    np.save(root / "farm_gt.npy", labels)
    (root / "classes.txt").write_text("corn\nwheat\nroad\n")
    return root


@pytest.fixture(scope="module", params=MODELS)
def fitted(
    sinet: Run,
    scene: Path,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("runs") / request.param
    words = ("--model", request.param, "--minutes", "0.01", "--out", out)
    result = sinet("fit", scene, *words)
    assert result.exit_code == 0, result.output
    return out


def test_the_whole_road(sinet: Run, fitted: Path, scene: Path, tmp_path: Path) -> None:
    chain = json.loads((fitted / "chain.json").read_text())
    assert chain["metric_name"] == "val/oa"
    shipped = next(row for row in chain["rows"] if row["name"] == chain["shipped"])
    result = sinet("val", fitted / "model.onnx", scene, "--json")
    assert json.loads(result.stdout)["metric"] == pytest.approx(shipped["metric"])
    out = tmp_path / "out"
    result = sinet("predict", fitted, scene, "--out", out)
    assert result.exit_code == 0, result.output
    assert (out / "results.csv").read_text().splitlines()[0] == "file,corn,wheat,road,error"
    (tmp_path / "new.npy").write_bytes((scene / "farm.npy").read_bytes())
    command = [sys.executable, str(fitted / "ship/run.py"), str(tmp_path / "new.npy")]
    subprocess.run(command, capture_output=True, text=True, check=True)
    with (
        Image.open(tmp_path / "new.classes.png") as alone,
        Image.open(out / "farm.classes.png") as ours,
    ):
        assert (np.asarray(alone) == np.asarray(ours)).mean() > 0.999
