from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml
from PIL import Image

from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.tasks.train_command import run_training, split_overrides
from sinet.training.inputs import pixel_stats, preprocess_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for shade, name in ((60, "dark"), (180, "light")):
            home = tmp_path / "images" / split / name
            home.mkdir(parents=True)
            for i in range(count):
                pixels = shade + draw.integers(0, 20, (16, 20, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(home / f"{i}.png")
    return tmp_path / "images"


def test_overrides_go_to_the_recipe_or_the_model() -> None:
    found = split_overrides(("lr=0.1", "model.norm=false", "flip=none"))
    assert found == ({"lr": "0.1", "flip": "none"}, {"norm": False})
    with pytest.raises(UsageError, match="'lr' is not understood"):
        split_overrides(("lr",))


def test_a_command_trains_and_writes_what_it_did(folder: Path, tmp_path: Path) -> None:
    trained = run_training(
        folder, model="tiny_test_net", recipe="", out=tmp_path / "run", size=0, weights="auto",
        task="", overrides=("batch_size=8", "model.norm=false", "lr=0.02"),
        given={"epochs": 6, "seed": None}, init=None, progress=False, device="cpu",
    )  # fmt: skip
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["recipe"]["epochs"] == 6
    assert config["recipe"]["batch_size"] == 8
    assert config["model"] == {
        "name": "tiny_test_net", "size": 16, "kwargs": {"norm": False}, "weights": None
    }  # fmt: skip
    assert trained.classes == ["dark", "light"]
    assert trained.metrics["val/top1"] == 1.0


def test_normalisation_comes_from_the_data_or_from_the_weights() -> None:
    data = tiny.dataset()
    mean, std = pixel_stats(data)
    pixels = data.train.items / 255
    assert mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-3)
    assert std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-3)
    scratch = preprocess_for(ModelSpec("tiny_test_net", 16), data)
    assert (scratch.mean, scratch.size) == (mean, 16)
    pretrained = ModelSpec("tf_efficientnet_lite0", 32, weights="package:efficientnet-lite0")
    assert preprocess_for(pretrained, data).mean == (0.5, 0.5, 0.5)
    data.channels = 1
    assert preprocess_for(pretrained, data).mean == (0.5,)
