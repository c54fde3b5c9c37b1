from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from sinet.deployment.engines import ENGINES, open_engine
from sinet.deployment.predictor import Predictor
from sinet.errors import UsageError
from sinet.training.trained import Trained

from .tester import EngineTester


class TestOnnxRuntime(EngineTester):
    engine = "onnxruntime"


class TestTorch(EngineTester):
    engine = "torch"

    def path(self, trained: Trained, onnx_file: Path) -> Path:
        return trained.folder


class TestOpenVino(EngineTester):
    engine = "openvino"

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("openvino")


class TestOpenVinoIR(TestOpenVino):
    suffix = ".xml"

    def path(self, trained: Trained, onnx_file: Path) -> Path:
        from sinet.deployment.engines.openvino import to_openvino

        return to_openvino(onnx_file, onnx_file.with_suffix(".xml"))


def test_every_engine_has_a_tester() -> None:
    tested = {cls.engine for cls in (TestOnnxRuntime, TestTorch, TestOpenVino)}
    assert tested == set(ENGINES)


def test_unknown_engine_names_the_nearest(model_file: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        open_engine("onnxruntim", model_file, None, False)


def test_folder_with_a_model_is_enough(model_file: Path) -> None:
    assert Predictor(model_file.parent).metadata.model == "test_efficientnet@48"


def _foreign(path: Path, external: bool) -> Path:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    if external:
        weight.data_location = TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", "../secret"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_other_programs_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="carries no SiNet metadata"):
        Predictor(_foreign(tmp_path / "a.onnx", external=False))


def test_files_that_point_elsewhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="points to data in other files"):
        Predictor(_foreign(tmp_path / "a.onnx", external=True))


def test_unknown_operators_are_refused(model_file: Path, tmp_path: Path) -> None:
    model = onnx.load(str(model_file))
    model.graph.node[0].domain = "evil.com"
    onnx.save(model, str(tmp_path / "a.onnx"))
    with pytest.raises(UsageError, match=r"a\.onnx"):
        Predictor(tmp_path / "a.onnx")
