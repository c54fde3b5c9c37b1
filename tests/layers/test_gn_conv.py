from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sinet.layers.gn_conv import GlobalFilter, GlobalLocalFilter, GnConv, gn_conv_macs

SIZES = [(14, 14), (7, 7), (8, 5), (5, 8), (1, 1), (1, 6), (6, 1), (2, 3)]


def filled(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return module.double()


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_products_are_the_fourier_transform(height: int, width: int) -> None:
    layer = filled(GlobalFilter(6, (14, 8)))
    assert isinstance(layer, GlobalFilter)
    x = random(2, 6, height, width)
    by_fft, by_products = layer.by_fft(x), layer.by_products(x)
    assert by_fft.dtype == torch.float64
    torch.testing.assert_close(by_products, by_fft, atol=1e-12, rtol=1e-12)


def test_filter_by_its_definition() -> None:
    """Against plain complex sums over the whole, not the half, spectrum."""
    layer, (h, w) = filled(GlobalFilter(2, (4, 4))), (4, 6)
    assert isinstance(layer, GlobalFilter)
    x = random(1, 2, h, w)
    weight = torch.view_as_complex(layer.complex_weight.detach())
    rows, cols = (np.exp(-2j * math.pi * np.outer(range(n), range(n)) / n) for n in (h, w))
    spectrum = rows @ x.numpy()[0] @ cols / math.sqrt(h * w)
    half = spectrum[:, :, : w // 2 + 1] * weight.numpy()
    there = rows.conj() @ half / math.sqrt(h * w)
    twice = np.array([1.0, 2.0, 2.0, 1.0])  # the frequencies that the half spectrum leaves out
    expected = ((there * twice) @ cols.conj()[: w // 2 + 1]).real
    np.testing.assert_allclose(layer(x).detach().numpy()[0], expected, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_filter_of_ones_changes_nothing(height: int, width: int) -> None:
    layer = GlobalFilter(3, (7, 4)).double()
    layer.complex_weight.data[..., 0] = 1.0
    layer.complex_weight.data[..., 1] = 0.0
    x = random(1, 3, height, width)
    torch.testing.assert_close(layer(x), x, atol=1e-12, rtol=1e-12)


def test_filter_sees_the_whole_map() -> None:
    layer = filled(GlobalFilter(1, (6, 4)))
    x = random(1, 1, 6, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0, 0, 0, 0], x)
    assert (gradient != 0).all()


def test_half_precision_is_filtered_in_single() -> None:
    layer = filled(GlobalFilter(4, (7, 4))).float()
    x = random(1, 4, 7, 7).to(torch.bfloat16)
    out = layer.to(torch.bfloat16)(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out, layer.float()(x.float()).to(torch.bfloat16), rtol=0.02, atol=0.1
    )


def test_local_and_global_channels_alternate() -> None:
    layer = GlobalLocalFilter(4, (4, 3))
    layer.pre_norm, layer.post_norm = nn.Identity(), nn.Identity()
    layer.dw.weight.data.zero_()
    layer.filter.complex_weight.data[..., 0] = 1.0
    layer.filter.complex_weight.data[..., 1] = 0.0
    x = torch.randn(1, 4, 4, 4)
    out = layer(x)
    assert not out[:, 0::2].any()
    torch.testing.assert_close(out[:, 1::2], x[:, 2:])


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_is_homogeneous_of_degree_order_plus_one(order: int) -> None:
    layer = filled(GnConv(32, order))
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    x = random(1, 32, 5, 6)
    torch.testing.assert_close(layer(2 * x), 2 ** (order + 1) * layer(x), rtol=1e-10, atol=1e-10)


def test_the_gate_comes_first_and_the_scale_after_the_bias() -> None:
    layer = filled(GnConv(4, 1, scale=0.5))
    assert isinstance(layer, GnConv)
    layer.dwconv.weight.data.zero_()  # only its bias is left
    x = random(1, 4, 3, 3)
    p = layer.proj_in(x)[:, :4]
    expected = layer.proj_out(p * (0.5 * layer.dwconv.bias)[:, None, None])
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_multiply_adds_follow_the_formula_and_its_bound(order: int) -> None:
    with torch.device("meta"):
        layer, x = GnConv(64, order), torch.empty(1, 64, 8, 8)
        with FlopCounterMode(display=False) as flops:
            layer(x)
    assert flops.get_total_flops() / 2 / 64 == pytest.approx(gn_conv_macs(64, order))
    assert gn_conv_macs(64, order) < 11 / 3 * 64**2 + 2 * 49 * 64


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("height", "width"), [(14, 14), (9, 6)])
def test_filter_runs_in_onnx_runtime(height: int, width: int, tmp_path: Path) -> None:
    layer = filled(GnConv(16, 3, (7, 4))).float().eval()
    x = random(2, 16, height, width).float()
    path = str(tmp_path / "layer.onnx")
    torch.onnx.export(layer, (x,), path, dynamo=False, input_names=["x"], opset_version=17)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": x.numpy()})
    expected = layer(x).detach().numpy()
    assert np.abs(out - expected).max() < 1e-5 * np.abs(expected).max()
