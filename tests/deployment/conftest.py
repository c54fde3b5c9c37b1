from __future__ import annotations

from pathlib import Path

import pytest

from sinet.training.trained import Trained

from .making import make_file, make_trained


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("run") / "training")


@pytest.fixture(scope="session")
def model_file(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_file(trained, tmp_path_factory.mktemp("model") / "model.onnx")
