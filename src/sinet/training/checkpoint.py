"""The checkpoint of a run: whole or absent, plain values only, saved when the run is stopped."""

from __future__ import annotations

import signal
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from sinet.errors import SinetError, UsageError
from sinet.files import atomic_path

EVERY_SECONDS = 120.0
_KEY = "sinet"


class Interrupted(KeyboardInterrupt):
    """The run was stopped from outside; its checkpoint is saved and the same command resumes it."""


class AtomicCheckpoints(TorchCheckpointIO):  # type: ignore[misc]
    """Writes beside the old checkpoint and renames, so that a kill leaves one that is whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, whole or not at all."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain values; code in it is refused, never run."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint.

    Raises:
        UsageError: the file is cut short, no checkpoint, or holds more than plain values.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a broken file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"{path} is not a whole checkpoint ({reason[:160]}); "
            "delete it, or start over with --no-resume"
        ) from error


def check_same_run(path: Path, saved: dict[str, Any], described: dict[str, Any]) -> None:
    """Raise UsageError unless `path`, whose run is `saved`, is of the run that `described` says."""
    other = [key for key in {**saved, **described} if saved.get(key) != described.get(key)]
    if other:
        raise UsageError(
            f"{path} belongs to another run: {difference(saved, described, other)}; "
            "choose another --out, or start over with --no-resume"
        )


def difference(saved: dict[str, Any], now: dict[str, Any], keys: list[str]) -> str:
    """In words, what differs between two descriptions of a run."""
    words = []
    for key in keys:
        before, after = saved.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            words += [
                f"{key}.{name} was {before.get(name)!r}, is {after[name]!r}"
                for name in after
                if before.get(name) != after[name]
            ]
        else:
            words.append(f"{key} was {before!r}, is {after!r}")
    return ", ".join(words)


class Keeper(pl.Callback):  # type: ignore[misc]
    """Saves `last.ckpt` every epoch, every two minutes, and when the run is interrupted."""

    def __init__(
        self, path: Path, described: dict[str, Any], steps: int, steps_per_epoch: int
    ) -> None:
        self.path, self.described = path, described
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.asked = False  # to stop
        self.stopped = False
        self._saved = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        task: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time; stop the run if that was asked for."""
        if trainer.global_step >= self.steps:
            return  # the result itself is written in a moment
        if not stepped(trainer, batch_idx):
            return
        stop = self._any(trainer, self.asked)
        late = self._any(trainer, time.monotonic() - self._saved > EVERY_SECONDS)
        if stop or late or trainer.global_step % self.steps_per_epoch == 0:
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
        if stop:
            self.stopped = True
            trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say in the checkpoint what run it is of."""
        checkpoint[_KEY] = self.described

    def on_load_checkpoint(
        self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count in the batches of this run what the earlier one may have taken in other parts."""
        done = checkpoint["global_step"] * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            shift = done - counts["ready"]
            counts.update({name: count + shift for name, count in counts.items()})

    def _any(self, trainer: pl.Trainer, mine: bool) -> bool:
        """True on all processes if it is on one; they ask one another every tenth step only."""
        if trainer.world_size == 1:
            return mine
        if trainer.global_step % 10:
            return False
        return bool(trainer.strategy.reduce_boolean_decision(mine, all=False))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turn the first Ctrl-C into a stop after the current step; the second stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: types.FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        except SystemExit as error:  # what Lightning makes of a KeyboardInterrupt
            raise Interrupted(f"stopped; the last checkpoint is {self.path}") from error
        finally:
            signal.signal(signal.SIGINT, before)
        if self.stopped:
            raise Interrupted(f"stopped; the checkpoint is {self.path}")


def stepped(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether the optimizer took a step after this batch, or it was but a part of one."""
    return bool((batch_idx + 1) % trainer.accumulate_grad_batches == 0)


def refuse_nonfinite(loss: torch.Tensor, step: int) -> None:
    """Raise SinetError if the loss is infinite or not a number."""
    if not torch.isfinite(loss):
        raise SinetError(
            f"the loss became {loss.item()} at step {step}; lower lr, lengthen warmup, or set "
            "grad_clip=1 (with precision fp16: use bf16 or fp32)"
        )
