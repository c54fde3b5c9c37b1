"""`sinet export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a `fit` or of a training.")],
    to: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32 or int8.")] = "fp32",
    out: Annotated[
        Path | None, typer.Option(help="Default: model_PRECISION in the run folder.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Images that calibrate INT8 (not needed after `fit`).")
    ] = None,
) -> None:
    """Write a trained model as a file for an engine, preprocessing and names inside.

    Example: `sinet export runs/photos --to openvino --precision int8`
    """
    from sinet.deployment.artifact import SUFFIX, make_artifact

    default = run / f"model_{precision}{SUFFIX.get(to, '')}"
    file = make_artifact(run, out or default, to, precision, data)
    typer.echo(f"wrote {file} ({file.stat().st_size / 1e6:.2f} MB)")
