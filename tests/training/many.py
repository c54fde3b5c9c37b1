"""Trainings that are stopped after ten steps; as a script, what each process of torchrun does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
import torch

from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.training.checkpoint import Interrupted, Keeper
from sinet.training.recipe import Recipe

# No BatchNorm (its synchronised form exists for GPUs only), and nothing random that differs from
# process to process. SGD: where a gradient is nearly zero, AdamW lets its rounding decide the step.
SPEC = ModelSpec("tiny_test_net", 16, {"norm": False})
PLAIN = tiny.QUICK.replace(
    batch_size=10, optimizer="sgd", lr=0.05, momentum=0.8, crop="none", flip="none", grad_clip=1.0
)  # 8 steps an epoch: stopped in the second of three
AVERAGED = PLAIN.replace(ema=0.9)


def stopped(out: Path, recipe: Recipe, after: int = 10, **options: Any) -> None:
    """A training that is stopped after some steps, as by Ctrl-C."""

    def due(keeper: Keeper, trainer: Any, mine: bool) -> bool:
        return bool(trainer.global_step == after)

    with mock.patch.object(Keeper, "_any", due):
        try:
            tiny.run(out, recipe, **{"spec": SPEC, **options})
        except Interrupted:
            return
    raise AssertionError("it was not stopped")


def work(folder: Path) -> None:
    """All that two processes do, in one start: starting takes longer than training."""
    rank = int(os.environ["RANK"])
    stopped(folder / "ddp", AVERAGED)
    stopped(folder / "fsdp", PLAIN, strategy="fsdp")
    tiny.run(folder / "one_goes_on_as_ddp", AVERAGED, spec=SPEC)
    tiny.run(folder / "one_goes_on_as_fsdp", PLAIN, spec=SPEC, strategy="fsdp")
    tiny.run(folder / "bf16_fsdp", PLAIN.replace(precision="bf16"), spec=SPEC, strategy="fsdp")
    half = tiny.run(folder / f"bf16_rank{rank}", AVERAGED.replace(precision="bf16"), spec=SPEC)
    try:
        tiny.run(folder / "odd", PLAIN.replace(batch_size=7), spec=SPEC)
    except UsageError as error:
        said = str(error)
    facts = {"said": said, "bf16": half.metrics["val/loss"]}
    (folder / f"rank{rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]))
