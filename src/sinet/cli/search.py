"""`sinet search`: the most accurate architecture that keeps a measured budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def search(
    data: Annotated[Path, typer.Argument(help="Folder, CSV, Parquet, IDX or archive of images.")],
    space: Annotated[str, typer.Option(help="sinet, or nasnet for cells.")] = "sinet",
    budget: Annotated[
        str, typer.Option(help="What the exported network may cost here: 8ms, 30fps, 4MB, ...")
    ] = "",
    minutes: Annotated[
        float, typer.Option(help="For the search, and the last training of what it found.")
    ] = 60.0,
    trials: Annotated[
        int, typer.Option(help="Trained candidates at most; 0 = as many as the minutes allow.")
    ] = 0,
    cells: Annotated[
        bool,
        typer.Option(
            "--cells", help="With nasnet: stack the cells deeper and wider for images as they are."
        ),
    ] = False,
    by: Annotated[
        str, typer.Option(help="With nasnet: ppo, reinforce, evolution or random.")
    ] = "ppo",
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/search-NAME.")] = None,
    storage: Annotated[
        str, typer.Option(help="Where trials are kept: a file or a URL; default in --out.")
    ] = "",
    join: Annotated[
        bool, typer.Option("--join", help="Only help a search that another process has begun.")
    ] = False,
    recipe: Annotated[str, typer.Option(help="Recipe name or YAML file.")] = "",
    threads: Annotated[int | None, typer.Option(help="Threads of the exported network.")] = None,
    device: Annotated[str, typer.Option(help="Train on auto, cpu, cuda:0 or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Recipe values, such as lr=0.01.")
    ] = None,
) -> None:
    """Search for the architecture that is most accurate within a latency measured here.

    The same command goes on with a stopped search; more processes with --join share it. What was
    found lies in found.yaml, which `sinet train --model` takes.

    Example: `sinet search photos/ --space sinet --budget 8ms --minutes 60`
    """
    from sinet.search.command import run_search
    from sinet.search.session import Request

    request = Request(
        data,
        out or Path("runs") / f"search-{data.stem}",
        minutes,
        trials,
        storage,
        recipe,
        tuple(overrides or ()),
        threads,
        device,
        seed,
        join,
    )
    found = run_search(request, space, budget, cells=cells, by=by, say=typer.echo)
    if found.trained is None:
        return
    for name, value in sorted(found.trained.metrics.items()):
        typer.echo(f"{name} {value:.4f}")
    typer.echo(found.folder / "found.yaml")
