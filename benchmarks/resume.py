"""`resume_bit_identical`: a training killed in mid-epoch and resumed ends as if it had not been.

Everything random is on (augmentation, blending, dropout, averaging). One process trains and is
killed with SIGKILL between two steps of an epoch, or while it writes a checkpoint, whichever the
moment brings; another goes on; a third was never stopped.

    python benchmarks/resume.py
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from sinet.data.dataset import ImageDataset, Split
from sinet.data.preprocess import Preprocess
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training import checkpoint
from sinet.training.loop import train
from sinet.training.recipe import Recipe

RECIPE = Recipe(
    epochs=4, batch_size=16, ema=0.99, dropout=0.1, mixup=0.2, cutmix=1.0, randaugment=5,
    color_jitter=0.2, random_erasing=0.25, label_smoothing=0.1, grad_clip=1.0, progressive=0.5,
)  # fmt: skip


def generated(count: int, seed: int) -> Split:
    """Noise of ten colours."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 10, count)
    pixels = labels[:, None, None, None] * 20 + draw.integers(0, 56, (count, 32, 32, 3))
    return Split(pixels.astype(np.uint8), labels, [str(i) for i in range(count)])


def run(out: Path) -> None:
    """Train, or go on."""
    checkpoint.EVERY_SECONDS = 0.2  # so that the checkpoint at hand is one of mid-epoch
    names = [str(i) for i in range(10)]
    splits = {"train": generated(320, 0), "val": generated(64, 1)}
    data = ImageDataset(Path("generated"), "generated", names, list(range(10)), False, splits)
    preprocess = Preprocess(32, 3, (0.5,) * 3, (0.25,) * 3)
    spec = ModelSpec("minspnet_minimal", 32)
    train(
        spec, data, RECIPE, out, preprocess=preprocess, task=Classify, device="cpu", progress=False
    )


def killed(out: Path, seed: int) -> int:
    """Start a training, kill it at a random moment of mid-epoch; the step of its checkpoint."""
    worker = subprocess.Popen([sys.executable, __file__, str(out)], stdout=subprocess.DEVNULL)
    saved = out / "checkpoints" / "last.ckpt"
    draw = random.Random(seed)
    step = 20 * draw.randrange(3) + draw.randrange(2, 16)  # of 20 an epoch
    while worker.poll() is None:
        time.sleep(0.01)
        if saved.exists() and checkpoint.read_checkpoint(saved)["global_step"] >= step:
            time.sleep(draw.uniform(0, 0.05))
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    if worker.returncode != -signal.SIGKILL:
        raise SystemExit("the training ended before it could be killed")
    return int(checkpoint.read_checkpoint(saved)["global_step"])


def main() -> None:
    """Compare three killed trainings with one that was not."""
    seeds = (0, 1, 2)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        subprocess.run([sys.executable, __file__, str(whole)], check=True)
        expected = load_file(whole / "weights.safetensors")
        steps, same = [], []
        for seed in seeds:
            out = Path(folder) / f"killed-{seed}"
            steps.append(killed(out, seed))
            subprocess.run([sys.executable, __file__, str(out)], check=True)
            found = load_file(out / "weights.safetensors")
            same.append(all(bool((found[key] == expected[key]).all()) for key in expected))
            print(f"killed after step {steps[-1]} of 80: identical {same[-1]}", flush=True)
    extra = {"killed_after_steps": steps, "steps": 80, "model": "minspnet_minimal@32"}
    print(record("resume_bit_identical", int(all(same)), "", 1, seeds=seeds, extra=extra))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(Path(sys.argv[1]))
    else:
        main()
