from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from sinet.compression import quantize
from sinet.compression.quantize import (
    METHODS,
    needs_reduce_range,
    quantize_best,
    quantize_onnx,
)
from sinet.deployment.export import export_network
from sinet.errors import SinetError, UsageError


class Net(nn.Module):
    """Dense, depthwise and pointwise convolutions, ReLU, a residual sum and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.depth = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + torch.relu(self.point(self.depth(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torch.onnx import export

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(
            Net().eval(), (torch.zeros(2, 3, 16, 16),), str(path), input_names=["input"],
            output_names=["logits"], dynamic_axes={"input": {0: "n"}, "logits": {0: "n"}},
            opset_version=20, dynamo=False,
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def batches() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((8, 3, 16, 16)).astype(np.float32) for _ in range(3)]


@pytest.fixture
def without_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "nncf_installed", lambda: False)


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(str(path)).run(None, {"input": images})[0])


def agreement(network: Path, images: np.ndarray):
    expected = logits(network, images).argmax(1)
    return lambda path: float((logits(path, images).argmax(1) == expected).mean())


@pytest.mark.parametrize("method", METHODS)
def test_each_method_stays_near_float(
    network: Path, batches: list[np.ndarray], tmp_path: Path, method: quantize.Method
) -> None:
    if method == "nncf":
        pytest.importorskip("nncf")
    out = quantize_onnx(network, tmp_path / "int8.onnx", iter(batches), method=method)
    exact, ours = logits(network, batches[0]), logits(out, batches[0])
    error = np.square(exact - ours).mean() / np.square(exact).mean()
    assert 0 < error < (0.2 if method == "entropy" else 0.005)


def test_form_of_the_file(network: Path, batches: list[np.ndarray], tmp_path: Path) -> None:
    model = onnx.load(str(quantize_onnx(network, tmp_path / "int8.onnx", batches)))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    zeros = {name: t for name, t in tensors.items() if "zero_point" in name}
    weights = {t.data_type for name, t in zeros.items() if t.dims and "weight" in name}
    assert weights == {onnx.TensorProto.INT8}, "weights are S8 with one scale a channel"
    inputs = {t.data_type for name, t in zeros.items() if name.startswith("input")}
    assert inputs == {onnx.TensorProto.UINT8}, "activations are U8"
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(
    batches: list[np.ndarray], tmp_path: Path, value: float
) -> None:
    broken = Net()
    broken.depth.weight.data[0] = value
    network = export_network(broken, 16, 3, tmp_path / "net.onnx")
    with pytest.raises(SinetError, match="not finite for the calibration images"):
        quantize_onnx(network, tmp_path / "int8.onnx", batches)
    assert not (tmp_path / "int8.onnx").exists()


def test_excluded_nodes_stay_in_float(
    network: Path, batches: list[np.ndarray], tmp_path: Path
) -> None:
    convolutions = [n.name for n in onnx.load(str(network)).graph.node if n.op_type == "Conv"]

    def float_weights(exclude: list[str]) -> int:
        out = quantize_onnx(network, tmp_path / "int8.onnx", batches, exclude=exclude)
        graph = onnx.load(str(out)).graph
        names = {tensor.name for tensor in graph.initializer}
        return sum(node.op_type == "Conv" and node.input[1] in names for node in graph.node)

    assert float_weights([]) == 0
    assert float_weights(convolutions[:2]) == 2


def test_products_of_two_activations_stay_in_float(tmp_path: Path) -> None:
    """Attention: its projections are quantized, its two products are not."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
            return self.out(((q @ k.transpose(1, 2)).softmax(-1) @ v).mean(1))

    network = export_network(Attention(), 4, 8, tmp_path / "network.onnx")
    batch = np.random.default_rng(0).standard_normal((8, 8, 4, 4)).astype(np.float32)
    for method in ("minmax", "nncf"):
        file = quantize_onnx(network, tmp_path / f"{method}.onnx", [batch], method=method)
        graph = onnx.load(str(file)).graph
        quantized = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
        products = [n for n in graph.node if n.op_type in ("MatMul", "Gemm")]
        of_two = [n for n in products if not quantized & set(n.input)]
        assert len(products) == 4
        assert len(of_two) == 2, method


def test_the_first_good_enough_method_is_kept(
    network: Path, batches: list[np.ndarray], tmp_path: Path
) -> None:
    report = quantize_best(
        network, tmp_path / "int8.onnx", batches, lambda _: 0.9, reference=0.904, max_drop=0.5
    )
    assert [attempt.method for attempt in report.attempts] == ["minmax"]
    assert report.within
    assert report.best.drop == pytest.approx(0.4)
    assert report.best.metric == pytest.approx(0.9)
    assert str(report.best).startswith("INT8 minmax (")
    assert logits(report.path, batches[0]).shape == (8, 10)


