"""`sinet report`: write the report of a run folder again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder that `sinet fit` wrote.")],
    picture: Annotated[
        Path | None, typer.Option(help="Also draw frontier and export chain into this PNG.")
    ] = None,
) -> None:
    """Write `report.html` of a run, finished or not.

    Example: `sinet report runs/photos`
    """
    from sinet.report import draw_summary, render

    typer.echo(render(run))
    if picture is not None:
        typer.echo(draw_summary(run, picture))
