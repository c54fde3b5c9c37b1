from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from sinet.errors import SinetError, UsageError
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training import checkpoint as checkpoints
from sinet.training.average import moving_average
from sinet.training.checkpoint import Interrupted, Keeper, read_checkpoint
from sinet.training.loop import build_network, step_seconds
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

HERE = Path(__file__).parent
# Everything that draws random numbers or has a state of its own.
BUSY = tiny.QUICK.replace(
    epochs=4, dropout=0.2, mixup=0.2, cutmix=1.0, randaugment=5, color_jitter=0.2,
    random_erasing=0.5, ema=0.9, grad_clip=1.0, progressive=0.5, label_smoothing=0.1, warmup=0.2,
)  # fmt: skip


def test_it_overfits_eight_images(tmp_path: Path) -> None:
    data = tiny.dataset(8, 8)
    data.splits["val"] = data.splits["train"]
    recipe = Recipe(epochs=80, batch_size=8, lr=0.03, crop="none", flip="none")
    trained = tiny.run(tmp_path, recipe, data)
    assert trained.metrics["val/top1"] == 1.0
    assert trained.metrics["val/loss"] < 0.1


def test_what_a_training_leaves_behind(tmp_path: Path) -> None:
    trained = tiny.run(tmp_path)
    assert (trained.steps, trained.epochs, trained.init) == (15, 3.0, "scratch")
    assert trained.classes[1] == "class 1"
    assert trained.class_ids[1] == 10
    assert {"val/top1", "val/f1", "val/loss"} == set(trained.metrics)
    assert trained.images_per_second > 0
    assert Trained.load(tmp_path) == trained
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    columns = {"epoch", "step", "lr", "train/loss", "val/loss", "val/top1", "seconds"}
    assert columns <= set(rows[0])
    assert float(rows[-1]["val/top1"]) == trained.metrics["val/top1"]
    assert list((tmp_path / "tensorboard").glob("events*"))
    network = trained.model()
    assert not network.training
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 4)


def test_the_seed_decides(tmp_path: Path) -> None:
    first, again = tiny.run(tmp_path / "a", BUSY), tiny.run(tmp_path / "b", BUSY)
    other = tiny.run(tmp_path / "c", BUSY.replace(seed=1))
    assert tiny.identical(first, again)
    assert first.metrics == again.metrics
    assert not tiny.identical(first, other)


