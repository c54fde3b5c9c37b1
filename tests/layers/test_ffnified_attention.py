from __future__ import annotations

import pytest
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.layers.ffnified_attention import FFNifiedAttention, RepDepthwise


def filled(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1.0)
    return module.eval().double()


@pytest.mark.parametrize(("out_chs", "stride"), [(6, 1), (12, 2)])
def test_two_kernels_merge_into_one(out_chs: int, stride: int) -> None:
    layer = filled(RepDepthwise(6, out_chs, 7, stride))
    conv = layer.fuse()
    x = torch.randn(2, 6, 11, 14, dtype=torch.float64)
    assert conv.kernel_size == (7, 7)
    torch.testing.assert_close(conv(x), layer(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, None])
def test_query_keys_gelu_values(kernel_size: int, norm_layer: type[nn.Module] | None) -> None:
    layer = filled(FFNifiedAttention(6, kernel_size, norm_layer))
    x = torch.randn(2, 6, 9, 13, dtype=torch.float64)
    by_hand = layer.values(nn.functional.gelu(layer.keys(layer.query(x))))
    torch.testing.assert_close(layer(x), by_hand)
    torch.testing.assert_close(reparameterize_model(layer)(x), by_hand, atol=1e-12, rtol=1e-12)


def test_small_kernels_are_plain_convolutions_with_bias() -> None:
    layer = FFNifiedAttention(6, 3)
    assert isinstance(layer.keys, nn.Conv2d)
    assert layer.keys.bias is not None


def test_reaches_as_far_as_both_kernels_together() -> None:
    layer = filled(FFNifiedAttention(2, 7))
    x = torch.randn(1, 2, 31, 31, dtype=torch.float64, requires_grad=True)
    layer(x)[0, 0, 15, 15].backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (rows.min(), rows.max()) == (15 - 6, 15 + 6)
