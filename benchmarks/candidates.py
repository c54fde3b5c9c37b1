"""How many models does the candidate table hold after three minutes?

    python benchmarks/candidates.py
    python benchmarks/candidates.py --image-size 32 --minutes 1

Writes docs/results/candidates_3min_count.json. Nothing is taken from the cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sinet.measurement.results import record
from sinet.search.budget import Budget
from sinet.search.candidates import Candidate, time_candidates
from sinet.search.specs import default_specs


def main(
    image_size: Annotated[int, typer.Option(help="Side of a typical image, pixels.")] = 224,
    budget: Annotated[str, typer.Option(help="As given to `sinet fit`.")] = "10ms",
    minutes: Annotated[float, typer.Option(help="Time allowed.")] = 3.0,
    threads: Annotated[int, typer.Option(help="Threads of each model.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Default: docs/results.")] = None,
) -> None:
    """Time candidates for `minutes` and count the different models among them."""
    start = time.monotonic()
    inside: dict[str, float] = {}

    def told(done: int, total: int, rows: Sequence[Candidate]) -> None:
        elapsed = time.monotonic() - start
        timed = [c for c in rows if c.latency is not None]
        if timed and elapsed <= 60 * minutes:
            inside.setdefault(rows[0].spec.name, elapsed)
        print(f"{elapsed:6.1f} s  {done}/{total}", *(f"{c.precision} {c.latency}" for c in timed))

    found = time_candidates(
        default_specs(image_size),
        Budget.parse(budget),
        image_hw=(image_size, image_size),
        threads=threads,
        seconds=60 * minutes,
        progress=told,
        cache=False,
    )
    path = record(
        "candidates_3min_count",
        len(inside),
        "models",
        25,
        "higher",
        threads=threads,
        extra={
            "minutes": minutes,
            "rows": len(found),
            "fit": sum(c.fits for c in found),
            "budget": budget,
            "image_size": image_size,
            "models": list(inside),
        },
        out=out,
    )
    print(path)


if __name__ == "__main__":
    typer.run(main)
