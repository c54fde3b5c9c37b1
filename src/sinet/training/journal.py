"""What a training says about itself while it runs: metrics.csv, TensorBoard, the terminal."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sinet.files import write_text
from sinet.training.checkpoint import refuse_nonfinite, stepped

_VALIDATIONS = 10


class Journal(pl.Callback):  # type: ignore[misc]
    """Validates at most ten times, and writes a row at each validation and each end of an epoch.

    The rows are part of the checkpoint, so that a resumed run has the curve of one that was never
    stopped.

    Args:
        path: the CSV file (columns epoch, step, lr, train/loss, the metrics, seconds).
        steps: steps of the whole training.
        steps_per_epoch: steps of one epoch.
        validate: computes the validation metrics (every process calls it).
    """

    def __init__(
        self,
        path: Path,
        steps: int,
        steps_per_epoch: int,
        validate: Callable[[], dict[str, float]],
    ) -> None:
        self.path, self.steps, self.steps_per_epoch = path, steps, steps_per_epoch
        self.validate = validate
        self.rows: list[dict[str, float]] = []
        self.training_seconds = 0.0  # of the optimizer steps, over all resumptions
        self._loss: torch.Tensor | None = None
        self._count = 0
        self._since = 0.0
        # Whole epochs apart; the last step is validated when the training is over.
        self._every = steps_per_epoch * math.ceil(steps / steps_per_epoch / _VALIDATIONS)

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        task: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the loss; write a row when it is time."""
        # of a batch in parts, Lightning gives each its share
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        step = trainer.global_step
        row_due = stepped(trainer, batch_idx) and step % self.steps_per_epoch == 0
        if loss.device.type == "cpu" or row_due or step % 50 == 0:  # a GPU is not made to wait
            refuse_nonfinite(loss, step)
        self._loss = loss if self._loss is None else self._loss + loss
        self._count += 1
        if row_due and step < self.steps:
            self.add_row(trainer, self.validate if step % self._every == 0 else dict)

    def add_row(self, trainer: pl.Trainer, validate: Callable[[], dict[str, float]]) -> None:
        """Write the mean loss since the last row, and what `validate` gives."""
        self.training_seconds += time.monotonic() - self._since
        step = trainer.global_step
        row = {
            "epoch": round(step / self.steps_per_epoch, 4),
            "step": step,
            "lr": float(trainer.optimizers[0].param_groups[-1]["lr"]),
            **({} if self._loss is None else {"train/loss": float(self._loss) / self._count}),
            **validate(),
            "seconds": round(self.training_seconds, 3),
        }
        self.rows.append(row)
        self._loss, self._count = None, 0
        if trainer.is_global_zero:
            write_text(self.path, as_csv(self.rows))
            if trainer.logger is not None:
                trainer.logger.log_metrics(row, step)
        self._since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Rows, clock and the running loss."""
        seconds = self.training_seconds + time.monotonic() - self._since
        loss = None if self._loss is None else self._loss.cpu()
        return {"rows": self.rows, "seconds": seconds, "loss": loss, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the rows of the checkpoint."""
        self.rows, self.training_seconds = list(state_dict["rows"]), state_dict["seconds"]
        self._loss, self._count = state_dict["loss"], state_dict["count"]


def as_csv(rows: list[dict[str, float]]) -> str:
    """The rows as CSV; a metric that a row lacks is left empty."""
    names = ["epoch", "step", "lr", "train/loss"]
    names += [*sorted({key for row in rows for key in row} - {*names, "seconds"}), "seconds"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class Display(pl.Callback):  # type: ignore[misc]
    """A progress bar with the time left; where the output is no terminal, one line per row."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.console = Console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[news]}"),
            console=self.console,
            transient=True,
        )
        self._printed = 0

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Show the bar."""
        self._printed = len(self.journal.rows)
        if self.console.is_terminal:
            done = trainer.global_step
            self.bar.add_task("train", total=self.journal.steps, completed=done, news="")
            self.bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Move the bar, or print the row that was just written."""
        if self.console.is_terminal:
            news = self._news() if self.journal.rows else ""
            self.bar.update(self.bar.task_ids[0], completed=trainer.global_step, news=news)
        self._print_row()

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Take the bar away."""
        self._close()
        self._print_row()

    def on_exception(
        self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away."""
        self._close()

    def _close(self) -> None:
        if self.console.is_terminal:  # elsewhere it would leave an empty line
            self.bar.stop()

    def _print_row(self) -> None:
        if not self.console.is_terminal and len(self.journal.rows) > self._printed:
            self._printed = len(self.journal.rows)
            self.console.print(self._news(), highlight=False, soft_wrap=True)

    def _news(self) -> str:
        row = self.journal.rows[-1]
        epochs = self.journal.steps / self.journal.steps_per_epoch
        metrics = [f"{k} {v:.4f}" for k, v in row.items() if "/" in k]
        return f"epoch {row['epoch']:g}/{epochs:g}  " + "  ".join(metrics)
