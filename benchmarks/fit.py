"""How good is the file that `sinet fit` ships for a well-known data set, in minutes of two cores?

    python benchmarks/fit.py cifar10 path/to/cifar10
    python benchmarks/fit.py fashion_mnist /usr/share/datasets/fashion-mnist
    python benchmarks/fit.py bccd path/to/bccd
    python benchmarks/fit.py camvid path/to/camvid      # with a classes.txt whose line 12 says void
    python benchmarks/fit.py pennfudan path/to/PennFudanPed           # after make_pennfudan.py
    python benchmarks/fit.py numbers path/to/numbers                  # after make_street_numbers.py
    python benchmarks/fit.py motion path/to/motion                    # after make_motion.py
    python benchmarks/fit.py mni152 path/to/mni152/dataset.json       # after make_mni152.py
    python benchmarks/fit.py hippocampus path/to/folder/dataset.json  # after make_hippocampus.py

Runs the command line as a person would (a killed run goes on when started again) and writes
docs/results/cifar10_10ms_60min_top1.json and its like. The metric is that of the shipped file on
the test images; the drop, what INT8 loses against the trained network.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sinet.errors import unknown
from sinet.files import read_json
from sinet.measurement.results import record


@dataclass(frozen=True)
class Fit:
    """What is asked of `sinet fit`, and of what it ships: names of result files, and targets."""

    budget: str
    minutes: int
    result: str
    target: float
    drop: str = ""
    options: tuple[str, ...] = ()
    unit: str = "%"

    @property
    def scale(self) -> int:
        """From a share to the unit."""
        return 100 if self.unit == "%" else 1


FITS = {
    "cifar10": Fit("10ms", 60, "cifar10_10ms_60min_top1", 91.0, "cifar10_int8_drop"),
    "fashion_mnist": Fit("10ms", 20, "fashion_mnist_20min_top1", 93.5),
    "bccd": Fit("40ms", 45, "bccd_int8_map50", 85.0),
    "camvid": Fit("100ms", 60, "camvid_miou", 60.0, "camvid_int8_drop"),
    "pennfudan": Fit(
        "2000ms",
        60,
        "pennfudan_mask_map50",
        70.0,
        options=("--model", "tf_efficientnet_lite0"),
    ),
    "mni152": Fit(
        "5000ms", 30, "mni152_dice", 0.9, options=("--model", "swin_unetr_small"), unit=""
    ),
    "hippocampus": Fit("5000ms", 45, "hippocampus_dice", 0.85, unit=""),
    "numbers": Fit("50ms", 30, "digits_sequence_accuracy", 95.0),
    "motion": Fit("50ms", 60, "video_motion_accuracy", 95.0, options=("--model", "sinet_tiny")),
}


def main(
    name: Annotated[str, typer.Argument(help=", ".join(FITS))],
    data: Annotated[Path, typer.Argument(help="Where its images lie.")],
) -> None:
    """Fit, then record what shipped."""
    if name not in FITS:
        raise unknown("data set", name, FITS)
    fit, folder = FITS[name], Path("runs") / name
    asked = ["--budget", fit.budget, "--minutes", str(fit.minutes), *fit.options]
    program = [sys.executable, "-m", "sinet", "fit", str(data)]
    subprocess.run([*program, *asked, "--out", str(folder)], check=True)
    chain, trials = read_json(folder / "chain.json"), read_json(folder / "trials.json")
    rows = {row["name"]: row for row in chain["rows"]}
    shipped = rows[chain["shipped"]]
    extra = {"fit": " ".join(["sinet", "fit", f"{name}/", *asked]), **facts(chain, trials)}
    spread = (fit.scale * shipped["low"], fit.scale * shipped["high"])
    said: dict[str, Any] = {
        "command": f"python benchmarks/fit.py {name} {name}/",
        "seeds": [0],
        "extra": extra,
    }
    value = fit.scale * shipped["metric"]
    record(fit.result, value, fit.unit, fit.target, spread=spread, **said)
    if fit.drop:
        drop = 100 * (rows["eager"]["metric"] - rows["int8"]["metric"])
        record(fit.drop, drop, "points", 0.5, "lower", **said)


def facts(chain: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, Any]:
    """What shipped and why, what every row measured, and what each trial was."""
    rows = chain["rows"]
    return {
        "shipped": chain["shipped"],
        "why": chain["why"],
        "test_images": chain["images"],
        chain["metric_name"].removeprefix("val/"): {r["name"]: 100 * r["metric"] for r in rows},
        "latency_ms": {r["name"]: r["latency"]["median_ms"] for r in rows if r["latency"]},
        "file_mb": {row["name"]: row["file_mb"] for row in rows if row["file_mb"]},
        "minutes": sum(t["minutes"] for t in trials),
        "trials": [
            {key: t[key] for key in ("label", "rung", "epochs", "minutes", "metrics", "init")}
            for t in trials
        ],
    }


if __name__ == "__main__":
    typer.run(main)
