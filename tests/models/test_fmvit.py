from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reference import fmvit as reference
from sinet.deployment.export import export_network
from sinet.models.fmvit import (
    FrequencyBlock,
    GroupsConv,
    MultiHeadConv,
    PooledAttention,
    average_pool,
)

from .tester import ModelTester, create, images, lively


class TestFMViT(ModelTester):
    module = "fmvit"
    # Multiply-adds are stated for the merged form and without the products of the attention: see
    # the test of merged sizes below.
    figures: ClassVar = {
        "fmvit_test": (207_910, None),
        "fmvit_tiny": (4_790_600, None),
        "fmvit_small": (11_728_680, None),
        "fmvit_base": (56_452_136, None),
        "fmvit_large": (103_165_992, None),
    }
    oblong = ((32, 32), (33, 47), (64, 96), (97, 65))


def double(module: nn.Module) -> nn.Module:
    """In float64, and with weights so large that no branch is lost in what others put out."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return lively(module).double().eval()


# the specification's count leaves the norms of plain convolutions in place: one more vector for
# each of their output channels
@pytest.mark.parametrize(
    ("size", "params", "gmacs"),
    [("tiny", 2_948_232, 0.793), ("small", 6_993_160, 2.004), ("base", 31_806_696, 5.774)],
)
def test_merged_sizes(size: str, params: int, gmacs: float) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"fmvit_{size}").eval()
        inside = {id(m) for g in model.modules() if isinstance(g, GroupsConv) for m in g.modules()}
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        plain = sum(m.num_features for m in norms if id(m) not in inside and m is not model.norm)
        merged = reparameterize_model(model)
        with FlopCounterMode(display=False) as counter:
            merged(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in merged.parameters()) + plain == params
    counts = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    macs = (counts["aten.convolution"] + counts["aten.addmm"]) / 2e9
    assert macs == pytest.approx(gmacs, abs=0.001)


@pytest.mark.parametrize(
    ("in_chs", "out_chs", "groups"),
    [(16, 16, [1, 2, 4, 8]), (16, 40, [1, 2, 4, 8]), (12, 12, [1, 2, 4]), (6, 9, [1]), (7, 7, [1])],
)
def test_groups_merge_into_one_dense_convolution(
    in_chs: int, out_chs: int, groups: list[int]
) -> None:
    layer = double(GroupsConv(in_chs, out_chs))
    assert [branch.conv.groups for branch in layer.branches] == groups
    assert (layer.identity is not None) == (in_chs == out_chs)
    x = torch.randn(2, in_chs, 5, 4, dtype=torch.float64)
    before = layer(x)
    merged = layer.fuse()
    assert isinstance(merged, nn.Conv2d)
    assert (merged.groups, merged.kernel_size) == (1, (1, 1))
    torch.testing.assert_close(merged(x), before, atol=1e-12, rtol=1e-12)


def test_merged_network_is_the_same_function_and_keeps_one_norm() -> None:
    model = double(create("fmvit_test"))
    merged = reparameterize_model(model)
    norms = [n for n, m in merged.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == ["norm"]
    pointwise = [
        m for m in merged.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
    ]
    assert {m.groups for m in pointwise} == {1}
    x = images(2, 3, 75, 97).double()
    expected = model(x)
    tolerance = 1e-12 * float(expected.detach().abs().max())
    torch.testing.assert_close(merged(x), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("pool", [1, 2, 4])
@pytest.mark.parametrize("shape", [(8, 8), (7, 9)])
def test_attention_is_its_equation(pool: int, shape: tuple[int, int]) -> None:
    """Head by head, row by row; borders that the pooling does not fill count what they have."""
    layer = double(PooledAttention(64, pool))
    x = torch.randn(1, 64, *shape, dtype=torch.float64)
    cells = [
        x[0, :, i : i + pool, j : j + pool].mean((1, 2))
        for i in range(0, shape[0], pool)
        for j in range(0, shape[1], pool)
    ]
    y = torch.stack(cells, 1)[None, :, :, None]
    q, k, v = layer.q(x)[0].flatten(1), layer.k(y)[0, :, :, 0], layer.v(y)[0, :, :, 0]
    heads = []
    for part in (slice(0, 32), slice(32, 64)):
        scores = q[part].T @ k[part] / math.sqrt(32)
        heads.append((scores.softmax(1) @ v[part].T).T)
    expected = layer.proj(torch.cat(heads).reshape(1, 64, *shape))
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=1e-12)


def test_bands_see_three_and_five_pixels() -> None:
    block = double(FrequencyBlock(64, 128, 1, 2, 0.0))
    assert (block.attn.q.in_chs, block.widths) == (96, (16, 16))
    for band, reach in ((block.high, 3), (block.middle, 5)):
        x = torch.randn(1, 16, 11, 11, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(band(x)[0, :, 5, 5].sum(), x)
        seen = gradient.abs().sum((0, 1)).nonzero()
        assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [reach, reach]


def test_widths_of_the_bands_are_those_of_the_specification() -> None:
    expected = {(1, 1): (96, 32), (2, 3): (128, 64), (3, 1): (224, 96)}
    with torch.device("meta"):
        model = timm.create_model("fmvit_tiny")
        found = {
            (i, j): (block.attn.q.in_chs, sum(block.widths))
            for i, stage in enumerate(model.stages)
            for j, block in enumerate(stage)
            if isinstance(block, FrequencyBlock)
        }
        base = timm.create_model("fmvit_base").stages[2]
    assert found == expected
    assert [i for i, b in enumerate(base) if isinstance(b, FrequencyBlock)] == [4, 9]


@pytest.mark.parametrize(("dim", "groups"), [(6, 1), (32, 1), (96, 3)])
def test_groups_of_32_channels(dim: int, groups: int) -> None:
    assert MultiHeadConv(dim)[0].conv.groups == groups


def test_pooling_counts_no_padding() -> None:
    x = torch.ones(1, 1, 5, 7)
    assert average_pool(2)(x).equal(torch.ones(1, 1, 3, 4))


def test_exported_at_a_size_that_the_pooling_does_not_divide(tmp_path: Path) -> None:
    model = create("fmvit_test")
    path = export_network(model, 72, 3, tmp_path / "model.onnx")
    for node in onnx.load(str(path)).graph.node:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert given.get("kernel_shape") != [1, 1] or given.get("group", 1) == 1
    x = images(1, 3, 72, 72)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(logits, model(x).detach().numpy(), atol=2e-4, rtol=2e-4)


def test_reference_builds_what_a_header_describes() -> None:
    model = double(create("fmvit_tiny", num_classes=7, in_chans=1))
    meta = {
        "name": "fmvit_tiny_merged",
        "variant": "FMViT-T",
        "dtype": "float64",
        "kwargs": {"num_classes": 7, "in_chans": 1},
        "prepare": "merged",
    }
    runner = reference.build(meta)
    runner.load(model.state_dict())
    x = images(1, 1, 40, 33).double()
    expected = model(x)
    torch.testing.assert_close(
        runner.run(x), expected, atol=1e-12 * float(expected.detach().abs().max()), rtol=0
    )
    with pytest.raises(ValueError, match="huge"):
        reference.build({**meta, "name": "fmvit_huge", "variant": ""})
