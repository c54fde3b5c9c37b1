"""`sinet models`: every registered classifier, ours and timm's, with its cost; networks; necks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

OURS = "*sinet*"
"""The classifiers that are listed where no name is given: timm knows more than a thousand."""


def models(
    pattern: Annotated[
        str, typer.Argument(help="Name with wildcards; default: our classifiers, all else.")
    ] = "",
    size: Annotated[
        int | None, typer.Option(min=1, help="Input height and width; default: each model's own.")
    ] = None,
    timed: Annotated[
        bool, typer.Option("--bench", help="Measure the latency too, interleaved; classifiers.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: cores, at most 4.")] = None,
    precision: Annotated[str, typer.Option(help="Of --bench: fp32 or int8.")] = "fp32",
) -> None:
    """List classifiers with their cost (--bench: and latency), networks of other tasks, and necks.

    Classifiers serve as backbones of the networks that say so: `model.backbone=NAME`. Detectors
    put a neck between: `model.neck=NAME`.

    Example: `sinet models 'sinet*' --bench`
    """
    import timm

    import sinet.models  # noqa: F401  registers ours with timm
    from sinet.errors import unknown
    from sinet.heads import list_necks
    from sinet.models import list_networks

    names, networks = (
        [n for n in every if "_test" not in n]
        for every in (timm.list_models(pattern or OURS), list_networks(pattern or "*"))
    )
    necks = list_necks(pattern or "*")
    if not names and (timed or not (networks or necks)):
        known = timm.list_models()
        raise unknown("model", pattern, known if timed else [*known, *list_networks()])
    console = Console()
    if names:
        console.print(_classifiers(names, size, timed, threads, precision))
    if networks and not timed:
        console.print(_networks(networks))
    if necks and not timed:
        console.print(_necks(necks))


def _table(words: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    table = Table(pad_edge=False, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in words:
        table.add_column(column, no_wrap=column != "what")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _classifiers(
    names: Sequence[str], size: int | None, timed: bool, threads: int | None, precision: str
) -> Table:
    """Parameters and multiply-adds, which are counted now; latencies if they are asked for."""
    import timm

    from sinet.measurement.bench import bench, default_size
    from sinet.measurement.cost import cost
    from sinet.models.spec import ModelSpec

    latency = ("ms", "quartiles", "GFLOP/s", "peak") if timed else ()
    table = _table(("model", "from"), ("px", "Mparam", "MMACs", *latency))
    rows = {}
    if timed:
        found = bench(names, size=size, threads=threads, precision=precision,
                      seconds=max(5.0, len(names)))  # fmt: skip
        rows = dict(zip(names, found, strict=True))
    for name in track(names, "counting", console=Console(stderr=True), transient=True):
        own = size or default_size(name)
        facts = cost(ModelSpec(name, own).create(1000, load=False), own)
        ours = timm.model_entrypoint(name).__module__.startswith("sinet.")
        cells = [str(own), *(f"{v / 1e6:.1f}" for v in (facts.params, facts.macs))]
        if row := rows.get(name):
            ms = row.latency
            cells += [f"{ms.median_ms:.2f}", f"{ms.q1_ms:.2f}-{ms.q3_ms:.2f}"]
            cells += [f"{row.gflops:.0f}", f"{row.efficiency:.0%}"]
        table.add_row(name, "sinet" if ours else "timm", *cells)
    return table


def _networks(names: Sequence[str]) -> Table:
    """What each is for, and whether it is built on any classifier."""
    from sinet.models._networks import registered

    table = _table(("network", "for", "backbone", "what"))
    for name in names:
        known = registered(name)
        body = "any" if known.takes_backbone else ""
        table.add_row(name, ", ".join(known.tasks), body, _about(known.build))
    return table


def _necks(names: Sequence[str]) -> Table:
    from sinet.heads._necks import builder

    table = _table(("neck", "what"))
    for name in names:
        table.add_row(name, _about(builder(name)))
    return table


def _about(build: object) -> str:
    """The first line of a builder's docstring."""
    return (build.__doc__ or "").strip().partition("\n")[0]
