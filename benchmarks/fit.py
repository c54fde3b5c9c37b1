"""How good is the file that `sinet fit` ships for a well-known data set, in minutes of two cores?

    python benchmarks/fit.py cifar10 path/to/cifar10
    python benchmarks/fit.py fashion_mnist /usr/share/datasets/fashion-mnist

Runs the command line as a person would (a killed run goes on when started again) and writes
docs/results/cifar10_10ms_60min_top1.json and cifar10_int8_drop.json, or
fashion_mnist_20min_top1.json. The accuracy is that of the shipped file on the test images.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sinet.errors import unknown
from sinet.files import read_json
from sinet.measurement.results import record

MINUTES = {"cifar10": 60, "fashion_mnist": 20}
TARGETS = {"cifar10": 91.0, "fashion_mnist": 93.5}
NAMES = {"cifar10": "cifar10_10ms_60min_top1", "fashion_mnist": "fashion_mnist_20min_top1"}


def main(
    name: Annotated[str, typer.Argument(help="cifar10 or fashion_mnist.")],
    data: Annotated[Path, typer.Argument(help="Where its images lie.")],
) -> None:
    """Fit, then record what shipped."""
    if name not in NAMES:
        raise unknown("data set", name, NAMES)
    folder = Path("runs") / name
    command = ["sinet", "fit", str(data), "--budget", "10ms", "--minutes", str(MINUTES[name])]
    program = [sys.executable, "-m", "sinet"]
    subprocess.run([*program, *command[1:], "--out", str(folder)], check=True)
    chain, trials = read_json(folder / "chain.json"), read_json(folder / "trials.json")
    rows = {row["name"]: row for row in chain["rows"]}
    shipped = rows[chain["shipped"]]
    extra = {"fit": " ".join(["sinet", "fit", f"{name}/", *command[3:]]), **facts(chain, trials)}
    spread = (100 * shipped["low"], 100 * shipped["high"])
    said = {"command": f"python benchmarks/fit.py {name} {name}/", "seeds": [0], "extra": extra}
    record(NAMES[name], 100 * shipped["metric"], "%", TARGETS[name], spread=spread, **said)
    if name == "cifar10":
        drop = 100 * (rows["eager"]["metric"] - rows["int8"]["metric"])
        record("cifar10_int8_drop", drop, "points", 0.5, "lower", **said)


def facts(chain: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, Any]:
    """What shipped and why, what every row measured, and what each trial was."""
    rows = chain["rows"]
    return {
        "shipped": chain["shipped"],
        "why": chain["why"],
        "test_images": chain["images"],
        "top1": {row["name"]: 100 * row["metric"] for row in rows},
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
