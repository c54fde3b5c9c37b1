"""ONNX Runtime latency, INT8 and efficiency of every network of this library and of its papers.

    python benchmarks/zoo.py                # all under 100M parameters, about half an hour
    python benchmarks/zoo.py --only lsnet   # one family; the others' rows are kept

Each network runs at its own input size, batch 1, random weights, FP32 and INT8 in turn. Rows are
kept as they come, so a run that was cut short goes on. Writes docs/results/zoo_latency.json.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Annotated, Any

import timm
import typer
from rich.progress import track

from sinet.errors import SinetError
from sinet.files import read_json
from sinet.measurement.bench import BenchRow, bench_networks, default_size
from sinet.measurement.results import record, results_dir
from sinet.models.spec import ModelSpec
from sinet.papers.base import papers

MOST_PARAMETERS = 100e6


def names(only: str) -> list[str]:
    """Names that fit the pattern: what this library registers, and what its cards have of timm.

    Those made for tests are left out.
    """
    ours = {n for n in timm.list_models() if timm.model_entrypoint(n).__module__[:6] == "sinet."}
    named = {n for module in papers().values() for n in module.CARD.models if timm.is_model(n)}
    fitting = (n for n in ours | named if fnmatch.fnmatch(n, f"*{only}*"))
    return sorted(n for n in fitting if not n.endswith("_test"))


def row(found: BenchRow) -> dict[str, Any]:
    """What the tables show."""
    latency = found.latency
    return {
        "ms": round(latency.median_ms, 3),
        "quartiles": [round(latency.q1_ms, 3), round(latency.q3_ms, 3)],
        "gflops": round(found.gflops, 1),
        "efficiency": round(found.efficiency, 3),
        "file_mb": round(found.file_mb, 2),
    }


def measure(name: str, seconds: float) -> dict[str, Any]:
    """One network's row, or what kept it from being measured."""
    size = default_size(name)
    cfg = timm.get_pretrained_cfg(name)
    channels = cfg.input_size[0]
    network = ModelSpec(name, size).create(cfg.num_classes, channels, load=False)
    params = sum(p.numel() for p in network.parameters())
    facts: dict[str, Any] = {"params": params, "size": size}
    if params > MOST_PARAMETERS:
        return {**facts, "left_out": "100M parameters or more"}
    try:
        fp32, int8 = bench_networks(
            {name: (network, size)}, in_chans=channels, precisions=("fp32", "int8"), seconds=seconds
        )
    except (SinetError, RuntimeError) as error:
        return {**facts, "error": str(error).splitlines()[0]}
    macs = fp32.cost.macs if fp32.cost else 0
    return {**facts, "macs": macs, "fp32": row(fp32), "int8": row(int8)}


def main(
    only: Annotated[str, typer.Option(help="A part of the names.")] = "",
    seconds: Annotated[float, typer.Option(help="Time for each network.")] = 4.0,
    again: Annotated[bool, typer.Option(help="Measure also what has a row already.")] = False,
) -> None:
    """Measure and record."""
    path = results_dir() / "zoo_latency.json"
    rows: dict[str, Any] = read_json(path)["extra"]["models"] if path.is_file() else {}
    for name in track(names(only), "zoo"):
        if again or name not in rows or "error" in rows[name]:
            rows[name] = measure(name, seconds)
            save(rows)


def save(rows: dict[str, Any]) -> Path:
    """Write what there is."""
    measured = sum("fp32" in r for r in rows.values())
    wanted = sum("left_out" not in r for r in rows.values())
    extra = {"batch": 1, "engine": "onnxruntime", "models": dict(sorted(rows.items()))}
    return record("zoo_latency", measured, f"of {wanted} models measured", wanted,
                  command="python benchmarks/zoo.py", extra=extra)  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
