from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.measurement.cost import cost
from sinet.models.convfirst import (
    ConvFirstBlock,
    ConvFirstStack,
    MBConvBlock,
    convert,
    grouped_convnext,
)

from .tester import ModelTester, create, lively


class TestConvfirst(ModelTester):
    module = "convfirst"
    figures: ClassVar = {
        "convfirst_test": (107_224, None),
        "convfirst_n": (3_204_296, 319e6),
        "convfirst_t": (7_529_032, 1.009e9),
        "convfirst_s": (13_811_400, 2.156e9),
        "convfirst_b": (31_084_616, 5.164e9),
        "convfirst_mbconv_n": (3_481_352, None),
        "convfirst_mbconv_t": (8_182_600, None),
        "convfirst_mbconv_s": (14_884_104, None),
        "convfirst_mbconv_b": (32_860_616, None),
    }


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_blocks_have_the_counts_of_spio() -> None:
    assert parameters(ConvFirstBlock(64, 64, expansion=6)) == 54_784
    assert parameters(MBConvBlock(64, 64)) == 52_352
    stack = ConvFirstStack(depth=4, extra_depth=2, expansion=6, block=ConvFirstBlock)
    assert parameters(stack) == 319_232


@pytest.mark.parametrize(
    ("kernel", "params", "macs"),
    [
        (3, 28_741_480, 4.505e9),
        (5, 29_589_352, 4.779e9),
        (7, 30_861_160, 5.191e9),
    ],
)
def test_grouped_convnext_has_the_counts_of_the_fork(kernel: int, params: int, macs: float) -> None:
    with torch.device("meta"):
        model = grouped_convnext(kernel_sizes=kernel)
    assert parameters(model) == params
    assert cost(model, 224).macs == pytest.approx(macs, rel=1e-3)


def test_odd_extra_depth_puts_more_before() -> None:
    stack = ConvFirstStack(16, depth=1, extra_depth=3)
    assert (len(stack.pre), len(stack.post)) == (2, 1)


@pytest.mark.parametrize("block", [ConvFirstBlock, MBConvBlock])
def test_shortcut_only_where_shapes_allow(block: type[nn.Module]) -> None:
    x = torch.randn(1, 16, 7, 7)
    for out, stride in ((16, 1), (24, 1), (16, 2)):
        module = block(16, out, stride=stride).eval()
        module.project.bn.weight.data.zero_()
        assert module(x).equal(x) == (out == 16 and stride == 1)


@pytest.mark.parametrize("block", [ConvFirstBlock, MBConvBlock])
def test_fused_blocks_are_exact(block: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = lively(block(16, 16, 5)).double().eval()
    x = torch.randn(2, 16, 9, 11, dtype=torch.double)
    fused = reparameterize_model(module)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(fused(x), module(x), atol=1e-12, rtol=1e-12)


def test_twin_differs_in_its_blocks_only() -> None:
    with torch.device("meta"):
        ours, twin = (timm.create_model(f"convfirst{kind}_n") for kind in ("", "_mbconv"))
    assert {type(b) for s in ours.stages for b in s} == {ConvFirstBlock}
    assert {type(b) for s in twin.stages for b in s} == {MBConvBlock}
    for part in ("stem", "final", "head"):
        assert parameters(ours.get_submodule(part)) == parameters(twin.get_submodule(part))


def test_own_names_pass_unchanged() -> None:
    state = create("convfirst_test").state_dict()
    assert list(convert(state)) == list(state)
