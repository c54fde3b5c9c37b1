"""Which operators to quantize: latency of one network with more and fewer of them in INT8.

    python benchmarks/int8_operators.py          # about three minutes

Static quantization by ONNX Runtime as `sinet.compression.quantize` does it (QDQ, U8 x S8, one
scale a channel), batch 1, 224 px, random weights, all files of a network in turn in one run.
Writes docs/results/int8_operators.json: the largest saving against our choice, in percent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime as ort
import typer
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from sinet.compression.quantize import OPERATORS
from sinet.deployment.export import export_network
from sinet.measurement.bench import settled
from sinet.measurement.latency import compare, feed, session
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec

NETWORKS = ("sinet_base", "vit_tiny_patch16_224", "mobilenetv3_large_100", "levit_128")
SIZE = 224
OURS = "ours"
ARMS: dict[str, tuple[str, ...]] = {
    OURS: OPERATORS,
    "layers alone": ("Conv", "Gemm", "MatMul"),
    "and attention's products": OPERATORS,
    "and Add": (*OPERATORS, "Add"),
    "and Mul, HardSwish": (*OPERATORS, "Mul", "HardSwish"),
    "and Reshape, Transpose, pooling": (
        *OPERATORS,
        *("Reshape", "Transpose", "MaxPool", "GlobalAveragePool", "ReduceMean"),
    ),
}


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """Four images of noise: the ranges need only be of a usual size here."""

    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(0)
        shape = 1, 3, SIZE, SIZE
        self.feeds: Iterator[Any] = iter(
            {name: rng.standard_normal(shape, np.float32)} for _ in range(4)
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next image, then None."""
        return next(self.feeds, None)


def products(model: onnx.ModelProto) -> list[str]:
    """Names of the matrix products of two activations."""
    constant = {tensor.name for tensor in model.graph.initializer}
    nodes = (n for n in model.graph.node if n.op_type == "MatMul")
    return [n.name for n in nodes if constant.isdisjoint(n.input)]


def files(name: str, folder: Path) -> dict[str, Path]:
    """The network in float, and in INT8 once an arm."""
    network = settled(ModelSpec(name, SIZE).create(1000, load=False), SIZE, 3)
    plain = export_network(network, SIZE, 3, folder / "plain.onnx")
    ready = folder / "ready.onnx"
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    model = onnx.load(str(ready))
    entry = model.graph.input[0].name
    made = {"float": ready}
    for arm, operators in ARMS.items():
        made[arm] = folder / f"{len(made)}.onnx"
        quantize_static(
            ready,
            made[arm],
            Noise(entry),
            op_types_to_quantize=list(operators),
            nodes_to_exclude=[] if "products" in arm else products(model),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return made


def times(name: str, seconds: float, threads: int) -> dict[str, dict[str, float]]:
    """Median and quartiles of each file, ms."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for arm, path in files(name, Path(folder)).items():
            opened = session(path, threads)
            runs[arm] = bound(opened, feed(opened, 1, (SIZE, SIZE)))
        found = compare(runs, seconds=seconds)
    return {
        arm: {"ms": round(t.median_ms, 3), "q1": round(t.q1_ms, 3), "q3": round(t.q3_ms, 3)}
        for arm, t in found.items()
    }


def bound(opened: ort.InferenceSession, inputs: Any) -> Any:
    """One run of a session."""
    return lambda: opened.run(None, inputs)


def main(
    network: Annotated[Sequence[str], typer.Option(help="Registered names.")] = NETWORKS,
    seconds: Annotated[float, typer.Option(help="Time for each network.")] = 30.0,
    threads: Annotated[int, typer.Option(help="Threads of each run.")] = 2,
) -> None:
    """Measure and record."""
    found = {name: times(name, seconds, threads) for name in network}
    saved = [
        100 * (1 - row["ms"] / arms[OURS]["ms"])
        for arms in found.values()
        for arm, row in arms.items()
        if arm != "float"
    ]
    print(record("int8_operators", max(saved), "% saved by another choice", 5, "lower",
                 threads=threads, extra=found))  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
