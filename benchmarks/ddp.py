"""`ddp_max_diff`: two processes with half the batch each against one with the whole batch.

The largest difference of any weight after thirty steps. The network has no BatchNorm (its
statistics would be those of half a batch; the synchronised form exists for GPUs only), and
augmentation, whose draws differ from process to process, is off. With SGD the difference is that
of summing the same gradients in another order. In `extra`: AdamW, which divides each gradient by
its own size, so that where one is nearly zero the rounding decides the step; FSDP; and trainings
that are stopped in mid-epoch and resumed by another number of processes.

    python benchmarks/ddp.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest import mock

from resume import generated
from safetensors.torch import load_file

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.checkpoint import Interrupted, Keeper
from sinet.training.loop import train
from sinet.training.recipe import Recipe

MODEL = ModelSpec("test_vit", 32)  # LayerNorm
COMMON = Recipe(epochs=3, batch_size=32, crop="none", flip="none", ema=0.99)
SGD = COMMON.replace(optimizer="sgd", lr=0.05, weight_decay=5e-4)
RECIPES = {
    "sgd": SGD,
    "adamw": COMMON.replace(optimizer="adamw", lr=1e-3),
    "raw": SGD.replace(ema=0),
}
STOP = 17  # of 30 steps, 10 an epoch
WAYS = {  # recipe, strategy, processes at first, processes in the end
    "sgd": ("sgd", "auto", 2, 2),
    "adamw": ("adamw", "auto", 2, 2),
    "fsdp": ("raw", "fsdp", 2, 2),
    "two_then_one": ("sgd", "auto", 2, 1),
    "one_then_two": ("sgd", "auto", 1, 2),
    "fsdp_then_one": ("raw", "fsdp", 2, 1),
}


def run(out: Path, name: str, strategy: str, stop: str) -> None:
    """Train with as many processes as torchrun started; stop in the middle if asked to."""
    due = mock.patch.object(Keeper, "_any", lambda keeper, trainer, mine: (
        trainer.global_step == STOP
    ))  # fmt: skip
    with due if stop == "stop" else nullcontext(), suppress(Interrupted):
        learn(out, RECIPES[name], strategy)


def learn(out: Path, recipe: Recipe, strategy: str) -> None:
    """One training, or what is left of it."""
    names = [str(i) for i in range(10)]
    splits = {"train": generated(320, 0), "val": generated(64, 1)}
    data = ImageDataset(Path("generated"), "generated", names, list(range(10)), False, splits)
    preprocess = Preprocess(32, 3, (0.5,) * 3, (0.25,) * 3)
    train(
        MODEL,
        data,
        recipe,
        out,
        preprocess=preprocess,
        task=Classify,
        device="cpu",
        strategy=strategy,
        progress=False,
    )


def start(out: Path, name: str, strategy: str, processes: int, stop: bool = False) -> None:
    """Train under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = [str(out), name, strategy, "stop" if stop else "go on"]
    command = [*torchrun, f"--nproc_per_node={processes}", __file__, *words]
    subprocess.run(command, check=True)


def difference(one: Path, other: Path) -> float:
    """The largest of any weight."""
    first, second = (load_file(out / "weights.safetensors") for out in (one, other))
    return max((first[key] - second[key]).abs().max().item() for key in first)


def main() -> None:
    """Train all ways and compare each with one process that was not stopped."""
    worst = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for recipe in RECIPES:
            start(folder / recipe, recipe, "auto", 1)
        for way, (recipe, strategy, first, last) in WAYS.items():
            out = folder / f"way_{way}"
            if first != last:
                start(out, recipe, strategy, first, stop=True)
            start(out, recipe, "auto" if last == 1 else strategy, last)
            worst[way] = difference(folder / recipe, out)
            print(way, worst[way], flush=True)
    extra = {
        "model": MODEL.label,
        "steps": 30,
        "batch": COMMON.batch_size,
        "backend": "gloo",
        "optimizer": "sgd",
        **{f"with_{way}": value for way, value in worst.items() if way != "sgd"},
    }
    print(record("ddp_max_diff", worst["sgd"], "", 1e-5, "lower", seeds=[0], extra=extra))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(Path(sys.argv[1]), *sys.argv[2:])
    else:
        main()
