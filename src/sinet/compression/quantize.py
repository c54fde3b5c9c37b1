"""INT8 after training: ONNX Runtime's static quantization, tried from cheap to careful.

Weights are S8 with one scale per output channel, activations U8 with one scale per tensor, in QDQ
form: the same file also runs in OpenVINO. Where NNCF is installed (extra `openvino`) it is tried
last: it also corrects the biases. Only the bare network is quantized;
`sinet.deployment.export.assemble` puts the preprocessing before it afterwards.
"""

from __future__ import annotations

import contextlib
import io
import logging
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from sinet.compression.nncf import installed as nncf_installed
from sinet.compression.nncf import quantize_nncf
from sinet.errors import SinetError, UsageError, unknown
from sinet.files import atomic_path

Images = npt.NDArray[np.float32]
Method = Literal["minmax", "percentile", "entropy", "nncf"]
METHODS: tuple[Method, ...] = get_args(Method)
"""From cheap to dear."""

OPERATORS = ("Conv", "Gemm", "MatMul", "Relu", "Clip")
"""What multiplies, and the activations that vanish into it.

Measured by benchmarks/int8_operators.py: Relu and Clip save up to a quarter (SiNet-Base). Add, Mul,
pooling and reshaping save 8% at most (MobileNetV3's Mul), cost as much elsewhere, and each rounds
once more. Products of two activations (attention) stay in float: INT8 makes ViT-Tiny and LeViT 9%
slower.
"""
_LAYERS = ("Conv", "Gemm", "MatMul")

_CALIBRATION: dict[Method, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    # Not symmetric: behind a ReLU half of the U8 range would be lost.
    "percentile": (CalibrationMethod.Percentile, {"symmetric": False, "percentile": 99.99}),
    # ONNX Runtime's default of 128 bins leaves its search for a threshold nothing to search.
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 512}),
}
log = logging.getLogger("sinet.compression")

_GROUPS = 24
"""Layers are judged one by one up to this number, in runs of neighbours beyond it."""
_JUDGING_IMAGES = 32
_AT_ONCE = 8
"""Images whose activations are held together: with 16, EfficientNet-Lite0 took 4 GB."""


@dataclass(frozen=True)
class Attempt:
    """One INT8 file that was tried."""

    method: Method
    """How the ranges of the activations were found."""
    excluded: tuple[str, ...]
    """Nodes that stayed in float."""
    metric: float
    """What `score` said, 0..1."""
    drop: float
    """Points of 100 lost against the reference."""
    seconds: float
    """Calibrating, writing and scoring."""

    def within(self, max_drop: float) -> bool:
        """Whether it loses at most `max_drop` points, rounding aside."""
        return self.drop <= max_drop + 1e-9

    def __str__(self) -> str:
        left = f", {len(self.excluded)} nodes left in float" if self.excluded else ""
        return f"INT8 {self.method}{left} ({self.seconds:.0f} s)"


@dataclass(frozen=True)
class QuantizeReport:
    """Every attempt, and which of them was kept."""

    path: Path
    """The INT8 network."""
    attempts: tuple[Attempt, ...]
    best: Attempt
    within: bool
    """Whether the best attempt loses no more than was allowed."""
    reduce_range: bool
    """Whether weights have 7 bits, because this CPU's INT8 sums overflow at 8."""


class _Once(CalibrationDataReader):  # type: ignore[misc]
    """Feeds ONNX Runtime one batch; with all at once it would hold every activation of all."""

    def __init__(self, feed: dict[str, Images]) -> None:
        self.feeds = iter([feed])

    def get_next(self) -> dict[str, Images] | None:
        """The batch, then None."""
        return next(self.feeds, None)


