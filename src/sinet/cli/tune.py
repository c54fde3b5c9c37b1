"""`sinet tune`: the hyper-parameters of a recipe, for the images at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    data: Annotated[Path, typer.Argument(help="Folder, CSV, Parquet, IDX or archive of images.")],
    model: Annotated[
        str, typer.Option(help="Any model of `sinet models`, or the YAML file of one found.")
    ] = "sinet_tiny",
    trials: Annotated[int, typer.Option(min=1, help="Recipes that are tried.")] = 20,
    epochs: Annotated[
        float | None, typer.Option(help="Of a full training, instead of the recipe's.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="No trial begins after about that time.")] = 600.0,
    size: Annotated[int, typer.Option(help="Input size, pixels; 0 = that of the images.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/tune-NAME.")] = None,
    storage: Annotated[
        str, typer.Option(help="Where trials are kept: a file or a URL; default in --out.")
    ] = "",
    recipe: Annotated[str, typer.Option(help="Recipe to begin with, name or YAML file.")] = "",
    device: Annotated[str, typer.Option(help="Train on auto, cpu, cuda:0 or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Recipe values that the search begins with.")
    ] = None,
) -> None:
    """Tune learning rate, decay and augmentations; the best recipe is for `sinet train --recipe`.

    The same command goes on with a stopped one; started several times, the processes share the
    trials.

    Example: `sinet tune photos/ --trials 20`
    """
    from sinet.search.session import Request
    from sinet.search.tune import tune as run

    request = Request(
        data,
        out or Path("runs") / f"tune-{data.stem}",
        minutes,
        trials,
        storage,
        recipe,
        tuple(overrides or ()),
        None,
        device,
        seed,
    )
    found = run(request, model, size, epochs, typer.echo)
    before = "" if found.before is None else f" (as it was: {found.before:.4f})"
    typer.echo(f"{found.score:.4f}{before}")
    typer.echo(found.path)
