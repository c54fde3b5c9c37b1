"""How many pictures a second does our light detector look at, from pixels to boxes?

    python benchmarks/drone.py

SiNet-Small with the light head at 416 px and 80 classes, random weights, as the file that `sinet
fit` would ship: a decoded picture of 1280 x 720 goes in, boxes without doubles come out. Random
weights send a thousand candidates to the suppression of doubles, more than a trained network does.
FP32 and INT8 in turn in one run. Writes docs/results/drone_int8_fps.json: 1 / median latency.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from sinet.compression.quantize import quantize_onnx
from sinet.data.preprocess import Preprocess
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.measurement.bench import settled
from sinet.measurement.latency import compare_files
from sinet.measurement.results import record
from sinet.models import create_network
from sinet.tasks.signatures import signature

SIZE, CLASSES = 416, [f"class {i}" for i in range(80)]


def files(folder: Path) -> dict[str, Path]:
    """The FP32 and the INT8 file, whole."""
    network = create_network("light_detect", backbone="sinet_small", num_classes=len(CLASSES))
    preprocess = Preprocess(SIZE, 3, (0.5,) * 3, (0.25,) * 3, width=SIZE, fit="pad")
    about = Metadata(CLASSES, list(range(80)), preprocess, "light_detect@416", True, task="detect")
    ready = settled(network, SIZE)
    fp32 = export_network(ready, SIZE, 3, folder / "fp32.onnx", signature(about).raw)
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((1, 3, SIZE, SIZE), dtype=np.float32) for _ in range(8)]
    made = {"fp32": fp32, "int8": quantize_onnx(fp32, folder / "int8.onnx", noise)}
    return {n: assemble(p, preprocess, about, folder / f"{n}-whole.onnx") for n, p in made.items()}


def main() -> None:
    """Time and record."""
    picture = np.random.default_rng(0).integers(0, 256, (1, 720, 1280, 3), dtype=np.uint8)
    outputs = ("boxes", "scores", "labels")
    with tempfile.TemporaryDirectory() as folder:
        found = compare_files(files(Path(folder)), picture, seconds=40, outputs=outputs)
    ms = {name: [one.median_ms, one.q1_ms, one.q3_ms] for name, one in found.items()}
    int8 = found["int8"]
    record("drone_int8_fps", 1000 / int8.median_ms, "pictures a second", 20,
           spread=(1000 / int8.q3_ms, 1000 / int8.q1_ms), extra={"ms": ms})  # fmt: skip


if __name__ == "__main__":
    main()
