"""The trained network itself, in eager torch: what the exported files are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sinet.deployment.export import describe, shipped
from sinet.deployment.metadata import Metadata
from sinet.tasks.signatures import signature
from sinet.training.trained import Trained


class Torch:
    """Runs the weights that a training left in its folder.

    Args:
        path: folder with `weights.safetensors` and `trained.json`.
        threads: torch's threads, for the whole process; None leaves them alone.
        spinning: has no meaning here.
    """

    def __init__(self, path: Path, threads: int | None = None, spinning: bool = True) -> None:
        trained = Trained.load(path)
        if threads:
            torch.set_num_threads(threads)
        self.metadata: Metadata = describe(trained)
        task = signature(self.metadata)
        self.forward = task.eager(shipped(trained), task.input.front())

    @torch.inference_mode()
    def run(
        self, images: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Images uint8 (N, H, W, C) -> the outputs of these names."""
        outputs = self.forward(torch.tensor(images))
        return {name: outputs[name].numpy() for name in names}
