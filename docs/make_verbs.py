"""Write the options of each verb, as the command line itself knows them, into docs/verbs.md."""

from __future__ import annotations

from typing import Any

import typer
from make_results import DOCS, fill

from sinet.cli import app, attach_verbs


def table(command: Any) -> str:
    """A markdown table of a command's arguments and options."""
    lines = ["| argument or option | default | what it does |", "| --- | --- | --- |"]
    for parameter in command.params:
        if parameter.name == "help":
            continue
        argument = parameter.param_type_name == "argument"
        names = parameter.name.upper() if argument else ", ".join(parameter.opts)
        default = "" if parameter.default in (None, False, ...) else f"`{parameter.default}`"
        default = "required" if parameter.required else default
        words = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
        lines.append(f"| `{names}` | {default} | {words} |")
    return "\n".join(lines)


def section(command: Any) -> str:
    """The tables of a verb, or of each verb of a group."""
    if hasattr(command, "commands"):
        parts = [f"`{name}`\n\n{table(inner)}" for name, inner in command.commands.items()]
        own = [table(command)] if command.invoke_without_command else []
        return "\n\n".join(own + parts)
    return table(command)


def main() -> None:
    """Fill one block a verb."""
    attach_verbs()
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        fill(DOCS / "verbs.md", name, section(command))


if __name__ == "__main__":
    main()
