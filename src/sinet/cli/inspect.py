"""`sinet inspect`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from sinet.errors import DataError
from sinet.files import write_json

if TYPE_CHECKING:
    from sinet.data.inspection import Inspection
    from sinet.data.sheet import Painter


def inspect(
    path: Annotated[Path, typer.Argument(help="Folder, CSV, Parquet file or archive.")],
    out: Annotated[
        Path | None, typer.Option(help="Write sheet.png and inspection.json into this folder.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(help="classify, segment, detect, ...; default: by the data."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is in a data set and what is wrong with it.

    Example: `sinet inspect photos/ --out photos-inspected`
    """
    from sinet.data.inspection import inspect_dataset
    from sinet.data.sheet import draw_refusal, draw_sheet

    with Progress(console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("reading pictures", total=None)
        try:
            found = inspect_dataset(
                path,
                task=task,
                progress=lambda done, total: bar.update(shown, completed=done, total=total),
            )
        except DataError as error:
            if out is not None and (sheet := draw_refusal(error, out / "sheet.png")):
                bar.console.print(f"what is wrong is drawn in {escape(str(sheet))}")
            raise
    if out is not None:
        write_json(out / "inspection.json", found.to_dict())
        draw_sheet(found, out / "sheet.png", _painter(found))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        _show(found, out)
    if found.problem:
        raise DataError(f"{path}: {found.problem}")


def _painter(found: Inspection) -> Painter | None:
    """What draws the masks or boxes of a data set onto its pictures."""
    from sinet.data.sheet import UNUSED, painter
    from sinet.tasks.signatures import Described, signature

    facts = Described(found.task, found.classes, found.class_ids, found.multilabel, UNUSED)
    return painter(found.task, signature(facts))


def _show(found: Inspection, out: Path | None) -> None:
    console = Console()
    for note in found.notes:
        console.print(f"[dim]{escape(note.text)}[/dim]")
    table = Table("class", "id", *found.counts, title=escape(found.root))
    for column in table.columns[2:]:
        column.justify = "right"
    for i, name in enumerate(found.classes[:50]):
        counts = (str(counts[i]) for counts in found.counts.values())
        table.add_row(escape(name), escape(str(found.class_ids[i])), *counts)
    if len(found.classes) > 50:
        table.add_row(f"... {len(found.classes) - 50} more", "", *("" for _ in found.counts))
    table.add_section()
    table.add_row("all", "", *(str(count) for count in found.samples.values()), style="bold")
    console.print(table)
    console.print(
        "width {} .. {} .. {}, height {} .. {} .. {} pixels (least, median, greatest)".format(
            *found.width, *found.height
        )
    )
    for warning in found.warnings:
        console.print(f"[yellow]![/yellow] {escape(warning.text)}", soft_wrap=True)
    if not found.warnings:
        console.print("[green]nothing found that is wrong[/green]")
    if out is not None:
        console.print(f"written: {escape(str(out / 'sheet.png'))}, inspection.json")
