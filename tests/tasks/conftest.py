from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# tester.py, and the small data and networks of the training's tests
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "training")]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads, and a busy machine makes it worse."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def testers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tester of every task, for tests that hold for all of them."""
    names = {
        "classify": "TestOneLabel", "detect": "TestDetect", "digits": "TestDigits",
        "hyperspectral": "TestScenes", "instances": "TestInstances", "segment": "TestSegment",
        "superres": "TestSuperRes", "tabular": "TestTabular", "video": "TestVideo",
        "volume": "TestVolumes",
    }  # fmt: skip
    files = {task: importlib.import_module(f"test_{task}") for task in names}
    video, volume, cubes = (files[task] for task in ("video", "volume", "hyperspectral"))
    video.TestVideo.root = video.walks(tmp_path_factory.mktemp("clips"), 6, ("train", "val"))
    volume.TestVolumes.folder = tmp_path_factory.mktemp("scans")
    files["tabular"].TestTabular.file = files["tabular"].write(tmp_path_factory.mktemp("tables"))
    cubes.Shared.root = cubes.write(tmp_path_factory.mktemp("cubes") / "many", 8)
    return {task: getattr(files[task], name)() for task, name in names.items()}
