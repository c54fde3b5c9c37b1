"""A data set of drawn house numbers, to learn from with `sinet fit`.

    python benchmarks/make_street_numbers.py numbers/ --count 20000
    sinet fit numbers/

Writes OUT/train, OUT/val and OUT/test with pictures and numbers.csv.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from sinet.data.street_numbers import write_numbers


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    count: Annotated[int, typer.Option(min=20, help="Pictures in all.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
) -> None:
    """Draw numbers."""
    with Progress(transient=True) as bar:
        shown = bar.add_task("numbers", total=count)
        write_numbers(out, count, seed, lambda done, n: bar.update(shown, completed=done))
    typer.echo(f"{count} pictures in {out}")


if __name__ == "__main__":
    typer.run(main)
