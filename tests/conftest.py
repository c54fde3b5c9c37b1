"""A small data set, and a way to run the command line as a person would, in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from sinet import cli

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: cores are shared
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sinet() -> Callable[..., Result]:
    if not cli.app.registered_commands:
        cli.attach_verbs()
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


def draw(folder: Path, count: int, classes: tuple[str, ...] = ("dark", "light")) -> Path:
    """Class folders of 16 px pictures that even a tiny network tells apart."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 80, (16, 16, 3)) + 150 * (index % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("photos"), 40)
