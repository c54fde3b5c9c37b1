"""The command line: one file a verb, no logic of its own; heavy imports happen inside the verbs."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from sinet import __version__
from sinet.errors import SinetError

VERBS = (
    "inspect",
    "fit",
    "search",
    "tune",
    "train",
    "val",
    "predict",
    "export",
    "report",
    "bench",
    "profile",
    "models",
    "papers",
    "reproduce",
)

app = typer.Typer(
    name="sinet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"sinet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """From your images and your hardware to a small, fast, measured vision model."""


def guarded(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb, with every known failure turned into one clear line and its exit code."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except SinetError as error:
            _say("error", "bold red", str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _say("interrupted", "bold yellow", "run the same command again to go on from there")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader (head, less) has gone: not an error of ours
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    return run


def _say(kind: str, style: str, text: str) -> None:
    console = Console(stderr=True)
    console.print(f"{kind}:", style=style, end=" ")
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def attach_verbs() -> None:
    """Add each verb of `VERBS`: a function, or a Typer group where a verb has verbs of its own."""
    for name in VERBS:
        verb = getattr(importlib.import_module(f"sinet.cli.{name}"), name)
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=name)
        else:
            app.command(name)(guarded(verb))


def main() -> None:
    """Entry point of the `sinet` command."""
    # Idle OpenMP threads spin for ever, which halves the speed of training when anything else runs;
    # sleeping at once costs a third of it when nothing does. This many turns lose neither (2 cores,
    # sinet_tiny: 531 images/s spinning, 338 sleeping, 506 so). torch reads it on its import.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    attach_verbs()
    app()