def quantize_onnx(
    fp32: str | Path,
    out: str | Path,
    calibration: Iterable[Images],
    *,
    method: Method = "minmax",
    exclude: Sequence[str] = (),
) -> Path:
    """Quantize a network that `export_network` wrote.

    Args:
        fp32: the float network.
        out: the INT8 network to write.
        calibration: batches (N, C, H, W) as the network takes them; 128 images are plenty. They
            are read one by one.
        method: how the ranges of the activations are found.
        exclude: names of nodes to leave in float.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = _prepare(Path(fp32), Path(folder))
        if method == "nncf":
            kept = {*exclude, *_products(onnx.load(str(prepared)))}
            return quantize_nncf(prepared, Path(out), list(calibration), kept)
        ranges = _calibrate(prepared, calibration, method)
        return _write(prepared, Path(out), ranges, exclude=exclude)


def quantize_best(
    fp32: str | Path,
    out: str | Path,
    calibration: Iterable[Images],
    score: Callable[[Path], float],
    reference: float,
    max_drop: float = 0.5,
) -> QuantizeReport:
    """Quantize as cheaply as the allowed loss permits, and say what was tried.

    The calibration methods are tried in turn. When none is good enough, the layers are quantized
    one at a time to see which harm the outputs most, and 1, 2, 4 ... of the worst stay in float.
    It stops at the first file that is good enough; else the most accurate one is kept.

    Args:
        fp32: the float network that `export_network` wrote.
        out: the INT8 network to write.
        calibration: batches (N, C, H, W) as the network takes them; kept in memory (128-256
            images).
        score: metric of a quantized network, 0..1.
        reference: the same metric before quantization.
        max_drop: points of 100 that may be lost.
    """
    with tempfile.TemporaryDirectory() as name:
        trial = _Trials(Path(fp32), Path(name), list(calibration), score, reference, max_drop)
        if not trial.methods():
            trial.exclusions()
        best = trial.best
        with atomic_path(out) as temporary:
            temporary.write_bytes(trial.files[best].read_bytes())
    return QuantizeReport(
        Path(out), tuple(trial.files), best, best.within(max_drop), needs_reduce_range()
    )


class _Trials:
    """The attempts of one `quantize_best`, in a folder of their own."""

    def __init__(
        self,
        fp32: Path,
        folder: Path,
        batches: list[Images],
        score: Callable[[Path], float],
        reference: float,
        max_drop: float,
    ) -> None:
        self.folder, self.batches, self.score = folder, batches, score
        self.reference, self.max_drop = reference, max_drop
        self.network = _prepare(fp32, folder)
        self.ranges: dict[Method, Any] = {}
        self.files: dict[Attempt, Path] = {}

    @property
    def best(self) -> Attempt:
        """The most accurate; among equals the one with fewest nodes in float."""
        return max(self.files, key=lambda attempt: (attempt.metric, -len(attempt.excluded)))

    def methods(self) -> bool:
        """Try each calibration; True as soon as one is good enough."""
        return any(self._attempt(method, ()) for method in METHODS if _usable(method))

    def exclusions(self) -> bool:
        """Leave more and more of the worst layers in float, at most half of them."""
        method = self.best.method
        ranges = self.ranges.get(method, self.ranges["minmax"])
        groups = _worst_first(self.network, ranges, self.batches, self.folder)
        counts = [2**i for i in range(8) if 2**i <= len(groups) // 2]
        return any(self._attempt(method, sum(groups[:count], ())) for count in counts)

    def _attempt(self, method: Method, exclude: tuple[str, ...]) -> bool:
        start = time.perf_counter()
        file = self.folder / f"attempt{len(self.files)}.onnx"
        if method == "nncf":
            kept = {*exclude, *_products(onnx.load(str(self.network)))}
            try:
                quantize_nncf(self.network, file, self.batches, kept)
            except SinetError as error:
                log.info("%s", error)
                return False
        else:
            if method not in self.ranges:
                self.ranges[method] = _calibrate(self.network, self.batches, method)
            _write(self.network, file, self.ranges[method], exclude=exclude)
        metric = self.score(file)
        drop = (self.reference - metric) * 100
        attempt = Attempt(method, exclude, metric, drop, time.perf_counter() - start)
        self.files[attempt] = file
        return attempt.within(self.max_drop)


def _usable(method: Method) -> bool:
    """Whether it can be tried here; 7-bit weights, where the CPU needs them, NNCF cannot make."""
    return method != "nncf" or (nncf_installed() and not needs_reduce_range())


def needs_reduce_range() -> bool:
    """Whether INT8 weights must have 7 bits here.

    x86 without VNNI adds U8 x S8 products in 16 bits, which overflow: 8-bit weights then cost
    accuracy (microsoft/onnxruntime#11415). Where the CPU cannot be asked, the safe answer is given.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True
    return not any(name in flags for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def _prepare(fp32: Path, folder: Path) -> Path:
    """Fold constants, infer shapes, and give every node a name by which it can be left out."""
    prepared = folder / "prepared.onnx"
    try:
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
    except Exception as error:
        raise UsageError(
            f"{fp32} cannot be quantized: {error}; give a float network that "
            "`sinet export` wrote, not yet assembled"
        ) from error
    model = onnx.load(str(prepared))
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    onnx.save(model, str(prepared))
    return prepared


def _calibrate(network: Path, batches: Iterable[Images], method: Method) -> Any:
    """Find the range of every activation, `_AT_ONCE` images in memory at a time.

    Raises:
        SinetError: what goes into a layer, or comes out of it, is not finite.
    """
    if method not in _CALIBRATION:
        raise unknown("calibration method", method, METHODS)
    how, options = _CALIBRATION[method]
    silence = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, silence, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NaN, which is looked for below
        calibrator = create_calibrator(
            network,
            list(OPERATORS),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=how,
            extra_options=options,
        )
        name = calibrator.infer_session.get_inputs()[0].name
        for batch in batches:
            for start in range(0, len(batch), _AT_ONCE):
                calibrator.collect_data(_Once({name: batch[start : start + _AT_ONCE]}))
        ranges = calibrator.compute_data()
    layers = [n for n in onnx.load(str(network)).graph.node if n.op_type in _LAYERS]
    seen = {name for node in layers for name in (*node.input, *node.output)}
    for tensor, found in ranges.items():
        if tensor in seen and not np.isfinite(found.range_value).all():
            raise SinetError(
                f"the network cannot be quantized: {tensor} is not finite for the calibration "
                "images; look for NaN in its weights, or train it again with a lower lr"
            )
    return ranges


def _write(
    network: Path, out: Path, ranges: Any, *, exclude: Sequence[str] = (), only: Sequence[str] = ()
) -> Path:
    """Write the network with Q/DQ pairs around its layers (around `only` these, if any)."""
    model = onnx.load(str(network))
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=needs_reduce_range(),
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=list(only),
        nodes_to_exclude=[*exclude, *_products(model)],
        op_types_to_quantize=list(OPERATORS),
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    with atomic_path(out) as temporary:
        quantizer.model.save_model_to_file(str(temporary))
    return out


def _products(model: onnx.ModelProto) -> list[str]:
    """Names of the matrix products of two activations."""
    constant = {tensor.name for tensor in model.graph.initializer}
    constant |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and constant.isdisjoint(node.input)
    ]


def _layers(network: Path) -> list[tuple[str, ...]]:
    """Nodes to quantize, in order: each layer with the activations behind it, in `_GROUPS` runs."""
    layers: list[tuple[str, ...]] = []
    model = onnx.load(str(network))
    products = _products(model)
    for node in model.graph.node:
        if node.op_type in _LAYERS and node.name not in products:
            layers.append((node.name,))
        elif node.op_type in OPERATORS and node.name not in products and layers:
            layers[-1] += (node.name,)
    chunks = np.array_split(np.arange(len(layers)), min(_GROUPS, len(layers)))
    return [sum((layers[i] for i in chunk), ()) for chunk in chunks]


def _worst_first(
    network: Path, ranges: Any, batches: Sequence[Images], folder: Path
) -> list[tuple[str, ...]]:
    """Groups of layers by the error of the outputs when nothing but the group is quantized.

    Each output counts on its own scale.
    """
    images = np.concatenate(list(batches))[:_JUDGING_IMAGES]
    exact = _outputs(network, images)
    scales = [max(float(np.square(part).mean()), 1e-12) for part in exact]
    errors = {}
    for group in _layers(network):
        file = _write(network, folder / "one.onnx", ranges, only=group)
        found = _outputs(file, images)
        errors[group] = sum(
            float(np.square(a - b).mean()) / scale
            for a, b, scale in zip(found, exact, scales, strict=True)
        )
    return sorted(errors, key=lambda group: -errors[group])


def _outputs(network: Path, images: Images) -> list[npt.NDArray[np.float32]]:
    session = ort.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: images}))
