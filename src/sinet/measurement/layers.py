"""Where the time of an exported file goes: per node, with the achieved share of the machine's peak.

ONNX Runtime's profiler times every node that really ran (after its own fusions). Multiply-adds
follow from the logged shapes and the weights of the optimised graph: each output element of a
convolution costs one multiply-add per weight of its output channel, each of a matrix product one
per inner element. They are those that ran: ONNX Runtime pads channels to whole vectors.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from sinet.measurement.latency import default_threads, open_session
from sinet.measurement.machine import Machine

_INT8_TYPES = {"int8", "uint8"}


@dataclass(frozen=True)
class LayerTime:
    """Time of one node of the running graph.

    Attributes:
        name: node name as the engine reports it.
        op: operator that ran, such as "Conv" or "QLinearConv".
        ms: median over the profiled runs.
        share: of the sum over all nodes, 0..1.
        macs: multiply-adds, 0 for operators that are not matrix-like.
        gflops: achieved GFLOP/s (2 x MACs / time), 0 where `macs` is 0.
        efficiency: `gflops` / the machine's measured peak for the node's number type.
        dtype: "int8" or "f32", by the node's inputs.
    """

    name: str
    op: str
    ms: float
    share: float
    macs: int
    gflops: float
    efficiency: float
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def layer_times(
    file: str | Path,
    image: npt.NDArray[Any],
    machine: Machine,
    threads: int | None = None,
    runs: int = 30,
) -> list[LayerTime]:
    """Profile a file and return its nodes, the slowest first.

    Args:
        file: an ONNX file with one input.
        image: that input.
        machine: whose peaks the nodes are held against.
        threads: intra-operator threads, `default_threads()` if None.
        runs: profiled runs; the first fifth warms up and is dropped.
    """
    threads = threads or default_threads()
    times: dict[str, list[float]] = defaultdict(list)
    facts: dict[str, dict[str, Any]] = {}
    events, filters = _profile(file, image, threads, runs)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times[name].append(event["dur"] / 1e3)
            facts[name] = event["args"]
    medians = {n: statistics.median(t[len(t) // 5 :]) for n, t in times.items()}
    total = sum(medians.values()) or 1.0
    peak = machine.peak(threads)
    layers = []
    for name, ms in medians.items():
        macs, dtype = _macs(facts[name], filters.get(name)), _dtype(facts[name])
        gflops = 2 * macs / (max(ms, 1e-3) * 1e-3) / 1e9
        best = peak.int8 if dtype == "int8" else peak.f32
        op = facts[name].get("op_name", "")
        layers.append(
            LayerTime(name, op, ms, ms / total, macs, gflops, gflops / best if best else 0.0, dtype)
        )
    return sorted(layers, key=lambda layer: -layer.ms)


def by_operator(layers: Sequence[LayerTime]) -> list[LayerTime]:
    """Sum the nodes of each operator and number type; `name` becomes their count."""
    groups: dict[tuple[str, str], list[LayerTime]] = defaultdict(list)
    for layer in layers:
        groups[layer.op, layer.dtype].append(layer)
    rows = []
    for (op, _), members in groups.items():
        ms, macs = sum(m.ms for m in members), sum(m.macs for m in members)
        best = next((m.gflops / m.efficiency for m in members if m.efficiency), 0.0)
        gflops = 2 * macs / (max(ms, 1e-3) * 1e-3) / 1e9
        rows.append(
            replace(
                members[0],
                name=f"{len(members)} x {op}",
                ms=ms,
                share=sum(m.share for m in members),
                macs=macs,
                gflops=gflops,
                efficiency=gflops / best if best else 0.0,
            )
        )
    return sorted(rows, key=lambda row: -row.ms)


def _profile(
    file: str | Path, image: npt.NDArray[Any], threads: int, runs: int
) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """Events of ONNX Runtime's profiler over some runs; node name -> shape of its filters."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(optimised)
        opened = open_session(file, options)
        inputs = {opened.get_inputs()[0].name: np.ascontiguousarray(image)}
        for _ in range(runs):
            opened.run(None, inputs)
        text = Path(opened.end_profiling()).read_text(encoding="utf-8")
        filters = _filters(onnx.load(optimised).graph)
    events: list[dict[str, Any]] = json.loads(text)
    return events, filters


def _filters(graph: Any) -> dict[str, list[int]]:
    """Node name -> shape (out, in / groups, kh, kw) of each convolution's weights.

    The profiler leaves out tensors that the engine has packed for itself, so they come from here.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if "Conv" in node.op_type:
            weights = node.input[3 if node.op_type == "QLinearConv" else 1]
            found[node.name] = shapes.get(weights, [])
    return found


def _shapes(logged: Sequence[dict[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """(type, shape) of each tensor as the profiler logs it, [{"float": [1, 3, 224, 224]}, ...]."""
    return [next(iter(tensor.items())) for tensor in logged if tensor]


def _macs(args: dict[str, Any], filters: list[int] | None) -> int:
    """Multiply-adds of one node from the shapes of its inputs, outputs and filters."""
    inputs = _shapes(args.get("input_type_shape", []))
    outputs = _shapes(args.get("output_type_shape", []))
    if not inputs or not outputs:
        return 0
    op, written = args.get("op_name", ""), prod(outputs[0][1])
    if "Conv" in op and (filters or len(inputs) > 1):
        return written * prod((filters or inputs[1][1])[1:])
    if op in ("Gemm", "QGemm") or "MatMul" in op:
        a, out = inputs[0][1], outputs[0][1]
        transposed = len(a) > 1 and len(out) > 1 and a[-2] != out[-2]
        return written * (a[-2] if transposed else a[-1])
    return 0


def _dtype(args: dict[str, Any]) -> str:
    inputs = _shapes(args.get("input_type_shape", []))
    return "int8" if inputs and inputs[0][0] in _INT8_TYPES else "f32"
