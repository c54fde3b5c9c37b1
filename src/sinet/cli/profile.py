"""`sinet profile`: describe this device so that another machine can choose for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


def profile(
    out: Annotated[Path, typer.Option(help="The file to write, such as pi5.json.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Time to spend in all.")] = 6.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: cores, at most 4.")] = None,
    image_size: Annotated[
        list[int] | None, typer.Option(help="Image sizes to prepare for; default: 224 and 32.")
    ] = None,
) -> None:
    """Measure this device and time the candidate models on it.

    Example: `sinet profile --out pi5.json`, then elsewhere `sinet fit photos/ --profile pi5.json`
    """
    from sinet.measurement.machine import machine
    from sinet.search.device import profile_device

    console = Console(stderr=True)
    console.print(machine().hardware, markup=False, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("timing models", total=None)
        found = profile_device(
            tuple(image_size or (224, 32)),
            minutes=minutes,
            threads=threads,
            progress=lambda done, total, _: bar.update(task, completed=done, total=total),
        )
    path = found.save(out)
    Console().print(f"{len(found.rows)} timed models written to {path}", markup=False)
