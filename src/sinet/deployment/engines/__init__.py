"""What runs a model. One file an engine, one small class each.

An engine takes (path, threads, spinning), knows its `metadata`, and runs uint8 images (N, H, W, C)
of one size to the outputs that are asked for, such as {"probabilities": (N, classes)}.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sinet.deployment.metadata import Metadata
from sinet.errors import unknown

_CLASSES = {"onnxruntime": "OnnxRuntime", "openvino": "OpenVino", "torch": "Torch"}
ENGINES = tuple(_CLASSES)
"""Names of the engines; each is imported when it is first asked for."""


class Engine(Protocol):
    """What `Predictor` needs of an engine."""

    metadata: Metadata

    def run(
        self, images: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Images uint8 (N, H, W, C) -> the outputs of these names."""
        ...


def open_engine(name: str, path: Path, threads: int | None, spinning: bool) -> Engine:
    """Open a model in the engine of that name.

    Raises:
        UsageError: no such engine, its extra is missing, or the file is not for it.
    """
    if name not in _CLASSES:
        raise unknown("engine", name, ENGINES)
    module = importlib.import_module(f"{__name__}.{name}")
    engine: Engine = getattr(module, _CLASSES[name])(path, threads, spinning)
    return engine
