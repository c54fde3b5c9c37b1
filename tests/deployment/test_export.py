from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from sinet.data.preprocess import MAX_ASPECT, AnyShape, Preprocess, PreprocessModule
from sinet.deployment import export
from sinet.deployment.export import OPSET, describe, export_network
from sinet.deployment.graph import preprocess_graph
from sinet.errors import SinetError
from sinet.training.trained import Trained

from .making import lively, pictures


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("test_resnet", 3), ("test_efficientnet", 1), ("test_byobnet", 3), ("test_convnext", 3),
     ("test_vit", 1), ("minspnet_minimal", 3)],
)  # fmt: skip
@pytest.mark.parametrize("batch", [1, 3])
def test_network_equals_eager(tmp_path: Path, name: str, channels: int, batch: int) -> None:
    options = {"img_size": 64} if "vit" in name else {}
    torch.manual_seed(0)
    model = lively(timm.create_model(name, num_classes=5, in_chans=channels, **options))
    file = export_network(model, 64, channels, tmp_path / "net.onnx")
    images = torch.randn(batch, channels, 64, 64)
    with torch.inference_mode():
        expected = model(images).numpy()
    found = ort.InferenceSession(str(file)).run(["logits"], {"input": images.numpy()})[0]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=1e-4)
    assert operators(file)["BatchNormalization"] == 0


def test_gelu_stays_one_operator(tmp_path: Path) -> None:
    file = export_network(timm.create_model("test_vit", img_size=64), 64, 3, tmp_path / "net.onnx")
    assert operators(file)["Gelu"] > 0
    assert operators(file)["Erf"] == 0


def test_opset_is_stated(model_file: Path) -> None:
    model = onnx.load(str(model_file))
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == OPSET >= 18
    onnx.checker.check_model(model, full_check=True)


def test_second_exporter_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("unsupported")

    monkeypatch.setattr(export, "_export_script", fails)
    model = lively(timm.create_model("test_resnet", num_classes=5))
    file = export_network(model, 64, 3, tmp_path / "net.onnx")
    images = torch.randn(3, 3, 64, 64)
    found = ort.InferenceSession(str(file)).run(["logits"], {"input": images.numpy()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(images).numpy(), atol=1e-3, rtol=1e-4)


class Rotations(nn.Module):
    """Multiplies by one large matrix in every layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = x @ torch.eye(64)
        return x


def test_equal_constants_are_kept_once_and_in_the_file(tmp_path: Path) -> None:
    file = export_network(Rotations(), 64, 3, tmp_path / "net.onnx")
    assert operators(file)["MatMul"] == 3
    assert file.stat().st_size < 1.5 * 64 * 64 * 4
    assert list(tmp_path.iterdir()) == [file]
    images = torch.randn(1, 3, 64, 64).numpy()
    found = ort.InferenceSession(str(file)).run(None, {"input": images})[0]
    np.testing.assert_allclose(found, images)


class Impossible(nn.Module):
    """Uses what ONNX has no operator for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x[:, 0]).real


def test_what_cannot_be_exported_says_so_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SinetError, match="Impossible cannot be exported to ONNX"):
        export_network(Impossible(), 8, 3, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


PREPROCESSES = [
    Preprocess(24, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875),
    Preprocess(17, 1, (0.3,), (0.2,)),
    Preprocess(24, 3, (0.4,) * 3, (0.2,) * 3, width=40, fit="stretch"),
    Preprocess(16, 1, (0.4,), (0.2,), width=32, fit="pad"),
    Preprocess(24, 3, (0.4,) * 3, (0.2,) * 3, width=40, fit="none"),
    Preprocess(24, 1, (0.4,), (0.2,), fit="none", multiple=8),
]
SESSIONS = {
    p: ort.InferenceSession(
        preprocess_graph(p, output="pixels", opset=OPSET, ir_version=10).SerializeToString()
    )
    for p in PREPROCESSES
}


@given(
    preprocess=st.sampled_from(PREPROCESSES),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    count=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@example(PREPROCESSES[0], 24, 24, 1, 0)
@example(PREPROCESSES[0], 27, 27, 2, 0)
@example(PREPROCESSES[1], 1, 1, 1, 0)
@example(PREPROCESSES[1], 1, 100, 2, 0)
@example(PREPROCESSES[0], 299, 3, 1, 0)
@example(PREPROCESSES[0], 1500, 2000, 1, 0)
@example(PREPROCESSES[2], 24, 40, 2, 0)
@example(PREPROCESSES[3], 1, 100, 1, 0)
@example(PREPROCESSES[3], 16, 32, 2, 0)
@example(PREPROCESSES[4], 1, 100, 1, 0)
@example(PREPROCESSES[5], 16, 33, 2, 0)
@example(PREPROCESSES[5], 1, 1, 1, 0)
@settings(max_examples=80, deadline=None)
def test_preprocessing_in_the_graph_equals_its_twin(
    preprocess: Preprocess, height: int, width: int, count: int, seed: int
) -> None:
    if max(height, width) > MAX_ASPECT * min(height, width):
        return
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width, preprocess.channels), dtype=np.uint8)
    found = SESSIONS[preprocess].run(None, {"images": images})[0]
    expected = PreprocessModule(preprocess)(torch.from_numpy(images)).numpy()
    # 1e-4 of the range of a pixel; torch's own weights, in single precision, are off by as much.
    tolerance = 1e-4 / min(preprocess.std)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


def test_height_and_width_can_stay_free(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1), nn.GELU(), nn.PixelShuffle(2)).eval()
    file = export_network(network, AnyShape((16, 24)), 3, tmp_path / "net.onnx", ("image",))
    opened = ort.InferenceSession(str(file))
    for shape in ((2, 3, 16, 24), (1, 3, 7, 5), (3, 3, 40, 9)):
        images = torch.rand(shape)
        found = opened.run(None, {"input": images.numpy()})[0]
        with torch.inference_mode():
            np.testing.assert_allclose(found, network(images).numpy(), atol=1e-5)


def test_images_of_the_right_size_are_not_interpolated() -> None:
    preprocess = Preprocess(24, 3, (0.0,) * 3, (1 / 255,) * 3)
    graph = preprocess_graph(preprocess, output="pixels", opset=OPSET, ir_version=10)
    images = pictures(1, 24, 24)
    found = ort.InferenceSession(graph.SerializeToString()).run(None, {"images": images})[0]
    np.testing.assert_allclose(found, images.transpose(0, 3, 1, 2), atol=1e-4)


def test_description_holds_the_recipe(trained: Trained) -> None:
    facts = describe(trained, precision="int8")
    assert facts.recipe["optimizer"] == trained.recipe.optimizer
    assert facts.precision == "int8"
