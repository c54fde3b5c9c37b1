"""Time networks and files against each other: exported, opened, run in turn (A B A B ...)."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

import sinet.models  # noqa: F401  registers ours with timm
from sinet.compression.quantize import quantize_onnx
from sinet.deployment.export import export_network
from sinet.errors import UsageError, unknown
from sinet.measurement.cost import Cost, cost
from sinet.measurement.latency import Latency, compare, default_threads, feed, session
from sinet.measurement.machine import efficiency, machine
from sinet.models.spec import ModelSpec

SILENT = 0.1
"""A scale that starts as a smaller constant makes its branch silent."""
NOISE_PIXELS = 2 * 224 * 224
"""Of the images that BatchNorms take their statistics from."""


@dataclass(frozen=True)
class BenchRow:
    """One timed network or file.

    Attributes:
        name: as it was asked for, with its size.
        latency: of one call with the whole batch.
        cost: of one image; None for a file, whose multiply-adds nobody knows.
        gflops: achieved GFLOP/s (2 x MACs / time); 0 without `cost`.
        efficiency: `gflops` / the machine's measured peak for the precision.
        file_mb: of the ONNX file, MB of 1,000,000 bytes.
    """

    name: str
    latency: Latency
    cost: Cost | None
    gflops: float
    efficiency: float
    file_mb: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def bench(
    names: Sequence[str],
    *,
    size: int | None = None,
    threads: int | None = None,
    batch: int = 1,
    precision: str = "fp32",
    seconds: float = 5.0,
) -> list[BenchRow]:
    """Time registered models (random weights, fused) and .onnx files in turn in one run.

    Args:
        names: registered names, or paths of .onnx files.
        size: input height and width, pixels; each model's own default if None.
        threads: intra-operator threads, `default_threads()` if None.
        batch: images a call.
        precision: "fp32" or "int8"; files are run as they are.
        seconds: time to spend in all.

    Raises:
        UsageError: an unknown model, a file that cannot be run, or an unknown precision.
    """
    networks: dict[str, tuple[nn.Module, int]] = {}
    files: dict[str, Path] = {}
    for name in names:
        if name.endswith(".onnx"):
            files[name] = Path(name)
        else:
            own = size or default_size(name)
            network = ModelSpec(name, own).create(1000, load=False)
            networks[f"{name}@{own}"] = (network, own)
    return bench_networks(
        networks,
        files=files,
        file_size=size or 224,
        threads=threads,
        batch=batch,
        precisions=(precision,),
        seconds=seconds,
    )


def default_size(name: str) -> int:
    """The input size a registered model was designed for.

    Raises:
        UsageError: no such model.
    """
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        raise unknown("model", name, timm.list_models())
    return int(config.input_size[-1])


def bench_networks(
    networks: Mapping[str, tuple[nn.Module, int]],
    *,
    files: Mapping[str, Path] | None = None,
    file_size: int = 224,
    in_chans: int = 3,
    threads: int | None = None,
    batch: int = 1,
    precisions: Sequence[str] = ("fp32",),
    seconds: float = 5.0,
) -> list[BenchRow]:
    """Time networks in each precision, and files, in turn in one run without spinning threads.

    The networks are `settled` first: what they were trained to does not matter, what size their
    activations have does.

    Args:
        networks: name -> (network, input size).
        files: name -> ONNX file, run as it is.
        file_size: height and width for files that take any.
        in_chans: input channels of the networks.
        threads: intra-operator threads, `default_threads()` if None.
        batch: images a call.
        precisions: of "fp32" and "int8"; with both, " int8" is added to the INT8 rows' names.
        seconds: time to spend in all.
    """
    if unknown_ones := set(precisions) - {"fp32", "int8"}:
        raise unknown("precision", min(unknown_ones), ("fp32", "int8"))
    threads = threads or default_threads()
    with tempfile.TemporaryDirectory() as folder:
        entries: dict[str, tuple[Path, int, Cost | None, str]] = {}
        for i, (name, (network, size)) in enumerate(networks.items()):
            facts = cost(network, size, in_chans)
            ready = settled(network, size, in_chans)
            made = _export(ready, size, in_chans, Path(folder) / f"{i}.onnx", precisions)
            for precision, path in made.items():
                label = f"{name} int8" if len(precisions) > 1 and precision == "int8" else name
                entries[label] = (path, size, facts, precision)
        for name, path in (files or {}).items():
            entries[name] = (path, file_size, None, "fp32")
        runners = {n: _runner(p, s, threads, batch) for n, (p, s, _, _) in entries.items()}
        if not runners:
            raise UsageError("nothing to time; name a model (see `sinet models`) or an .onnx file")
        times = compare(runners, seconds=seconds, threads=threads, batch=batch)
        return [
            _row(name, times[name], path, facts, precision, batch)
            for name, (path, _, facts, precision) in entries.items()
        ]


@torch.no_grad()
def settled(network: nn.Module, size: int | tuple[int, ...], in_chans: int = 3) -> nn.Module:
    """A copy whose activations have about the size that they have in a trained network.

    Time depends on the numbers, by up to 10% of SiNet-Base's in INT8: branches that start at zero
    compute zeros, and without statistics a norm lets activations grow from block to block. So
    scales near zero become one, and BatchNorms take the statistics of noise: of two images at 224
    pixels, of more if they are smaller (two values say nothing about a channel's spread).
    """
    copied = copy.deepcopy(network).train()
    for module in copied.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            continue  # one that starts as a small constant makes constants, not silence
        for name, scale in module.named_parameters(recurse=False):
            constant = (scale == scale.flatten()[0]).all() and scale.abs().max() < SILENT
            if constant and not name.endswith("bias"):
                nn.init.ones_(scale)
    norms = [m for m in copied.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    if norms:
        noise = torch.Generator().manual_seed(0)
        sides = (size, size) if isinstance(size, int) else size
        images = max(2, NOISE_PIXELS // math.prod(sides))
        copied(torch.randn(images, in_chans, *sides, generator=noise))
    return copied.eval()


def _export(
    network: nn.Module, size: int, in_chans: int, path: Path, precisions: Sequence[str]
) -> dict[str, Path]:
    """Precision -> file of the bare network; random calibration, which the speed ignores."""
    made = {"fp32": export_network(network, size, in_chans, path)}
    if "int8" in precisions:
        rng = np.random.default_rng(0)
        noise = [rng.standard_normal((1, in_chans, size, size), dtype=np.float32) for _ in range(2)]
        made["int8"] = quantize_onnx(made["fp32"], path.with_suffix(".int8.onnx"), noise)
    return {precision: made[precision] for precision in precisions}


def _runner(path: Path, size: int, threads: int, batch: int) -> Callable[[], Any]:
    opened = session(path, threads)
    inputs = feed(opened, batch, (size, size))
    return lambda: opened.run(None, inputs)


def _row(
    name: str, latency: Latency, path: Path, facts: Cost | None, precision: str, batch: int
) -> BenchRow:
    peak = machine().peak(latency.threads)
    best = peak.int8 if precision == "int8" else peak.f32
    macs = facts.macs * batch if facts else 0
    achieved, share = efficiency(macs, latency.median_ms, best)
    return BenchRow(name, latency, facts, achieved, share, path.stat().st_size / 1e6)
