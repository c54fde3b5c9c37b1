"""Are the four kinds of labels of the COCO128 folders read, learnt from and measured?

    python benchmarks/coco128.py path/to/coco128_yolo

Boxes and outlines (YOLO), label maps (PNG) and panoptic JSON, about 100 photographs to learn from
and 100 to be judged by. Runs the command line as a person would: one epoch, ONNX, and the file's
accuracy on all validation photographs. One epoch teaches little; the number says that each road
leads to its end. Writes docs/results/coco128_kinds.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from sinet.measurement.results import record


class Kind(NamedTuple):
    """Labels of one kind: their task, and the network that learns them."""

    task: str
    model: str
    backbone: str
    size: int


KINDS = {
    "object_detection": Kind("detect", "light_detect", "sinet_small", 320),
    "instance_segmentation": Kind("instances", "mask_rcnn", "tf_efficientnet_lite0", 256),
    "semantic_segmentation": Kind("segment", "pyramid_seg", "sinet_small", 256),
    "panoptic_segmentation": Kind("segment", "pyramid_seg", "sinet_small", 256),
}

JUDGED = ("model", "images", "metric_name", "metric", "low", "high")


def sinet(*words: str | Path) -> str:
    """Run a command; what it printed."""
    program = [sys.executable, "-m", "sinet", *map(str, words)]
    return subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout


def walk(folder: Path, kind: Kind, work: Path) -> dict[str, Any]:
    """Train, export, judge the file."""
    learn = ["--task", kind.task, "--model", kind.model, "--size", str(kind.size)]
    learn += ["--epochs", "1", f"model.backbone={kind.backbone}"]
    sinet("train", folder, *learn, "--out", work)
    model = work / "model.onnx"
    sinet("export", work, "--out", model)
    judged = json.loads(sinet("val", model, folder, "--split", "val", "--json"))
    return {**kind._asdict(), **{key: judged[key] for key in JUDGED}}


def main(
    data: Annotated[Path, typer.Argument(help="Checkout of lightly-ai/coco128_yolo.")],
    work: Annotated[Path, typer.Option(help="Where trainings are kept.")] = Path("runs/coco128"),
) -> None:
    """Walk all four roads and record."""
    kinds = {name: walk(data / name, kind, work / name) for name, kind in KINDS.items()}
    command = "python benchmarks/coco128.py coco128_yolo/"
    record("coco128_kinds", len(kinds), "kinds of labels learnt and judged", len(KINDS),
           seeds=[0], command=command, extra=kinds)  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
