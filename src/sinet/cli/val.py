"""`sinet val`: how good is an exported file on labelled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def val(
    model: Annotated[Path, typer.Argument(help="model.onnx, or a folder that holds one.")],
    data: Annotated[Path, typer.Argument(help="Labelled images, in any format `fit` reads.")],
    split: Annotated[str, typer.Option(help="Default: test, else val, else everything.")] = "",
    engine: Annotated[str, typer.Option(help="onnxruntime, openvino or torch.")] = "onnxruntime",
    threads: Annotated[int | None, typer.Option(help="Default: as many as cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Accuracy of an exported file, with its 95% interval and the result of each class.

    Example: `sinet val runs/photos/model.onnx photos/val`
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from sinet.deployment.predictor import Predictor
    from sinet.measurement.evaluate import evaluate_file

    predictor = Predictor(model, engine, threads)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("images", total=None)
        found = evaluate_file(
            predictor, data, split, lambda done, n: bar.update(shown, completed=done, total=n)
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        return
    table = Table("class", title=f"{found.model} on {found.images} images ({found.split})")
    for column in list(found.classes[0])[1:]:
        share = isinstance(found.classes[0][column], float)
        table.add_column(f"{column} %" if share else column, justify="right")
    for row in found.classes:
        name, *values = row.values()
        cells = (f"{100 * v:.1f}" if isinstance(v, float) else str(v) for v in values)
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    task = predictor.signature
    low, high = task.shown(found.low), task.shown(found.high)
    typer.echo(f"{found.metric_name} {task.shown(found.metric)} (95%: {low} - {high})")
    for name, reason in found.unreadable:
        typer.echo(f"not read: {name}: {reason}")
