"""`sinet reproduce`: measure the claims of a paper again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def reproduce(
    name: Annotated[str, typer.Argument(help="Name of a paper, see `sinet papers`.")],
    quick: Annotated[
        bool, typer.Option(help="About a minute: one seed, few images and epochs.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Images for accuracy claims; default: those bundled.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: the larger experiment where a paper has one.")
    ] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder; default: docs/results/reproductions, or the trainings' if --quick."
        ),
    ] = None,
) -> None:
    """Measure what a paper claims; write the verdicts as JSON. Run again, it goes on.

    Example: `sinet reproduce minspnet --quick`
    """
    from sinet.papers.base import run_reproduction

    done, path = run_reproduction(name, quick=quick, data=data, device=device, out=out)
    table = Table("claim", "verdict", "measured", title=f"{name}: {done.verdict}")
    for finding in done.findings:
        table.add_row(escape(finding.claim), finding.verdict, escape(finding.why))
    console = Console()
    console.print(table)
    console.print(f"{path} ({done.minutes:g} minutes, {done.hardware})", markup=False)
