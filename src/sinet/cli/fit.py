"""`sinet fit`: from images and a budget to the best measured model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fit(
    data: Annotated[Path, typer.Argument(help="Folder, CSV, Parquet, IDX or archive of images.")],
    budget: Annotated[
        str, typer.Option(help="What the shipped file may cost: 10ms, 30fps, 4MB, 200MB-ram, ...")
    ] = "",
    size: Annotated[str, typer.Option(help="Limit of the file's size, such as 4MB.")] = "",
    minutes: Annotated[float, typer.Option(help="Minutes to spend on training.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME.")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Choose for the device of this `sinet profile` file.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(help="classify, segment, detect, ...; default: by the data."),
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Try only networks, heads or backbones of these names (wildcards)."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Recipe name or YAML file; default by starting weights.")
    ] = "",
    weights: Annotated[
        str,
        typer.Option(
            help="Pretrained weights: a folder of NAME.safetensors for all networks; or a file, "
            "hub:NAME or package:NAME, which are those of the --teacher if there is one, else of "
            "the one --model."
        ),
    ] = "",
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Learn from it too: folder of a training or fit, or a model's name, which is "
            "first trained on the images, within the minutes. Given again: each teaches the next."
        ),
    ] = None,
    freeze: Annotated[
        int | None,
        typer.Option(help="First layer groups (stem, ...) of pretrained networks to keep."),
    ] = None,
    linear_probe: Annotated[
        bool, typer.Option("--linear-probe", help="Keep all but the classifier.")
    ] = False,
    max_drop: Annotated[float, typer.Option(help="Points of accuracy that INT8 may lose.")] = 0.5,
    threads: Annotated[int | None, typer.Option(help="Threads of the shipped model.")] = None,
    device: Annotated[str, typer.Option(help="Train on auto, cpu, cuda:0 or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    dry_run: Annotated[bool, typer.Option(help="Stop after the table of candidates.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Recipe values, such as lr=0.01, and options of the networks: model.neck=catnet, "
            "model.backbone=resnet18."
        ),
    ] = None,
) -> None:
    """From a folder of images and a latency budget to the best measured model, ready to ship.

    Inspects the data, times candidate models on this machine, trains the best that keep the
    budget, quantizes, exports, verifies and reports. The same command goes on with a stopped run.

    Example: `sinet fit photos/ --budget 10ms --minutes 30`
    """
    from sinet.road import fit as run
    from sinet.tasks.train_command import frozen

    run(
        data,
        ",".join(part for part in (budget, size) if part),
        dry_run=dry_run,
        minutes=minutes,
        out=str(out or ""),
        task=task,
        profile=str(profile or ""),
        models=tuple(model or ()),
        recipe=recipe,
        overrides=tuple(overrides or ()),
        weights=weights,
        teachers=tuple(teacher or ()),
        freeze=frozen(freeze, linear_probe),
        max_drop=max_drop,
        threads=threads or 0,
        device=device,
        seed=seed,
    )
