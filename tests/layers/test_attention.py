from __future__ import annotations

import pytest
import torch

from sinet.layers import SmallAttention
from sinet.layers.attention import HEAD_DIM, KEY_DIM, join_windows, split_windows


def attention(window: int = 16, sparse: bool = False) -> SmallAttention:
    torch.manual_seed(0)
    layer = SmallAttention(64, ratio=1.0, window=window, sparse=sparse).eval()
    layer.proj.bn.weight.data.fill_(1)
    return layer


def test_windows_round_trip_and_order() -> None:
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).float()
    windows = split_windows(x, 2, 3)
    assert windows.shape == (12, 3, 2, 2)
    assert windows[0].equal(x[0, :, :2, :2])
    assert windows[1].equal(x[0, :, :2, 2:4])
    assert windows[6].equal(x[1, :, :2, :2])
    assert join_windows(windows, 2, 3).equal(x)


def test_sparse_windows_are_spread_over_the_map() -> None:
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).float()
    windows = split_windows(x, 2, 3, sparse=True)
    assert windows.shape == (12, 3, 2, 2)
    assert windows[0].equal(x[0, :, ::2, ::3])
    assert windows[1].equal(x[0, :, ::2, 1::3])
    assert windows[9].equal(x[1, :, 1::2, ::3])
    assert join_windows(windows, 2, 3, sparse=True).equal(x)


def test_every_sparse_window_is_attended_on_its_own() -> None:
    layer, x = attention(window=4, sparse=True), torch.randn(1, 64, 8, 8)
    whole = layer(x)
    for row in (0, 1):
        for col in (0, 1):
            part = x[..., row::2, col::2]
            torch.testing.assert_close(
                layer(part), whole[..., row::2, col::2], atol=1e-5, rtol=1e-5
            )


def test_no_window_is_the_whole_map() -> None:
    x = torch.randn(1, 64, 20, 18)
    torch.testing.assert_close(attention(window=0)(x), attention(window=20)(x))
    assert not torch.allclose(attention(window=0)(x), attention(window=16)(x), atol=1e-3)


def test_agrees_with_torch_attention() -> None:
    layer, x = attention(), torch.randn(2, 64, 5, 7)
    heads = layer.qkv(x).reshape(2, layer.heads, 2 * KEY_DIM + HEAD_DIM, 35).transpose(2, 3)
    q, k, v = heads.split([KEY_DIM, KEY_DIM, HEAD_DIM], dim=-1)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    expected = x + layer.proj(out.transpose(2, 3).reshape(2, -1, 5, 7))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_every_window_is_attended_on_its_own() -> None:
    layer, x = attention(window=4), torch.randn(1, 64, 8, 8)
    whole = layer(x)
    for row in (0, 4):
        for col in (0, 4):
            part = x[..., row : row + 4, col : col + 4]
            expected = whole[..., row : row + 4, col : col + 4]
            torch.testing.assert_close(layer(part), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(5, 4), (9, 4), (7, 11)])
def test_sizes_that_do_not_divide(size: tuple[int, int]) -> None:
    layer, x = attention(window=4), torch.randn(1, 64, *size)
    assert layer(x).shape == x.shape
    assert layer(x).isfinite().all()
