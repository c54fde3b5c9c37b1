"""In how many of 100 repeated runs does a shipped file keep its budget?

    python benchmarks/budget_kept.py runs/cifar10/model.onnx --budget 10ms --image-size 32

Each run is a process of its own that opens the file with ONNX Runtime's defaults, as `run.py` in
the ship folder does, and takes the median of 100 calls. Writes docs/results/budget_kept_runs.json.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from sinet.errors import UsageError
from sinet.measurement.latency import default_threads
from sinet.measurement.results import record
from sinet.search.budget import Budget

ONE_RUN = """
import statistics, sys, time, numpy, onnxruntime as ort
path, threads, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
entry = session.get_inputs()[0]
image = numpy.random.default_rng(0).integers(0, 256, (1, side, side, entry.shape[-1]), numpy.uint8)
times = []
for _ in range(120):
    start = time.perf_counter()
    session.run(None, {entry.name: image})
    times.append(time.perf_counter() - start)
print(statistics.median(times[20:]) * 1e3)
"""


def main(
    file: Annotated[Path, typer.Argument(help="A shipped model.onnx.")],
    budget: Annotated[str, typer.Option(help="The budget it was made for.")] = "10ms",
    image_size: Annotated[int, typer.Option(help="Side of a typical image, pixels.")] = 224,
    runs: Annotated[int, typer.Option(help="Processes, one after the other.")] = 100,
    threads: Annotated[int, typer.Option(help="0 = as `sinet fit` does.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Default: docs/results.")] = None,
) -> None:
    """Count the runs whose median keeps the latency limit."""
    limit = Budget.parse(budget).ms
    if limit is None or not file.is_file():
        raise UsageError(f"{file} with {budget}: an existing file and a latency limit are needed")
    threads = threads or default_threads()
    command = [sys.executable, "-c", ONE_RUN, str(file), str(threads), str(image_size)]
    medians = []
    for i in range(runs):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        medians.append(float(done.stdout))
        print(f"run {i + 1}: {medians[-1]:.2f} ms")
    kept = 100 * sum(ms <= limit for ms in medians) / runs
    ordered = statistics.quantiles(medians, n=20)
    path = record(
        "budget_kept_runs",
        kept,
        "of 100 runs",
        95,
        "higher",
        threads=threads,
        extra={
            "file": file.as_posix(),
            "budget_ms": limit,
            "runs": runs,
            "median_of_medians_ms": statistics.median(medians),
            "p5_p95_of_medians_ms": [ordered[0], ordered[-1]],
        },
        out=out,
    )
    print(path)


if __name__ == "__main__":
    typer.run(main)
