"""Tiny ONNX files made by hand, so that measuring can be tested without exporting anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _save(path: Path, nodes: list, inputs: list, outputs: list, weights: dict) -> Path:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def gemm(path: Path, n: int) -> Path:
    """One n x n matrix product with constant weights: n ** 3 multiply-adds."""
    shape = [n, n]
    return _save(
        path,
        [helper.make_node("MatMul", ["a", "b"], ["y"], name="product")],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        {"b": np.ones((n, n), np.float32)},
    )


def conv(path: Path, chans: int, size: int, groups: int = 1) -> Path:
    """One 3x3 convolution, stride 1, padded."""
    shape = [1, chans, size, size]
    return _save(
        path,
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1], group=groups)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        {"w": np.ones((chans, chans // groups, 3, 3), np.float32)},
    )


def classifier(
    path: Path, weights: np.ndarray, shift: float = 0.0, multilabel: bool = False
) -> Path:
    """`images` uint8 (N, H, W, C) -> `logits` = mean colour / 255 @ weights + shift."""
    chans, classes = weights.shape
    nodes = [
        helper.make_node("Cast", ["images"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=0),
        helper.make_node("Div", ["m", "full"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["z"]),
        helper.make_node("Add", ["z", "shift"], ["logits"]),
        helper.make_node("Sigmoid" if multilabel else "Softmax", ["logits"], ["probabilities"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", chans])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", classes])
        for name in ("logits", "probabilities")
    ]
    constants = {
        "axes": np.array([1, 2], np.int64),
        "full": np.array(255, np.float32),
        "w": weights.astype(np.float32),
        "shift": np.array(shift, np.float32),
    }
    return _save(path, nodes, [images], outputs, constants)
