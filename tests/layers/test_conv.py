from __future__ import annotations

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from sinet.layers import ConvNorm


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (5, 2, 8)])
def test_fuse_keeps_the_function(kernel: int, stride: int, groups: int) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(8, 16, kernel, stride, groups)
    layer.bn.weight.data.uniform_(0.5, 2)
    layer.bn.bias.data.normal_()
    layer(torch.randn(8, 8, 9, 9) + 1)  # moves the running statistics
    layer.eval()
    x = torch.randn(2, 8, 11, 7)
    fused = layer.fuse()
    assert isinstance(fused, nn.Conv2d)
    assert layer(x).shape == (2, 16, -(-11 // stride), -(-7 // stride))
    torch.testing.assert_close(fused(x), layer(x), atol=1e-5, rtol=1e-5)


def test_fuse_leaves_other_norms_alone() -> None:
    layer = ConvNorm(4, 4, norm_layer=LayerNorm2d)
    assert layer.fuse() is layer


def test_zero_init_silences_the_branch() -> None:
    assert not ConvNorm(4, 4, zero_init=True)(torch.randn(2, 4, 5, 5)).any()


def test_output_variance_is_kept_at_the_start() -> None:
    torch.manual_seed(0)
    out = ConvNorm(64, 64, 3).conv(torch.randn(4, 64, 16, 16).relu())
    assert 0.7 < out.var().item() < 1.3
