"""The trained network itself, in eager torch: what the exported files are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sinet.data.preprocess import PreprocessModule
from sinet.deployment.export import describe
from sinet.deployment.metadata import Metadata
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
        self.preprocess = PreprocessModule(trained.preprocess).eval()
        self.network = trained.model()

    @torch.inference_mode()
    def run(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Images uint8 (N, H, W, C) -> logits and probabilities."""
        logits = self.network(self.preprocess(torch.tensor(images)))
        likely = logits.sigmoid() if self.metadata.multilabel else logits.softmax(1)
        return {"logits": logits.numpy(), "probabilities": likely.numpy()}
