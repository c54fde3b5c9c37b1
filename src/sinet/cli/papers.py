"""`sinet papers`: the cards of the published systems in this library."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sinet.cli import guarded

papers = typer.Typer(help="The cards of the published systems in this library.")


@papers.callback(invoke_without_command=True)
@guarded
def _list(context: typer.Context) -> None:
    """List the papers; `sinet papers show NAME` shows one.

    Example: `sinet papers`
    """
    if context.invoked_subcommand is not None:
        return
    from sinet.papers.base import papers as known

    table = Table("name", "title", "year", "models")
    for slug, paper in known().items():
        card = paper.CARD
        table.add_row(slug, escape(card.title), str(card.year or ""), ", ".join(card.models))
    Console().print(table)


@papers.command()
@guarded
def show(name: Annotated[str, typer.Argument(help="Name of a paper.")]) -> None:
    """Show the card of a paper.

    Example: `sinet papers show minspnet`
    """
    from sinet.papers.base import paper

    card = paper(name).CARD
    console = Console()
    console.print(f"[bold]{escape(card.title)}[/]")
    facts = {
        "authors": card.authors,
        "published": f"{card.venue}{f', {card.year}' if card.year else ''}",
        "link": card.url or "none",
        "licence": card.licence,
        "idea": card.idea,
        "equations": "\n".join(card.equations),
        "claims": "\n".join(f"- {claim}" for claim in card.claims),
        "models": ", ".join(card.models),
        "parity": card.parity,
        "repeat": f"sinet reproduce {card.slug} --quick",
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in facts.items():
        table.add_row(f"[cyan]{key}[/]", escape(value))
    console.print(table)
