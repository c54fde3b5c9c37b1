"""`sinet predict`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinet.errors import UsageError

if TYPE_CHECKING:
    from sinet.deployment.predictor import Predictor
    from sinet.tasks.signatures import Result

_SHOWN = 50


def predict(
    model: Annotated[Path, typer.Argument(help="model.onnx, or a run or ship folder.")],
    sources: Annotated[list[str], typer.Argument(help="Images, folders and 'globs*'.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="results.csv or results.json, or a folder for answers that are files (volumes); "
            "else a table is shown."
        ),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Folder for the images with the answers drawn on them.")
    ] = None,
    engine: Annotated[str, typer.Option(help="onnxruntime, openvino or torch.")] = "onnxruntime",
    top: Annotated[int, typer.Option(min=1, help="Classes to give for each image.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads; all cores by default.")] = None,
) -> None:
    """Say what is in images, with an exported model.

    One row an answer, and one for each file that cannot be read, which holds the error.

    Example: `sinet predict runs/photos/model.onnx new/*.jpg --out results.csv --top 3`
    """
    from sinet.deployment.predictor import Predictor

    into = out if out is not None and not out.suffix else None
    if out is not None and into is None and out.suffix not in (".csv", ".json"):
        raise UsageError(f"--out {out} is neither .csv nor .json; choose one of them")
    predictor = Predictor(model, engine, threads)
    files = list(_expand(sources, predictor))
    rows = []
    for result in predictor.predict(files):
        rows += _rows(result, top)
        if result.error is None and into is not None and result.save(into) is None:
            raise UsageError(f"this model answers in rows, not files; give --out {into}.csv")
        if draw is not None and result.error is None:
            _draw(predictor, result, draw)
    if out is None:
        _show(rows[:_SHOWN], len(rows))
    else:
        _save(rows, into / "results.csv" if into else out)
    bad = sum(bool(row["error"]) for row in rows)
    typer.echo(
        f"{len(files)} images, {bad} unreadable" + (f"; wrote {out}" if out else ""), err=True
    )


def _expand(sources: Iterable[str], predictor: Predictor) -> Iterator[Path]:
    """Files as given, images of folders, matches of globs; each in order."""
    import glob

    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = predictor.signature.input.inside(path)
            if not inside:
                raise UsageError(f"no images in {path}; give a folder that holds some")
            yield from inside
        elif path.exists() or not glob.has_magic(source):
            yield path  # a missing file gets its row with the error
        else:
            found = sorted(glob.glob(source, recursive=True))
            if not found:
                raise UsageError(f"nothing matches {source!r}")
            yield from map(Path, found)


def _rows(result: Result, top: int) -> list[dict[str, Any]]:
    """Columns file, those of the task, error."""
    ends = {"error": result.error or ""}
    return [{"file": result.source, **row, **ends} for row in result.rows(top)]


def _draw(predictor: Predictor, result: Result, folder: Path) -> None:
    """`folder/NAME.png`: the image with the answer on it."""
    from sinet.files import atomic_path

    name = Path(result.source).stem.removesuffix(".nii")
    with atomic_path(folder / f"{name}.png") as temporary:
        sample = predictor.read(result.source)
        result.draw(predictor.signature.input.picture(sample)).save(temporary, format="PNG")


def _save(rows: list[dict[str, Any]], out: Path) -> None:
    import csv

    from sinet.files import atomic_path, write_json

    if out.suffix == ".json":
        write_json(out, rows)
        return
    with atomic_path(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["file", "error"])
        writer.writeheader()
        writer.writerows(rows)


def _show(rows: list[dict[str, Any]], total: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*(rows[0] if rows else ["file"]))
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    console = Console()
    console.print(table)
    if total > len(rows):
        console.print(f"... and {total - len(rows)} more; --out results.csv keeps them all")
