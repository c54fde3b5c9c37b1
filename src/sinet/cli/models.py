"""`sinet models`: every registered model, ours and timm's, with its cost."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table


def models(
    pattern: Annotated[str, typer.Argument(help="Name with wildcards.")] = "*sinet*",
    size: Annotated[
        int | None, typer.Option(min=1, help="Input height and width; default: each model's own.")
    ] = None,
    timed: Annotated[
        bool, typer.Option("--bench", help="Measure the latency too, interleaved.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: cores, at most 4.")] = None,
    precision: Annotated[str, typer.Option(help="Of --bench: fp32 or int8.")] = "fp32",
) -> None:
    """List models with parameters and multiply-adds, and with --bench their latency.

    Example: `sinet models 'sinet*' --bench`
    """
    import timm

    import sinet.models  # noqa: F401  registers ours with timm
    from sinet.errors import unknown
    from sinet.measurement.bench import bench, default_size
    from sinet.measurement.cost import cost
    from sinet.models.spec import ModelSpec

    names = [n for n in timm.list_models(pattern) if not n.endswith("_test")]
    if not names:
        raise unknown("model", pattern, timm.list_models())
    table = Table(pad_edge=False, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("model", "from"):
        table.add_column(column, no_wrap=True)
    for column in ("px", "Mparam", "MMACs"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = {}
    if timed:
        for column in ("ms", "quartiles", "GFLOP/s", "peak"):
            table.add_column(column, justify="right", no_wrap=True)
        found = bench(names, size=size, threads=threads, precision=precision,
                      seconds=max(5.0, len(names)))  # fmt: skip
        rows = dict(zip(names, found, strict=True))
    console = Console(stderr=True)
    for name in track(names, "counting", console=console, transient=True):
        own = size or default_size(name)
        facts = cost(ModelSpec(name, own).create(1000, load=False), own)
        ours = timm.model_entrypoint(name).__module__.startswith("sinet.")
        cells = [
            str(own),
            *(f"{v / 1e6:.1f}" for v in (facts.params, facts.macs)),
        ]
        if row := rows.get(name):
            ms = row.latency
            cells += [f"{ms.median_ms:.2f}", f"{ms.q1_ms:.2f}-{ms.q3_ms:.2f}"]
            cells += [f"{row.gflops:.0f}", f"{row.efficiency:.0%}"]
        table.add_row(name, "sinet" if ours else "timm", *cells)
    Console().print(table)
