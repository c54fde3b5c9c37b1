"""The default engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from sinet.deployment.engines._onnx import damaged, find_model, read_metadata


class OnnxRuntime:
    """Runs an exported file on the CPU.

    Args:
        path: the file, or a run or ship folder.
        threads: threads within one operator; None = as many as cores.
        spinning: whether idle threads wait actively. Faster for one session alone, ruinous where
            several are alive.
    """

    def __init__(self, path: Path, threads: int | None = None, spinning: bool = True) -> None:
        file = find_model(path)
        self.metadata = read_metadata(file)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        try:
            self.session = ort.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a dozen error classes without a common base
            raise damaged(file, error) from error

    def run(
        self, images: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Images uint8 (N, H, W, C) -> the outputs of these names."""
        return dict(zip(names, self.session.run(names, {"images": images}), strict=True))
