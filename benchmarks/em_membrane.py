"""How well does UNet++ find cell membranes, and what does its second depth cost and save?

    python benchmarks/em_membrane.py path/to/em_membrane --minutes 20

The 30 labelled slices of the ISBI 2012 challenge in three folds of neighbouring slices: ten are
held out in turn. Runs the command line as a person would (a killed run goes on when started again)
and writes, as means over the folds on the held-out slices of the full 512 x 512 pixels,

- docs/results/em_membrane_dice.json: Dice of the shipped file, the mean of membrane and cell;
- docs/results/unetpp_l2_dice_loss.json: points of Dice that the trained network loses when it is
  cut from its fourth depth to its second;
- docs/results/unetpp_l2_speedup.json: time of the fourth depth's file over that of the second's.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from sinet.data import open_dataset
from sinet.data.dataset import Split
from sinet.deployment.predictor import Predictor
from sinet.measurement.bench import bench_networks
from sinet.measurement.results import record
from sinet.tasks.signatures import Signature, signature
from sinet.training.trained import Trained

FOLDS = 3
DEPTHS = (1, 2, 3, 4)
NAMES = {"background": "membrane", "foreground": "cell"}  # 0 and 255 in the masks


def fold_folder(source: Path, fold: int, target: Path) -> Path:
    """The slices as `train/` and `test/` folders; one third is tested on."""
    numbers = sorted(int(path.stem) for path in (source / "train" / "image").glob("*.png"))
    share = len(numbers) // FOLDS
    for i, number in enumerate(numbers):
        part = "test" if i // share == fold else "train"
        for kind, name in (("image", "images"), ("label", "masks")):
            folder = target / part / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / "train" / kind / f"{number}.png", folder)
    return target


def dice_of(task: Signature, run: Any, split: Split) -> dict[str, float]:
    """Of each class and their mean; `run` is a file or a network with its ends."""
    scorer = task.scorer()
    for i in range(len(split)):
        image = task.input.load(split, i)[None]
        scorer.update(run(image), [task.truth(split, i)])
    each = {NAMES[row["name"]]: row["dice"] for row in scorer.per_class()}
    return {"mean": statistics.fmean(each.values()), **each}


def depths(trained: Trained, split: Split) -> dict[str, dict[str, float]]:
    """Dice of the trained network at each of its depths."""
    task, network = signature(trained), trained.model()
    found = {}
    for depth in DEPTHS:
        eager = task.eager(network.prune(depth), task.input.front())  # type: ignore[operator]

        def run(image: Any, eager: Any = eager) -> dict[str, Any]:
            with torch.inference_mode():
                return {name: part.numpy() for name, part in eager(torch.from_numpy(image)).items()}

        found[f"l{depth}"] = dice_of(task, run, split)
    return found


def times(network: nn.Module, size: int) -> dict[str, float]:
    """Milliseconds of each depth's FP32 file, in turn in one run."""
    cut = {f"l{d}": (network.prune(d), size) for d in DEPTHS}  # type: ignore[operator]
    rows = bench_networks(cut, in_chans=1, seconds=30)
    return {row.name: row.latency.median_ms for row in rows}


def main(
    source: Annotated[Path, typer.Argument(help="With train/image and train/label.")],
    minutes: Annotated[float, typer.Option(help="Training of each fold.")] = 20,
    out: Annotated[Path, typer.Option(help="Where the runs lie.")] = Path("runs/em_membrane"),
) -> None:
    """Fit each fold, measure, record."""
    asked = ["--task", "segment", "--model", "unetpp", "--minutes", f"{minutes:g}"]
    shipped, cuts = [], []
    for fold in range(FOLDS):
        data = fold_folder(source, fold, out / f"data{fold}")
        folder = out / f"fold{fold}"
        program = [sys.executable, "-m", "sinet", "fit", str(data), *asked]
        subprocess.run([*program, "--out", str(folder)], check=True)
        split, trained = open_dataset(data, task="segment").test, Trained.load(folder)
        predictor = Predictor(folder / "model.onnx")
        shipped.append(dice_of(predictor.signature, predictor.run, split))
        cuts.append(depths(trained, split))
    latency = times(trained.model(), trained.spec.size)
    means = [fold["mean"] for fold in shipped]
    losses = [100 * (fold["l4"]["mean"] - fold["l2"]["mean"]) for fold in cuts]
    extra = {
        "fit": " ".join(["sinet", "fit", "slices/", *asked]),
        "shipped_dice": shipped,
        "depth_dice": cuts,
        "latency_ms": latency,
        "size": trained.spec.size,
    }
    said: dict[str, Any] = {
        "command": f"python benchmarks/em_membrane.py em_membrane/ --minutes {minutes:g}",
        "seeds": [0],
        "extra": extra,
    }
    mean = statistics.fmean(means)
    record("em_membrane_dice", mean, "", 0.9, spread=(min(means), max(means)), **said)
    loss = statistics.fmean(losses)
    record("unetpp_l2_dice_loss", loss, "points", 2, "lower",
           spread=(min(losses), max(losses)), **said)  # fmt: skip
    record("unetpp_l2_speedup", latency["l4"] / latency["l2"], "x", 2, **said)


if __name__ == "__main__":
    typer.run(main)
