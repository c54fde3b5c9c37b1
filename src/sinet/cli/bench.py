"""`sinet bench`: networks and files against each other, in turn in one run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from sinet.measurement.bench import BenchRow


def bench(
    models: Annotated[list[str], typer.Argument(help="Registered names or .onnx files.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Input height and width; default: each model's own.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: cores, at most 4.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a call.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or int8; files run as they are.")] = "fp32",
    seconds: Annotated[float, typer.Option(min=0.1, help="Time to spend in all.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Time models in ONNX Runtime, interleaved (A B A B), with medians and quartiles.

    Example: `sinet bench sinet_tiny mobilenetv3_large_100 --threads 2`
    """
    from sinet.measurement.bench import bench as run

    rows = run(models, size=size, threads=threads, batch=batch, precision=precision,
               seconds=seconds)  # fmt: skip
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in rows], indent=2))
    else:
        _show(rows, precision)


def _show(rows: list[BenchRow], precision: str) -> None:
    from sinet.measurement.machine import machine

    first = rows[0].latency
    title = (
        f"{precision}, {first.threads} threads, batch {first.batch}, {first.runs} rounds in turn, "
        f"no spinning; {machine().hardware}"
    )
    console = Console()
    console.print(title, markup=False, highlight=False)
    table = Table(pad_edge=False, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    names = ("model", "ms", "quartiles", "Mparam", "MMACs", "GFLOP/s", "peak", "MB")
    for name in names:
        left = name == "model"
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        ms = row.latency
        known = ("", "", "", "")
        if row.cost is not None:
            known = (
                f"{row.cost.params / 1e6:.2f}",
                f"{row.cost.macs / 1e6:.0f}",
                f"{row.gflops:.0f}",
                f"{row.efficiency:.0%}",
            )
        quartiles = f"{ms.q1_ms:.2f}-{ms.q3_ms:.2f}"
        cells = (f"{ms.median_ms:.2f}", quartiles, *known, f"{row.file_mb:.1f}")
        table.add_row(escape(row.name), *cells)
    console.print(table)
