"""A data set of drawn things that move, to learn from with `sinet fit`.

    python benchmarks/make_motion.py motion/ --count 3600
    sinet fit motion/

Writes OUT/train, OUT/val and OUT/test with a folder of .mp4 files for each class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from sinet.data.motion import write_motion


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    count: Annotated[int, typer.Option(min=90, help="Clips in all.")] = 3600,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
) -> None:
    """Draw clips."""
    with Progress(transient=True) as bar:
        shown = bar.add_task("clips", total=count)
        write_motion(out, count, seed, lambda done, n: bar.update(shown, completed=done))
    typer.echo(f"{count} clips in {out}")


if __name__ == "__main__":
    typer.run(main)
