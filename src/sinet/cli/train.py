"""`sinet train`: one network, one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[Path, typer.Argument(help="Folder, CSV, Parquet, IDX or archive of images.")],
    model: Annotated[
        str, typer.Option(help="Any model of `sinet models`, or the YAML file of one found.")
    ] = "sinet_small",
    recipe: Annotated[
        str, typer.Option(help="Recipe name or YAML file; default by starting weights.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/MODEL.")] = None,
    size: Annotated[int, typer.Option(help="Input size, pixels; 0 = that of the images.")] = 0,
    task: Annotated[
        str,
        typer.Option(help="classify, segment, detect, ...; default: by the data."),
    ] = "",
    weights: Annotated[
        str, typer.Option(help="Starting weights: auto (if at hand), none, hub:NAME or a file.")
    ] = "auto",
    init: Annotated[
        Path | None, typer.Option(help="Start from an earlier training's folder or weights.")
    ] = None,
    freeze: Annotated[
        int | None, typer.Option(help="First layer groups (stem, stage 1, ...) that stay.")
    ] = None,
    linear_probe: Annotated[
        bool, typer.Option("--linear-probe", help="All but the classifier stays.")
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(help="Learn from it too: folder of a training or fit, or a model's name."),
    ] = None,
    teacher_weights: Annotated[
        str | None, typer.Option(help="Weights of a --teacher that is a model's name.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a stopped training in --out.")] = True,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    strategy: Annotated[str, typer.Option(help="Under torchrun: auto, ddp or fsdp.")] = "auto",
    accumulate: Annotated[
        int, typer.Option(help="Parts in which a batch is taken, where memory is short.")
    ] = 1,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Recipe values, such as lr=0.01, and model.KEY=VALUE for the model."),
    ] = None,
) -> None:
    """Train one network; the same command goes on with a training that was stopped.

    Example: `sinet train photos/ --model sinet_small --epochs 30 lr=0.002 --out runs/photos`
    """
    from sinet.tasks.train_command import frozen, run_training

    trained = run_training(
        data,
        model=model,
        recipe=recipe,
        out=out or Path("runs") / Path(model).name,
        size=size,
        task=task,
        weights=weights,
        overrides=tuple(overrides or ()),
        given={
            "epochs": epochs,
            "seed": seed,
            "freeze": frozen(freeze, linear_probe),
            "teacher": teacher,
            "teacher_weights": teacher_weights,
        },
        init=init,
        resume=resume,
        workers=workers,
        device=device,
        strategy=strategy,
        accumulate=accumulate,
    )
    for name, value in sorted(trained.metrics.items()):
        typer.echo(f"{name} {value:.4f}")
    typer.echo(trained.folder / "weights.safetensors")
