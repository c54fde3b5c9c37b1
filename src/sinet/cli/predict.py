"""`sinet predict`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinet.errors import UsageError

if TYPE_CHECKING:
    from sinet.deployment.footage import Answer
    from sinet.deployment.predictor import Predictor

_SHOWN = 50


def predict(
    model: Annotated[Path, typer.Argument(help="model.onnx, or a run or ship folder.")],
    sources: Annotated[
        list[str], typer.Argument(help="Images, videos, folders, 'globs*' and webcam:0.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="results.csv or results.json, NAME.coco.json for boxes, or a folder for answers "
            "that are files (volumes); else a table is shown."
        ),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(help="Folder for the images and videos with the answers drawn on them."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show the drawn answers in a window.")
    ] = False,
    engine: Annotated[str, typer.Option(help="onnxruntime, openvino or torch.")] = "onnxruntime",
    top: Annotated[int, typer.Option(min=1, help="Classes to give for each image.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads; all cores by default.")] = None,
) -> None:
    """Say what is in images, videos and before cameras, with an exported model.

    One row an answer, and one for each file that cannot be read, which holds the error. Videos and
    cameras are answered frame by frame, cameras until Ctrl-C or until the window is closed.

    Example: `sinet predict runs/photos/model.onnx new/*.jpg --out results.csv --top 3`
    """
    from rich.console import Console
    from rich.progress import track

    from sinet.data.video import is_camera
    from sinet.deployment.footage import CocoFile, Drawings, Watcher
    from sinet.deployment.predictor import Predictor
    from sinet.deployment.window import Window
    from sinet.files import write_json

    into = out if out is not None and not out.suffix else None
    if out is not None and into is None and out.suffix not in (".csv", ".json"):
        raise UsageError(f"--out {out} is neither .csv nor .json; choose one of them")
    watcher = Watcher(Predictor(model, engine, threads), model, threads)
    files = list(_expand(sources, watcher.predictor))
    moving = any(watcher.plays(source) for source in files)
    live = any(map(is_camera, files))
    coco = CocoFile(watcher.predictor.metadata) if str(out).endswith(".coco.json") else None
    drawings, window = Drawings(draw) if draw else None, Window() if show else None
    rows: list[dict[str, Any]] = []
    count = 0
    console = Console(stderr=True)
    seen = track(files, "predict", console=console, transient=True, disable=live)
    with drawings or nullcontext(), suppress(KeyboardInterrupt) if live else nullcontext():
        for answer in watcher.answers(seen):
            rows += _rows(answer, top, moving)
            count += 1
            if answer.result.error is not None:
                continue
            if into is not None and answer.result.save(into) is None:
                raise UsageError(f"this model answers in rows, not files; give --out {into}.csv")
            if coco:
                coco.add(answer, watcher.picture(answer))
            if drawings or window:
                picture = answer.result.draw(watcher.picture(answer))
                if drawings:
                    drawings.add(answer, picture)
                if window and not window.show(picture):
                    break
    if window:
        window.wait()
    if coco and out:
        write_json(out, coco.to_dict())
    elif out:
        _save(rows, into / "results.csv" if into else out)
    else:
        _show(rows[:_SHOWN], len(rows))
    bad = sum(bool(row["error"]) for row in rows)
    kind = "images and frames" if moving else "images"
    typer.echo(f"{count} {kind}, {bad} unreadable" + (f"; wrote {out}" if out else ""), err=True)


def _expand(sources: Iterable[str], predictor: Predictor) -> Iterator[Path | str]:
    """Files as given, images of folders, matches of globs; each in order. Cameras stay names."""
    import glob

    from sinet.data.video import is_camera

    for source in sources:
        path = Path(source)
        if is_camera(source):
            yield source
        elif path.is_dir():
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


def _rows(answer: Answer, top: int, moving: bool) -> list[dict[str, Any]]:
    """Columns file, frame and time in seconds where anything moves, those of the task, error."""
    begins: dict[str, Any] = {"file": answer.source}
    if moving:
        frame = answer.frame
        begins |= (
            {"frame": frame.number, "time": round(frame.seconds, 3)}
            if frame
            else ({"frame": "", "time": ""})
        )
    ends = {"error": answer.result.error or ""}
    return [{**begins, **row, **ends} for row in answer.result.rows(top)]


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
