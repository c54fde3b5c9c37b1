"""The run folder while it is being filled: what was asked, what is said, the report at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from sinet.errors import UsageError
from sinet.files import write_text
from sinet.report import render
from sinet.report.terminal import Voice
from sinet.road.config import FitConfig


class Run(Voice):
    """A run folder, its configuration and its voice."""

    def __init__(self, config: FitConfig, console: Console | None) -> None:
        super().__init__(console)
        self.config, self.folder = config, config.folder
        asked = {f.name: getattr(config, f.name) for f in fields(config)}
        asked = {k: list(v) if isinstance(v, tuple) else v for k, v in asked.items()}
        path = self.folder / "config.yaml"
        if path.is_file():
            _check_same(path, asked)
        else:
            command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
            started = datetime.now(timezone.utc).isoformat(timespec="seconds")
            known = {**asked, "command": command, "started": started}
            write_text(path, yaml.safe_dump(known, sort_keys=False))

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Whatever happens, the report is written with what there is."""
        try:
            yield
        finally:
            self.say("report", str(render(self.folder)))


def _check_same(path: Path, asked: dict[str, Any]) -> None:
    known = yaml.safe_load(path.read_text(encoding="utf-8"))
    # a run that was started before an option existed did without it
    did = {f.name: list(f.default) if f.default == () else f.default for f in fields(FitConfig)}
    other = [k for k, v in asked.items() if k != "out" and known.get(k, did[k]) != v]
    if other:
        said = ", ".join(f"{k} {known.get(k)!r} then, {asked[k]!r} now" for k in other)
        raise UsageError(
            f"{path.parent} holds another run ({said}); choose another --out, or delete it"
        )