KILLED = """
import os, signal, sys, tiny
from pathlib import Path
from sinet.training import checkpoint
from sinet.training.checkpoint import Keeper
from test_loop import BUSY
checkpoint.EVERY_SECONDS = 0  # a checkpoint after every step
step = Keeper.on_train_batch_end
def and_die(self, trainer, *rest, **more):
    step(self, trainer, *rest, **more)
    if trainer.global_step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
Keeper.on_train_batch_end = and_die
tiny.run(Path(sys.argv[1]), BUSY)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(HERE), "TINY_ONE_THREAD": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_killed_in_mid_epoch_and_resumed_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    with start(KILLED, tmp_path / "killed") as killed:
        whole = tiny.run(tmp_path / "whole", BUSY)
        output, _ = killed.communicate(timeout=200)
    assert killed.returncode == -signal.SIGKILL, output
    saved = read_checkpoint(tmp_path / "killed/checkpoints/last.ckpt")
    assert saved["global_step"] == 8  # in the second of four epochs of five steps
    assert not (tmp_path / "killed/trained.json").exists()
    resumed = tiny.run(tmp_path / "killed", BUSY)
    assert tiny.identical(whole, resumed)
    assert whole.metrics == resumed.metrics
    one, other = ((tmp_path / run / "metrics.csv").read_text() for run in ("whole", "killed"))
    without_clock = [[line.rsplit(",", 1)[0] for line in t.splitlines()] for t in (one, other)]
    assert without_clock[0] == without_clock[1]


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = tiny.run(tmp_path)
    written = (tmp_path / "weights.safetensors").stat().st_mtime_ns
    assert tiny.run(tmp_path) == first
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns == written
    tiny.run(tmp_path, resume=False)
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns > written


def test_ctrl_c_saves_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Keeper.on_train_batch_end

    def ctrl_c(self: Keeper, trainer: Any, *rest: Any, **more: Any) -> None:
        if trainer.global_step == 7:
            signal.raise_signal(signal.SIGINT)
        step(self, trainer, *rest, **more)

    whole = tiny.run(tmp_path / "whole", BUSY)
    before = signal.getsignal(signal.SIGINT)  # background jobs of a shell ignore it
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_batch_end", ctrl_c)
        with pytest.raises(Interrupted, match="checkpoint is"):
            tiny.run(tmp_path / "stopped", BUSY)
    assert signal.getsignal(signal.SIGINT) is before
    assert read_checkpoint(tmp_path / "stopped/checkpoints/last.ckpt")["global_step"] == 7
    assert tiny.identical(whole, tiny.run(tmp_path / "stopped", BUSY))


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    tiny.run(tmp_path)
    with pytest.raises(UsageError, match=r"recipe\.lr was 0\.01, is 0\.5"):
        tiny.run(tmp_path, tiny.QUICK.replace(lr=0.5))
    (tmp_path / "trained.json").unlink()  # now only the checkpoint says what it was
    with pytest.raises(UsageError, match="belongs to another run: data was"):
        tiny.run(tmp_path, data=tiny.dataset(81))


def test_a_broken_or_malicious_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/last.ckpt"
    tiny.run(tmp_path)
    (tmp_path / "trained.json").unlink()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="not a whole checkpoint"):
        tiny.run(tmp_path)

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"sinet": Bomb()}, path)
    with pytest.raises(UsageError, match="not a whole checkpoint"):
        tiny.run(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    checkpoints.AtomicCheckpoints().save_checkpoint({"step": 1}, path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(SinetError, match="No space left"):
        checkpoints.AtomicCheckpoints().save_checkpoint({"step": 2}, path)
    assert read_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_infinite_loss_stops_the_training_with_advice(tmp_path: Path) -> None:
    with pytest.raises(SinetError, match="lower lr"):
        tiny.run(tmp_path, tiny.QUICK.replace(lr=1000, optimizer="sgd", epochs=10))


def test_a_later_training_starts_from_an_earlier_one(tmp_path: Path) -> None:
    first = tiny.run(tmp_path / "first")
    still = tiny.QUICK.replace(lr=0.0, epochs=1, freeze_norm=True)
    second = tiny.run(tmp_path / "second", still, init=tmp_path / "first")
    assert tiny.identical(first, second)
    assert second.init == str(tmp_path / "first")


def test_frozen_layers_and_their_statistics_stay(tmp_path: Path) -> None:
    first = tiny.run(tmp_path / "first")
    recipe = tiny.QUICK.replace(freeze=1)
    before, after = (
        tiny.weights(t)
        for t in (first, tiny.run(tmp_path / "second", recipe, init=tmp_path / "first"))
    )
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(("stem", "norm", "scale"))}


def test_the_average_follows_the_weights_and_their_statistics() -> None:
    network = tiny.TinyNet()
    average = moving_average(network, Recipe(ema=0.75))
    for step in range(1, 40):
        with torch.no_grad():
            network.head.bias.fill_(float(step))
            network.norm.running_mean.fill_(float(step))
            network.norm.num_batches_tracked += 1
        average.update(network, step=step)
    # The mean of a ramp with decay d lags d / (1 - d) steps behind.
    assert average.module.head.bias[0].item() == pytest.approx(39 - 3, abs=0.2)
    assert average.module.norm.running_mean[0].item() == pytest.approx(39 - 3, abs=0.2)
    assert average.module.norm.num_batches_tracked == 39


def test_the_kept_weights_are_the_averaged_ones(tmp_path: Path) -> None:
    raw = tiny.run(tmp_path / "raw")
    averaged = tiny.run(tmp_path / "averaged", tiny.QUICK.replace(ema=0.9))
    ends = [
        read_checkpoint(tmp_path / name / "checkpoints/last.ckpt")["state_dict"][
            "network.body.bias"
        ]
        for name in ("raw", "averaged")
    ]
    assert torch.equal(*ends)  # averaging watches the training, it does not change it
    assert not tiny.identical(raw, averaged)
    assert raw.metrics["val/loss"] != averaged.metrics["val/loss"]


def test_validation_is_bounded_to_ten_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    count = Classify.metrics
    monkeypatch.setattr(Classify, "metrics", lambda self: calls.append(1) or count(self))
    tiny.run(tmp_path, tiny.QUICK.replace(epochs=35))
    assert len(calls) <= 10
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 36


DISTRIBUTED = """
import sys, tiny
from pathlib import Path
from sinet.models.spec import ModelSpec
spec = ModelSpec("tiny_test_net", 16, {"norm": False})
recipe = tiny.QUICK.replace(crop="none", flip="none", ema=0.9)
tiny.run(Path(sys.argv[1]), recipe, spec=spec)
"""


def test_two_processes_equal_one_with_the_same_batch(tmp_path: Path) -> None:
    """Without BatchNorm, whose synchronised form PyTorch has for GPUs only."""
    (tmp_path / "script.py").write_text(DISTRIBUTED)
    launcher = (
        "import sys; from torch.distributed.run import main; "
        "main(['--nproc_per_node=2', '--master_port=0', '--standalone', *sys.argv[1:]])"
    )
    plain = ModelSpec("tiny_test_net", 16, {"norm": False})
    recipe = tiny.QUICK.replace(crop="none", flip="none", ema=0.9)
    with start(launcher, tmp_path / "script.py", tmp_path / "two") as both:
        one = tiny.run(tmp_path / "one", recipe, spec=plain)
        output, _ = both.communicate(timeout=250)
    assert both.returncode == 0, output
    two = Trained.load(tmp_path / "two")
    first, second = tiny.weights(one), tiny.weights(two)
    worst = max((first[key] - second[key]).abs().max().item() for key in first)
    assert worst <= 1e-5
    assert two.metrics == pytest.approx(one.metrics, abs=1e-4)


def test_a_step_takes_some_time(tmp_path: Path) -> None:
    arguments = (tiny.SPEC, tiny.dataset(), BUSY, tiny.PREPROCESS)
    assert 0 < step_seconds(*arguments, task=Classify) < 5


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"device": "tpu"}, "unknown device"),
        ({"device": "cpu:x"}, "expected a number"),
        ({"strategy": "dp"}, "unknown strategy"),
        ({"recipe": tiny.QUICK.replace(precision="fp16")}, "needs a GPU"),
        ({"recipe": tiny.QUICK.replace(ema=0.9), "strategy": "fsdp"}, "set ema=0"),
    ],
)
def test_what_cannot_be_is_refused(kwargs: dict[str, Any], says: str, tmp_path: Path) -> None:
    from sinet.training.loop import train

    kwargs = {"recipe": tiny.QUICK, "device": "cpu", **kwargs}
    with pytest.raises(UsageError, match=says):
        train(
            tiny.SPEC, tiny.dataset(), out=tmp_path, preprocess=tiny.PREPROCESS, task=Classify,
            progress=False, **kwargs,
        )  # fmt: skip


def test_bf16_trains(tmp_path: Path) -> None:
    trained = tiny.run(tmp_path, tiny.QUICK.replace(precision="bf16", epochs=1))
    assert np.isfinite(trained.metrics["val/loss"])


def test_a_network_without_drop_path_trains_without(tmp_path: Path, caplog: Any) -> None:
    recipe = tiny.QUICK.replace(epochs=1, drop_path=0.1)
    trained = tiny.run(tmp_path, recipe, spec=ModelSpec("tiny_plain_net", 16))
    assert trained.steps == 5
    assert "tiny_plain_net has no drop_path_rate: trained without" in caplog.text


def test_a_network_keeps_what_it_knows_of_dropout_and_drop_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = tiny.QUICK.replace(dropout=0.3, drop_path=0.2)
    grey = tiny.dataset()
    spec = ModelSpec("lightcnn_test", 28)  # no layer of it has a way around
    network = build_network(spec, grey, recipe, 1, load=False)
    assert network.drop.p == 0.3
    assert "lightcnn_test has no drop_path_rate: trained without" in caplog.text
    caplog.clear()
    plain = build_network(ModelSpec("tiny_plain_net", 16), grey, recipe, 3, load=False)
    assert "has no drop_rate and drop_path_rate" in caplog.text
    assert isinstance(plain, torch.nn.Sequential)