@pytest.mark.usefixtures("without_nncf")
def test_when_no_method_will_do_the_worst_layers_stay_in_float(
    network: Path, batches: list[np.ndarray], tmp_path: Path
) -> None:
    def floats_help(path: Path) -> float:
        quantized = sum(
            "weight_quantized" in t.name for t in onnx.load(str(path)).graph.initializer
        )
        return 1 - quantized / 100

    report = quantize_best(
        network, tmp_path / "int8.onnx", batches, floats_help, reference=1.0, max_drop=3.0
    )
    assert [attempt.method for attempt in report.attempts[:3]] == list(METHODS[:3])
    assert [bool(attempt.excluded) for attempt in report.attempts] == [False] * 3 + [True]
    assert report.within
    assert report.best is report.attempts[-1]
    assert floats_help(report.path) == pytest.approx(report.best.metric)


@pytest.mark.usefixtures("without_nncf")
def test_when_nothing_will_do_the_best_is_kept_and_the_report_says_so(
    network: Path, batches: list[np.ndarray], tmp_path: Path
) -> None:
    scores = iter([0.5, 0.7, 0.6, 0.65, 0.66])
    report = quantize_best(
        network, tmp_path / "int8.onnx", batches, lambda _: next(scores), reference=0.9
    )
    assert not report.within
    assert (report.best.method, report.best.metric) == ("percentile", 0.7)
    assert all(attempt.method == "percentile" for attempt in report.attempts[3:])


def test_nncf_is_tried_before_layers_are_left_in_float(
    network: Path, batches: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr(quantize, "needs_reduce_range", lambda: False)
    scores = iter([0.5, 0.6, 0.6, 0.7, 0.9])
    report = quantize_best(
        network, tmp_path / "int8.onnx", batches, lambda _: next(scores), reference=0.9
    )
    assert [attempt.method for attempt in report.attempts] == [*METHODS, "nncf"]
    *_, last = report.attempts
    assert last.excluded
    kept = {tensor.name for tensor in onnx.load(str(report.path)).graph.initializer}
    assert len(kept & {"stem.weight", "depth.weight", "point.weight", "head.weight"}) == 1


def test_a_network_that_nncf_cannot_take_is_left_to_the_other_methods(
    network: Path, batches: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SinetError("no statistics")

    monkeypatch.setattr(quantize, "nncf_installed", lambda: True)
    monkeypatch.setattr(quantize, "needs_reduce_range", lambda: False)
    monkeypatch.setattr(quantize, "quantize_nncf", refuse)
    report = quantize_best(network, tmp_path / "int8.onnx", batches, lambda _: 0.5, 0.9)
    assert "nncf" not in [attempt.method for attempt in report.attempts]
    assert report.path.is_file()


def test_without_nncf_it_is_passed_over_and_asking_for_it_says_what_to_install(
    network: Path, batches: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinet.compression.nncf.installed", lambda: False)
    with pytest.raises(UsageError, match=r"pip install 'sinet\[openvino\]'"):
        quantize_onnx(network, tmp_path / "int8.onnx", batches, method="nncf")


def test_the_most_harmful_layer_comes_first(
    network: Path, batches: list[np.ndarray], tmp_path: Path
) -> None:
    """One channel a thousand times wider than the rest ruins the U8 steps of what reads it."""
    model = onnx.load(str(network))
    for node in model.graph.node:
        if node.op_type == "Gemm":
            head = node.name
    for tensor in model.graph.initializer:
        if tensor.name == "point.bias":
            bias = onnx.numpy_helper.to_array(tensor).copy()
            bias[0] = 1000
            tensor.CopyFrom(onnx.numpy_helper.from_array(bias, tensor.name))
        if tensor.name == "head.weight":
            weight = onnx.numpy_helper.to_array(tensor).copy()
            weight[:, 0] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, str(tmp_path / "net.onnx"))
    prepared = quantize._prepare(tmp_path / "net.onnx", tmp_path)
    ranges = quantize._calibrate(prepared, batches, "minmax")
    worst = quantize._worst_first(prepared, ranges, batches, tmp_path)[0]
    assert any("point" in name or name == head for name in worst)


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : avx2 avx512f avx512_vnni", False),
        ("x86_64", "flags : avx2 avx_vnni", False),
        ("x86_64", "flags : avx2 avx512f", True),
        ("AMD64", None, True),
        ("aarch64", None, False),
    ],
)
def test_seven_bits_only_where_sums_overflow(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str | None, expected: bool
) -> None:
    def read(*_: object, **__: object) -> str:
        if flags is None:
            raise FileNotFoundError
        return flags

    monkeypatch.setattr(quantize.platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", read)
    assert needs_reduce_range() is expected


def test_errors_name_the_file_and_the_method(
    network: Path, batches: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"junk\.onnx cannot be quantized"):
        quantize_onnx(tmp_path / "junk.onnx", tmp_path / "out.onnx", batches)
    with pytest.raises(UsageError, match="did you mean 'minmax'"):
        quantize_onnx(network, tmp_path / "out.onnx", batches, method="minimax")  # type: ignore[arg-type]
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("method", ["percentile", "nncf"])
def test_nothing_is_printed(network: Path, tmp_path: Path, method: str) -> None:
    if method == "nncf":
        pytest.importorskip("nncf")
    code = (
        "import sys, numpy as np; from sinet.compression.quantize import quantize_onnx;"
        "x = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype('float32');"
        "quantize_onnx(sys.argv[1], sys.argv[2], [x], method=sys.argv[3])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(network), str(tmp_path / "out.onnx"), method],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    assert done.stderr == ""
