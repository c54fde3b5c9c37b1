"""OpenVINO (extra): the same ONNX file, or the IR that `to_openvino` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.deployment.engines._onnx import damaged, find_model, read_metadata
from sinet.deployment.metadata import PREFIX, Metadata
from sinet.errors import UsageError, missing_extra
from sinet.files import atomic_path

try:
    import openvino as ov
    from openvino import opset11
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

    def run(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Images uint8 (N, H, W, C) -> logits and probabilities."""
        outputs = self.request.infer({"images": images}, share_inputs=True)
        return {name: outputs[name] for name in ("logits", "probabilities")}


def read_onnx(file: Path) -> tuple[Any, Metadata]:
    """Read an exported ONNX file as an OpenVINO model that resizes as the file says.

    OpenVINO 2026.4 reads ONNX's antialiased Resize but interpolates without the antialiasing
    (pixels differ by up to 250 of 255); its own Pillow-like operator does the same as ours.
    """
    metadata = read_metadata(file)
    try:
        model = ov.Core().read_model(str(file))
    except RuntimeError as error:
        raise damaged(file, error) from error
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Interpolate" and node.get_attributes()["antialias"]:
            exact = opset11.interpolate(
                node.input_value(0),
                node.input_value(1),
                mode="bilinear_pillow",
                shape_calculation_mode="sizes",
                axes=node.input_value(2),
            )
            node.output(0).replace(exact.output(0))
    model.validate_nodes_and_infer_types()
    return model, metadata


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
