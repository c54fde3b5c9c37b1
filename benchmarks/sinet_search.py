"""The search behind SiNet's variants: time candidate networks against a peer in ONNX Runtime.

    python benchmarks/sinet_search.py sinet_tiny mobilenetv3_large_100
    python benchmarks/sinet_search.py sinet_base resnet50 --int8
    python benchmarks/sinet_search.py 'sinet_base:{"depths": [2, 3, 9, 2]}' sinet_base resnet50

A model is a registered name with optional keyword arguments as JSON after a colon; the last one is
the peer that ratios refer to. Random weights, batch 1, 2 threads that do not spin, all models run
in turn round after round; medians and the median ratio are printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import timm
import torch
from timm.utils import reparameterize_model
from torch.utils.flop_counter import FlopCounterMode

import sinet.models  # registers the family

assert sinet.models


def build(label: str) -> torch.nn.Module:
    """`name` or `name:{json kwargs}` -> a network ready for inference, norms off their defaults."""
    name, _, options = label.partition(":")
    model = timm.create_model(name, **json.loads(options or "{}")).eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # a zero scale would be folded away
            module.weight.data.uniform_(0.3, 0.7, generator=generator)
    return reparameterize_model(model)


def cost(model: torch.nn.Module, size: int) -> tuple[float, float]:
    """Parameters in millions and GFLOPs (2 x MACs)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 1e9


def export(model: torch.nn.Module, size: int, path: Path) -> Path:
    """Write the network as ONNX."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, 3, size, size),), str(path), input_names=["x"], dynamo=False
        )
    return path


def quantize(path: Path, size: int) -> Path:
    """Static QDQ, per-channel S8 weights, U8 activations."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            shape = (1, 3, size, size)
            self.batches = iter([{"x": rng.normal(size=shape).astype("f4")} for _ in range(4)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    prepared, out = path.with_suffix(".prep.onnx"), path.with_suffix(".int8.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(out), Reader(), per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return out


def session(path: Path) -> ort.InferenceSession:
    """Two threads that sleep between runs, as several sessions share the cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def race(
    sessions: dict[str, ort.InferenceSession], size: int, rounds: int
) -> dict[str, np.ndarray]:
    """Milliseconds of every round, the models taking turns."""
    x = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype("f4")
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds + 3):
        for name, runner in sessions.items():
            start = time.perf_counter()
            runner.run(None, {runner.get_inputs()[0].name: x})
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: np.array(values[3:]) for name, values in times.items()}


def main() -> None:
    """Build, export, race, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--int8", action="store_true")
    args = parser.parse_args()
    costs, sessions = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for i, label in enumerate(args.models):
            model = build(label)
            costs[label] = cost(model, args.size)
            path = export(model, args.size, Path(folder) / f"{i}.onnx")
            sessions[label] = session(path)
            if args.int8:
                costs[label + " int8"] = costs[label]
                sessions[label + " int8"] = session(quantize(path, args.size))
        times = race(sessions, args.size, args.rounds)
    peer = times[args.models[-1]]
    print("params M  GFLOPs      ms  GFLOP/s  ratio  model")
    for name, values in times.items():
        params, flops = costs[name]
        ms = float(np.median(values))
        ratio = float(np.median(values / peer))
        print(f"{params:8.2f} {flops:7.2f} {ms:7.2f} {flops / ms * 1e3:8.0f} {ratio:6.3f}  {name}")


if __name__ == "__main__":
    main()
