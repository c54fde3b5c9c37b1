"""Several processes: started by torchrun on gloo, stopped, resumed by another number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import many
import numpy as np
import pytest
import tiny
import torch

from sinet.errors import UsageError
from sinet.training import trainer
from sinet.training.checkpoint import read_checkpoint, stepped
from sinet.training.trained import Trained
from sinet.training.trainer import make_trainer


def differ(one: Trained, other: Trained) -> float:
    first, second = tiny.weights(one), tiny.weights(other)
    return max((first[key] - second[key]).abs().max().item() for key in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """One process, never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    recipes = {"plain": many.PLAIN, "averaged": many.AVERAGED}
    return {name: tiny.run(folder / name, r, spec=many.SPEC) for name, r in recipes.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    folder = tmp_path_factory.mktemp("two")
    many.stopped(folder / "one_goes_on_as_ddp", many.AVERAGED)
    many.stopped(folder / "one_goes_on_as_fsdp", many.PLAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, many.__file__, str(folder)], env=environment, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize(("run", "recipe"), [("ddp", "averaged"), ("fsdp", "plain")])
def test_one_process_goes_on_where_two_were_stopped(
    run: str, recipe: str, two: Path, whole: dict[str, Trained]
) -> None:
    saved = read_checkpoint(two / run / "checkpoints/last.ckpt")  # the same form for all
    assert saved["global_step"] == 10
    resumed = tiny.run(two / run, whole[recipe].recipe, spec=many.SPEC)
    assert differ(whole[recipe], resumed) <= 1e-5
    assert resumed.metrics == pytest.approx(whole[recipe].metrics, abs=1e-4)


@pytest.mark.parametrize(("run", "recipe"), [("ddp", "averaged"), ("fsdp", "plain")])
def test_two_processes_go_on_where_one_was_stopped(
    run: str, recipe: str, two: Path, whole: dict[str, Trained]
) -> None:
    resumed = Trained.load(two / f"one_goes_on_as_{run}")
    assert resumed.steps == 24
    assert differ(whole[recipe], resumed) <= 1e-5
    assert resumed.metrics == pytest.approx(whole[recipe].metrics, abs=1e-4)


def test_only_the_first_process_writes(two: Path) -> None:
    assert (two / "bf16_rank0" / "weights.safetensors").is_file()
    assert not (two / "bf16_rank1").exists()


def test_both_processes_know_the_metrics_and_the_errors(two: Path) -> None:
    facts = [json.loads((two / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert facts[0] == facts[1]
    assert np.isfinite(facts[0]["bf16"])
    assert np.isfinite(Trained.load(two / "bf16_fsdp").metrics["val/loss"])
    assert "7 images cannot be divided among 2 processes" in facts[0]["said"]
    assert not (two / "odd" / "checkpoints").exists()


@pytest.mark.parametrize("parts", [2, 5])
def test_a_batch_in_parts_gives_the_same_steps(
    parts: int, tmp_path: Path, whole: dict[str, Trained]
) -> None:
    trained = tiny.run(tmp_path, many.AVERAGED, spec=many.SPEC, accumulate=parts)
    assert trained.steps == 24
    assert differ(whole["averaged"], trained) <= 1e-5
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    expected = (whole["averaged"].folder / "metrics.csv").read_text().splitlines()
    for row, other in zip(rows[1:], expected[1:], strict=True):
        numbers = [[float(cell) for cell in line.split(",")[:-1]] for line in (row, other)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 5)])
def test_the_parts_may_change_when_a_run_is_resumed(
    before: int, after: int, tmp_path: Path, whole: dict[str, Trained]
) -> None:
    many.stopped(tmp_path, many.AVERAGED, after=9, accumulate=before)
    resumed = tiny.run(tmp_path, many.AVERAGED, spec=many.SPEC, accumulate=after)
    assert resumed.steps == 24
    assert differ(whole["averaged"], resumed) <= 1e-5


def test_a_batch_that_has_no_such_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"10 images .* 1 processes, 3 parts each; .* of 3"):
        tiny.run(tmp_path, many.PLAIN, spec=many.SPEC, accumulate=3)


def test_fsdp_needs_several_processes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="start it with torchrun"):
        tiny.run(tmp_path, many.PLAIN, spec=many.SPEC, strategy="fsdp")
    muon = many.PLAIN.replace(optimizer="muon")
    with pytest.raises(UsageError, match="muon looks at whole matrices"):
        tiny.run(tmp_path, muon, spec=many.SPEC, strategy="fsdp")


@pytest.mark.parametrize(("device", "world", "synchronised"), [
    ("cuda", 4, True), ("cuda", 1, False), ("cpu", 4, False)])  # fmt: skip
def test_batch_norms_are_synchronised_between_gpus(
    device: str, world: int, synchronised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}
    made = SimpleNamespace(Trainer=lambda **options: given.update(options))
    monkeypatch.setattr(trainer, "pl", made)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", str(world))
    make_trainer(many.PLAIN, tmp_path, 1, [], device=device)
    assert given["sync_batchnorm"] is synchronised
    assert given["strategy"] == ("ddp" if world > 1 else "auto")


def test_a_step_is_what_its_parts_make_together() -> None:
    parts = SimpleNamespace(accumulate_grad_batches=3)
    assert [stepped(parts, i) for i in range(6)] == [False, False, True] * 2
