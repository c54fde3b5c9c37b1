"""`ddp_max_diff`: two processes with half the batch each against one with the whole batch.

The largest difference of any weight after thirty steps. The network has no BatchNorm (its
statistics would be those of half a batch; the synchronised form exists for GPUs only), and
augmentation, whose draws differ from process to process, is off. With SGD the difference is that
of summing the same gradients in another order. AdamW divides each gradient by its own size, so
that where a gradient is nearly zero the rounding decides the step: its difference is in `extra`.

    python benchmarks/ddp.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from resume import generated
from safetensors.torch import load_file

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.loop import train
from sinet.training.recipe import Recipe

MODEL = ModelSpec("test_vit", 32)  # LayerNorm
COMMON = Recipe(epochs=3, batch_size=32, crop="none", flip="none", ema=0.99)
RECIPES = {
    "sgd": COMMON.replace(optimizer="sgd", lr=0.05, weight_decay=5e-4),
    "adamw": COMMON.replace(optimizer="adamw", lr=1e-3),
}


def run(out: Path, optimizer: str) -> None:
    """Train with as many processes as torchrun started."""
    names = [str(i) for i in range(10)]
    splits = {"train": generated(320, 0), "val": generated(64, 1)}
    data = ImageDataset(Path("generated"), "generated", names, list(range(10)), False, splits)
    preprocess = Preprocess(32, 3, (0.5,) * 3, (0.25,) * 3)
    train(
        MODEL,
        data,
        RECIPES[optimizer],
        out,
        preprocess=preprocess,
        task=Classify,
        device="cpu",
        progress=False,
    )


def difference(folder: Path, optimizer: str) -> float:
    """The largest difference of any weight between one process and two."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    weights = []
    for processes in (1, 2):
        out = folder / f"{optimizer}-{processes}"
        command = [*torchrun, f"--nproc_per_node={processes}", __file__, str(out), optimizer]
        subprocess.run(command, check=True)
        weights.append(load_file(out / "weights.safetensors"))
    one, two = weights
    return max((one[key] - two[key]).abs().max().item() for key in one)


def main() -> None:
    """Train both ways and compare."""
    with tempfile.TemporaryDirectory() as folder:
        worst = {optimizer: difference(Path(folder), optimizer) for optimizer in RECIPES}
    extra = {
        "model": MODEL.label,
        "steps": 30,
        "batch": COMMON.batch_size,
        "backend": "gloo",
        "optimizer": "sgd",
        "with_adamw": worst["adamw"],
    }
    print(record("ddp_max_diff", worst["sgd"], "", 1e-5, "lower", seeds=[0], extra=extra))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
