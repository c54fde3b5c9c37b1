"""A run folder -> the file that was asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from torch import nn

from sinet.compression.quantize import quantize_onnx
from sinet.data import open_dataset
from sinet.deployment.engines._onnx import find_model
from sinet.deployment.export import assemble, describe, export_network, shipped
from sinet.errors import UsageError, unknown
from sinet.files import atomic_path
from sinet.tasks import learner
from sinet.tasks.signatures import signature
from sinet.training.trained import Trained, finished

Target = Literal["onnx", "openvino"]
Precision = Literal["fp32", "int8"]
SUFFIX: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml"}
_CALIBRATION_IMAGES = 256


def make_artifact(
    run: str | Path,
    out: str | Path,
    to: str = "onnx",
    precision: str = "fp32",
    data: str | Path | None = None,
) -> Path:
    """Write what a run learned as a file for an engine.

    Args:
        run: the folder of a `fit` (its exported files are used) or of a training.
        out: the file to write, `.onnx` or `.xml`.
        to: `onnx` or `openvino`.
        precision: `fp32` or `int8`.
        data: images to calibrate INT8 with; only a training that was not a `fit` needs them.

    Raises:
        UsageError: nothing to export there, or another suffix than the target's.
    """
    run, out = Path(run), Path(out)
    for kind, given, known in (
        ("target", to, get_args(Target)),
        ("precision", precision, get_args(Precision)),
    ):
        if given not in known:
            raise unknown(kind, given, known)
    if out.suffix != SUFFIX[to]:
        raise UsageError(f"files for {to} end in {SUFFIX[to]}, not {out.name!r}; change --out")
    with tempfile.TemporaryDirectory() as folder:
        ready = run / "work" / f"{precision}.onnx"
        made = ready if ready.is_file() else _export(run, precision, data, Path(folder))
        if to == "openvino":
            from sinet.deployment.engines.openvino import to_openvino

            return to_openvino(made, out)
        with atomic_path(out) as temporary:
            temporary.write_bytes(made.read_bytes())
    return out


def _export(run: Path, precision: str, data: str | Path | None, folder: Path) -> Path:
    if not finished(run):
        file = find_model(run)  # says so if there is none
        raise UsageError(f"{run} holds {file.name} but no training, so nothing else can be made")
    trained = Trained.load(run)
    preprocess = trained.preprocess
    names = signature(trained).raw
    network = export_network(
        shipped(trained), preprocess.shape, trained.channels, folder / "network.onnx", names
    )
    if precision == "int8":
        if data is None:
            raise UsageError("INT8 is calibrated on images; give some with --data FOLDER")
        images = open_dataset(Path(data), task=trained.task)
        split = images.train
        some = np.unique(np.linspace(0, len(split) - 1, _CALIBRATION_IMAGES).astype(int))
        task = learner(trained.task)(nn.Identity(), images, trained.recipe, preprocess).eval()
        batches = task.calibration(split.subset(some))
        network = quantize_onnx(network, folder / "int8.onnx", batches)
    facts = describe(trained, precision=precision)
    return assemble(network, preprocess, facts, folder / "model.onnx")
