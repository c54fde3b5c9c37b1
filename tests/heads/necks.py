"""What every neck of the registry must do; the families' own tests are beside this file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from sinet.heads import create_neck

WIDTH = 32
CHANNELS = [8, 12, 20]
SMALL = {"catnet": {"stages": 2}, "dense_fpn": {"stages": 2}}


def maps(
    *shape: int, batch: int = 2, channels: Sequence[int] = CHANNELS, seed: int = 1
) -> list[torch.Tensor]:
    """A backbone's maps, each half as large as the one before, rounded up."""
    height, width = shape or (16, 16)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for chs in channels:
        found.append(torch.randn(batch, chs, height, width, generator=generator))
        height, width = -(-height // 2), -(-width // 2)
    return found


def lively(module: nn.Module) -> nn.Module:
    """Random parameters and statistics everywhere: nothing is silent, nothing cancels."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.0, generator=generator)
        elif value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
        else:
            value.normal_(0, 0.3, generator=generator)
    return module


def create(name: str, channels: Sequence[int] = CHANNELS, **kwargs: Any) -> nn.Module:
    """A lively small neck in evaluation mode, the same at every call."""
    options = {"out_channels": WIDTH, **SMALL.get(name, {}), **kwargs}
    return lively(create_neck(name, channels, **options)).eval()


def run_onnx(module: nn.Module, inputs: Sequence[Any], path: Path, opset: int = 17) -> Any:
    """Export by tracing; a function that runs the file on other inputs of the same sizes."""
    names = [f"x{i}" for i in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),  # the exporter gives the mode back to all parts
            tuple(inputs),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=names,
            dynamic_axes={name: {0: "batch"} for name in names},
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(*given: torch.Tensor) -> list[np.ndarray]:
        feed = {name: x.numpy() for name, x in zip(names, given, strict=True)}
        return session.run(None, feed)

    return run


class Listed(nn.Module):
    """A neck whose maps come one by one, as exporters want them."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.neck(list(features)))
