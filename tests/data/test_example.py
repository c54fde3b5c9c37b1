"""The bundled demonstration data, and the script that made it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sinet.data import open_dataset
from sinet.data.readers.idx import read_idx

EXAMPLES = Path(__file__).parents[2] / "examples"
BUNDLED = EXAMPLES / "fashion-mnist"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", EXAMPLES / "make_fashion_mnist.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_bundled() -> None:
    data = open_dataset(BUNDLED)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 9000, "val": 1000, "test": 2000}  # fmt: skip
    assert data.test.per_class(10) == [200] * 10
    assert data.classes[0] == "T-shirt/top"
    assert data.class_ids == list(range(10))
    assert data.channels == 1
    assert "MIT" in (BUNDLED / "LICENSE").read_text()
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 6_000_000


def test_the_script_chooses_alike_every_time(script: ModuleType, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, 500).astype(np.uint8)
    chosen = script.balanced(labels, 20)
    assert np.bincount(labels[chosen]).tolist() == [20] * 4
    assert np.array_equal(chosen, script.balanced(labels, 20))
    script.write_idx(tmp_path / "a-idx1-ubyte.gz", labels)
    script.write_idx(tmp_path / "b-idx1-ubyte.gz", labels)
    assert (tmp_path / "a-idx1-ubyte.gz").read_bytes() == (
        tmp_path / "b-idx1-ubyte.gz"
    ).read_bytes()
    assert np.array_equal(read_idx(tmp_path / "a-idx1-ubyte.gz"), labels)
