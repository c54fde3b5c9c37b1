"""Reference cases: what the authors' own code gave for fixed parameters and inputs.

A case (`tests/golden/*.json.gz`) holds the parameter names and shapes of the authors' model, and
the output that their code gave on a fixed input with every parameter filled by `fill` below.
Nothing of their code or of their trained weights is in it.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

KEEP = 4096  # outputs longer than this are recorded at KEEP evenly spaced places


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float64 values for the parameter or buffer `name`: a fixed function of its name and shape."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return rng.uniform(0.5, 1.5, shape)
    if leaf == "running_mean":
        return rng.normal(0.0, 0.1, shape)
    if len(shape) >= 2:
        fan_in = math.prod(shape[1:])
        return rng.normal(0.0, 1.0 / math.sqrt(fan_in), shape)
    if leaf == "bias" or leaf.endswith("_bias"):
        return rng.normal(0.0, 0.1, shape)
    return rng.uniform(0.5, 1.0, shape)  # norm weights, layer scales, other vectors and scalars


def make_input(
    shape: tuple[int, ...], index: int = 0, kind: str = "normal", high: int = 2
) -> np.ndarray:
    """The `index`-th fixed input: 'normal' float64 values, or 'int' values in [0, high)."""
    rng = np.random.Generator(np.random.PCG64(20261121 + index))
    if kind == "int":
        return rng.integers(0, high, shape)
    return rng.normal(0.0, 1.0, shape)


def _flatten(outputs: Any) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        return [t for k in sorted(outputs) for t in _flatten(outputs[k])]
    return [t for o in outputs for t in _flatten(o)]


def _places(n: int) -> np.ndarray:
    return np.arange(n) if n <= KEEP else np.linspace(0, n - 1, KEEP).astype(np.int64)


@dataclass
class Case:
    """One recorded model: `meta` says whose code it was; `keys` is [[name, shape, dtype], ...]."""

    meta: dict[str, Any]
    keys: list[Any]
    inputs_spec: list[Any]
    outputs_spec: list[Any]

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.meta["dtype"])

    @classmethod
    def load(cls, name: str | Path) -> Case:
        path = Path(name)
        if not path.exists():
            path = Path(__file__).parent / f"{name}.json.gz"
        with gzip.open(path, "rt") as f:
            return cls(**json.load(f))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The filled state dict under the authors' names (integer buffers left out)."""
        return {
            name: torch.from_numpy(np.asarray(fill(name, tuple(shape)))).to(self.dtype)
            for name, shape, dtype in self.keys
            if dtype.startswith(("float", "bfloat"))
        }

    def inputs(self) -> list[torch.Tensor]:
        """The fixed inputs, in `dtype` (integer inputs as int64)."""
        out = []
        for i, spec in enumerate(self.inputs_spec):
            kind = spec["kind"]
            x = torch.from_numpy(make_input(tuple(spec["shape"]), i, kind, spec.get("high", 2)))
            out.append(x if kind == "int" else x.to(self.dtype))
        return out

    def check(self, outputs: Any, rtol: float = 1e-6) -> float:
        """The largest error relative to the output's scale; above `rtol` an AssertionError."""
        got = _flatten(outputs)
        assert len(got) == len(self.outputs_spec), f"{len(got)} of {len(self.outputs_spec)} outputs"
        worst = 0.0
        for t, spec in zip(got, self.outputs_spec, strict=True):
            assert list(t.shape) == spec["shape"], f"{list(t.shape)}, recorded {spec['shape']}"
            have = t.detach().double().cpu().numpy().ravel()[_places(t.numel())]
            want = np.array(spec["values"])
            error = float(np.abs(have - want).max() / (np.abs(want).max() or 1.0))
            worst = max(worst, error)
            assert error <= rtol, f"largest error {error:.3g} of the output's scale, limit {rtol:g}"
        return worst
