"""What a run says on the terminal: one line a step, bars for what takes long, two tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sinet.measurement.verify import Verdict
from sinet.search.candidates import Candidate
from sinet.tasks.signatures import Signature


class Voice:
    """Says what happens on a console (standard output if None)."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()

    def say(self, step: str, text: str) -> None:
        """One line, with the step it belongs to."""
        self.console.print(f"[bold cyan]{step:>11}[/]  ", end="")
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, text: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar with the remaining time; yields `progress(done, total)`."""
        columns = (TextColumn("[bold cyan]{task.description:>11}[/] "), BarColumn(),
                   MofNCompleteColumn(), TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as shown:
            task = shown.add_task(text, total=None)
            yield lambda done, total: shown.update(task, completed=done, total=total)

    def candidates(self, candidates: Sequence[Candidate], most: int = 15) -> None:
        """The candidates that keep the budget, the largest first."""
        fitting = sorted((c for c in candidates if c.fits), key=lambda c: -c.macs)
        table = Table(title=f"{len(fitting)} of {len(candidates)} candidates keep the budget")
        for name in ("model", "precision", "ms", "MMACs", "MB", "starts from"):
            table.add_column(name, justify="left" if name in ("model", "precision") else "right")
        for c in fitting[:most]:
            ms = f"{c.latency.median_ms:.2f}" if c.latency else "-"
            start = "weights" if c.spec.weights else "scratch"
            table.add_row(
                c.spec.label, c.precision, ms, f"{c.macs / 1e6:.0f}", f"{c.file_mb:.1f}", start
            )
        if len(fitting) > most:
            table.caption = f"and {len(fitting) - most} smaller ones; all are in candidates.json"
        if fitting:
            self.console.print(table)

    def chain(self, verdict: Verdict, task: Signature) -> None:
        """The table of eager, FP32 and INT8."""
        name = verdict.metric_name
        table = Table(title=f"{name} on {verdict.images} held-out images; * ships")
        for column in (
            "",
            task.unit,
            "95% interval",
            "difference",
            "ms (quartiles)",
            "MB",
            "MB RAM",
        ):
            table.add_column(column, justify="right")
        for row in verdict.rows:
            ms = row.latency
            table.add_row(
                f"{row.name}{' *' if row.name == verdict.shipped else ''}",
                f"{task.scale * row.metric:.2f}",
                f"{task.scale * row.low:.2f} - {task.scale * row.high:.2f}",
                f"{row.max_difference:.1e}",
                f"{ms.median_ms:.2f} ({ms.q1_ms:.2f} - {ms.q3_ms:.2f})" if ms else "",
                f"{row.file_mb:.2f}" if row.file_mb else "",
                f"{row.memory_mb:.0f}" if row.memory_mb else "",
            )
        self.console.print(table)
