"""SiNet against its peers in ONNX Runtime: batch 1, 224 px, interleaved in one run, no spinning.

    python benchmarks/sinet_vs_peers.py

Writes docs/results/sinet_{tiny_vs_mobilenetv3_large, small_vs_mobilenetv4_conv_medium,
base_vs_resnet50, large_vs_vit_base, base_int8_speedup}.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinet.measurement.bench import BenchRow, bench_networks
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec

# (ours, peer, largest allowed ratio of the latencies, result)
PAIRS = (
    ("sinet_tiny", "mobilenetv3_large_100", 1.0, "sinet_tiny_vs_mobilenetv3_large"),
    ("sinet_small", "mobilenetv4_conv_medium", 1.0, "sinet_small_vs_mobilenetv4_conv_medium"),
    ("sinet_base", "resnet50", 0.6, "sinet_base_vs_resnet50"),
    ("sinet_large", "vit_base_patch16_224", 0.5, "sinet_large_vs_vit_base"),
)


def timed(names: tuple[str, ...], precisions: tuple[str, ...], seconds: float, threads: int,
          size: int) -> list[BenchRow]:  # fmt: skip
    """Time networks with random weights in turn in one run."""
    networks = {n: (ModelSpec(n, size).create(1000, load=False), size) for n in names}
    return bench_networks(networks, precisions=precisions, seconds=seconds, threads=threads)


def facts(row: BenchRow) -> dict[str, object]:
    """What a reader of the result wants to know about one of the two."""
    values = row.to_dict()
    return {"latency": values["latency"], **(values["cost"] or {}), "gflops": row.gflops,
            "efficiency": row.efficiency, "file_mb": row.file_mb}  # fmt: skip


def main(
    only: Annotated[str, typer.Option(help="A part of the result's name.")] = "",
    seconds: Annotated[float, typer.Option(help="Time for each pair.")] = 30.0,
    threads: Annotated[int, typer.Option(help="Threads of each model.")] = 2,
    size: Annotated[int, typer.Option(help="Input height and width.")] = 224,
    out: Annotated[Path | None, typer.Option(help="Default: docs/results.")] = None,
) -> None:
    """Time each pair, and sinet_base in FP32 against INT8."""
    for ours, peer, target, name in PAIRS:
        if only in name:
            mine, theirs = timed((ours, peer), ("fp32",), seconds, threads, size)
            note(name, mine, theirs, "lower", target, threads, out)
    if only in "sinet_base_int8_speedup":
        fp32, int8 = timed(("sinet_base",), ("fp32", "int8"), seconds, threads, size)
        note("sinet_base_int8_speedup", fp32, int8, "higher", 2.0, threads, out)


def note(name: str, over: BenchRow, under: BenchRow, better: str, target: float, threads: int,
         out: Path | None) -> None:  # fmt: skip
    """Record the ratio of two latencies; its spread is that of the quartiles."""
    a, b = over.latency, under.latency
    ratio = a.median_ms / b.median_ms
    path = record(
        name,
        ratio,
        "x",
        target,
        better,  # type: ignore[arg-type]
        threads=threads,
        spread=(a.q1_ms / b.q3_ms, a.q3_ms / b.q1_ms),
        extra={over.name: facts(over), under.name: facts(under)},
        out=out,
    )
    print(f"{over.name} {a} / {under.name} {b} = {ratio:.3f} -> {path}")


if __name__ == "__main__":
    typer.run(main)
