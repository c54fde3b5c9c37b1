"""Penn-Fudan's 170 street photos as they come, with 50 of them named as test photos.

    python benchmarks/make_pennfudan.py path/to/PennFudanPed
    python benchmarks/fit.py pennfudan path/to/PennFudanPed

The folder holds `PNGImages/` and `PedMasks/` (Wang et al., ACCV 2007; free for research). Every
image of the sorted list whose place, times 50 / 170, passes a whole number is a test photo, so that
both of its halves, Fudan and Penn, are in the same proportion in both parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinet.files import write_text

TEST = 50


def main(folder: Annotated[Path, typer.Argument(help="With PNGImages and PedMasks.")]) -> None:
    """Write the list of test photos, and the name of the class."""
    names = sorted(path.stem for path in (folder / "PNGImages").glob("*.png"))
    chosen = [
        name
        for i, name in enumerate(names)
        if (i + 1) * TEST // len(names) > i * TEST // len(names)
    ]
    write_text(folder / "test.txt", "".join(f"{name}\n" for name in chosen))
    write_text(folder / "classes.txt", "pedestrian\n")
    typer.echo(f"{len(names) - len(chosen)} photos to learn from, {len(chosen)} to test on")


if __name__ == "__main__":
    typer.run(main)
