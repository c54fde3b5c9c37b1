"""INT8 after training: ONNX Runtime's static quantization, tried from cheap to careful.

Weights are S8 with one scale per output channel, activations U8 with one scale per tensor, in QDQ
form: the same file also runs, and faster, in OpenVINO. Only the bare network is quantized;
`sinet.deployment.export.assemble` puts the preprocessing before it afterwards.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from sinet.errors import UsageError, unknown
from sinet.files import atomic_path

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

_CALIBRATION: dict[Method, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    # Not symmetric: behind a ReLU half of the U8 range would be lost.
    "percentile": (CalibrationMethod.Percentile, {"symmetric": False, "percentile": 99.99}),
    # ONNX Runtime's default of 128 bins leaves the search for a threshold nothing to search.
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 512}),
}

OPERATORS = ("Conv", "Gemm", "MatMul")

log = logging.getLogger("sinet.compression.quantize")
Images = npt.NDArray[np.float32]


class _OneBatch(CalibrationDataReader):  # type: ignore[misc]
    """Feeds ONNX Runtime one batch, so that it never holds the activations of two."""

    def __init__(self, batch: Images) -> None:
        self.batches = iter([{"input": batch}])

    def get_next(self) -> dict[str, Images] | None:
        return next(self.batches, None)


def calibrate(network: Path, images: Iterable[Images], method: Method, operators: Sequence[str] = OPERATORS) -> Any:
    """Find the range of every activation, one batch in memory at a time."""
    how, options = _CALIBRATION[method]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            network,
            list(operators),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=how,
            extra_options=options,
        )
        for batch in images:
            calibrator.collect_data(_OneBatch(batch))
        return calibrator.compute_data()


def write_quantized(network: Path, out: Path, ranges: Any, exclude: Sequence[str], operators: Sequence[str] = OPERATORS, reduce_range: bool=False, only: Sequence[str]=()) -> Path:
    quantizer = QDQQuantizer(
        onnx.load(str(network)),
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=list(only),
        nodes_to_exclude=list(exclude),
        op_types_to_quantize=list(operators),
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    with atomic_path(out) as temporary:
        quantizer.model.save_model_to_file(str(temporary))
    return out
