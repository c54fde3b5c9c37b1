"""OpenVINO (extra): the same ONNX file, or the IR that `to_openvino` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.preprocess import GREY, Preprocess
from sinet.deployment.engines._onnx import damaged, find_model, read_metadata
from sinet.deployment.metadata import PREFIX, Metadata
from sinet.errors import UsageError, missing_extra
from sinet.files import atomic_path

try:
    import openvino as ov
    from openvino import opset13 as op
except ImportError as error:
    raise missing_extra("openvino", "openvino") from error

_SECTION = PREFIX.rstrip(".")


class OpenVino:
    """Runs an exported file on the CPU, in float32 or INT8 as the file says.

    Args:
        path: ONNX file, OpenVINO IR (`.xml`), or a run or ship folder.
        threads: of inference; None = as many as cores.
        spinning: has no meaning here.
    """

    def __init__(self, path: Path, threads: int | None = None, spinning: bool = True) -> None:
        file = find_model(path, (".onnx", ".xml"))
        model, self.metadata = _read_ir(file) if file.suffix == ".xml" else read_onnx(file)
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # bf16 CPUs would otherwise round
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self.request = ov.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(
        self, images: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Images uint8 (N, H, W, C) -> the outputs of these names."""
        outputs = self.request.infer({"images": images}, share_inputs=True)
        return {name: outputs[name] for name in names}


def read_onnx(file: Path) -> tuple[Any, Metadata]:
    """Read an exported ONNX file as an OpenVINO model that resizes as the file says.

    OpenVINO 2026.4 reads ONNX's antialiased Resize, but interpolates without antialiasing (pixels
    differ by up to 250 of 255), and sizes that depend on data corrupted its memory. So the two
    steps from any size to the network's are replaced by two matrix products. Where nothing is
    resized, nothing is replaced.
    """
    metadata = read_metadata(file)
    try:
        model = ov.Core().read_model(str(file))
    except RuntimeError as error:
        raise damaged(file, error) from error
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    if metadata.preprocess.fit == "none" or "preprocess/cut" not in nodes:
        return model, metadata
    fitted = _fit(nodes["preprocess/values"].output(0), metadata.preprocess.still)
    nodes["preprocess/cut"].output(0).replace(fitted)
    model.validate_nodes_and_infer_types()
    return model, metadata


def _fit(pixels: Any, preprocess: Preprocess) -> Any:
    """Resize and crop or pad (N, C, H, W) to (N, C, *shape): rows x pixels x columns."""
    shape = op.shape_of(pixels, "i64")
    sides = tuple(op.gather(shape, np.int64(axis), np.int64(0)) for axis in (2, 3))
    targets = _targets(sides, preprocess)
    (rows, inside_rows), (columns, inside_columns) = (
        _weights(side, target, box)
        for side, target, box in zip(sides, targets, preprocess.shape, strict=True)
    )
    halfway = op.matmul(rows, pixels, transpose_a=False, transpose_b=False)
    fitted = op.matmul(halfway, columns, transpose_a=False, transpose_b=True)
    if preprocess.fit == "pad":
        inside = op.matmul(inside_rows, inside_columns, transpose_a=False, transpose_b=True)
        grey, one = op.constant(GREY, np.float32), op.constant(1, np.float32)
        fitted = fitted * inside + grey * (one - inside)
    return fitted.output(0)


def _targets(sides: tuple[Any, Any], preprocess: Preprocess) -> tuple[Any, Any]:
    """`Preprocess.resized` in whole numbers; halves are rounded up."""
    boxes = tuple(op.constant(np.int64(box)) for box in preprocess.shape)
    if preprocess.fit == "stretch":
        return boxes[0], boxes[1]
    two, least = np.int64(2), op.constant(np.int64(preprocess.least))
    if preprocess.fit == "crop":
        over, under = op.constant(np.int64(preprocess.short_side)), op.minimum(*sides)
    else:  # the side that is the first to fill its box decides: min(H / h, W / w)
        tall = op.less_equal(boxes[0] * sides[1], boxes[1] * sides[0])
        over, under = op.select(tall, *boxes), op.select(tall, *sides)
    scaled = (op.divide(side * two * over + under, under * two) for side in sides)
    first, second = (op.maximum(side, least) for side in scaled)
    return first, second


def _weights(side: Any, target: Any, box: int) -> tuple[Any, Any]:
    """Antialiased linear interpolation of one side as a matrix (box, side), and what it covers.

    Rows sum to 1; those before or after the resized image, which only padding shows, are 0 in the
    second output (box, 1).
    """
    half, one = op.constant(0.5, np.float32), op.constant(1, np.float32)
    spare = op.maximum(target - np.int64(box), op.constant(np.int64(0)))
    first = op.convert(op.divide(spare, np.int64(2)), "f32")
    scale = op.convert(side, "f32") / op.convert(target, "f32")
    wanted = op.constant(np.arange(box, dtype=np.float32)[:, None]) + first
    inside = op.convert(op.less(wanted, op.convert(target, "f32")), "f32")
    centres = op.minimum((wanted + half) * scale, op.convert(side, "f32"))
    taps = op.range(np.int64(0), side, np.int64(1), "f32") + half
    distance = op.abs(op.unsqueeze(taps, np.int64(0)) - centres)
    weights = op.relu(one - distance / op.maximum(scale, one))
    return op.divide(weights, op.reduce_sum(weights, np.int64(1), keep_dims=True)), inside


def to_openvino(onnx_file: str | Path, out: str | Path) -> Path:
    """Convert an exported ONNX file to OpenVINO IR: `out` (.xml) and its weights beside it (.bin).

    Raises:
        UsageError: `out` does not end in `.xml`, or the ONNX file is damaged.
    """
    out = Path(out)
    if out.suffix != ".xml":
        raise UsageError(f"OpenVINO's files end in .xml, not {out.name!r}")
    model, metadata = read_onnx(Path(onnx_file))
    model.set_rt_info(json.dumps(metadata.to_props()), [_SECTION])
    with atomic_path(out.with_suffix(".bin")) as weights, atomic_path(out) as graph:
        ov.serialize(model, str(graph), str(weights))
    return out


def _read_ir(file: Path) -> tuple[Any, Metadata]:
    try:
        model = ov.Core().read_model(str(file))
    except RuntimeError as error:
        raise UsageError(
            f"{file} is not a whole OpenVINO model with its .bin beside it: {error}; "
            "export it again with `sinet export --to openvino`"
        ) from error
    if not model.has_rt_info([_SECTION]):
        return model, Metadata.from_props({}, file)
    props = json.loads(model.get_rt_info([_SECTION]).astype(str))
    return model, Metadata.from_props(props, file)
