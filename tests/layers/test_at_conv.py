from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sinet.layers import at_conv
from sinet.layers.at_conv import ATConv, stretches


def layer(dim: int = 6, kernel_size: int = 3) -> ATConv:
    torch.manual_seed(0)
    made = ATConv(dim, kernel_size).double()
    made.difference_control.data.normal_()
    return made


@pytest.mark.parametrize(("height", "width"), [(11, 14), (3, 3), (2, 2), (1, 5), (8, 8)])
@pytest.mark.parametrize("taps", [9, 25])
def test_stretches_are_adaptive_pooling(height: int, width: int, taps: int) -> None:
    x = torch.randn(2, 3, height * width, dtype=torch.float64)
    torch.testing.assert_close(x @ stretches(x, taps), F.adaptive_avg_pool1d(x, taps))


def test_stretches_wrap_rows_and_are_no_grid_of_cells() -> None:
    ramp = torch.arange(16.0).reshape(1, 1, 16)
    bands = ramp @ stretches(ramp, 4)
    assert bands.flatten().tolist() == [1.5, 5.5, 9.5, 13.5]  # whole rows
    cells = F.adaptive_avg_pool2d(ramp.reshape(1, 1, 4, 4), 2)
    assert not bands.flatten().equal(cells.flatten())


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_the_exported_form_is_the_same(kernel_size: int) -> None:
    x, kernels = (torch.randn(2, 6, 7, 9), torch.randn(2, 6, kernel_size**2))
    ours = at_conv._shifted(x, kernels, kernel_size)
    torch.testing.assert_close(ours, at_conv._grouped(x, kernels, kernel_size))


def test_inhibition_takes_away_its_share_of_the_mean() -> None:
    made, x = layer(), torch.randn(2, 6, 7, 9, dtype=torch.float64)
    share = torch.sigmoid(made.difference_control.detach())
    with_it = made.kernels(x).detach()
    made.difference_control.data.fill_(-1e3)  # sigmoid 0: nothing is taken away
    plain = made.kernels(x).detach()
    expected = plain.mean(2) * (1 - share)
    torch.testing.assert_close(with_it.mean(2), expected)
    torch.testing.assert_close(with_it - with_it.mean(2, True), plain - plain.mean(2, True))


def test_each_image_has_its_own_kernel() -> None:
    made, x = layer(), torch.randn(3, 6, 7, 9, dtype=torch.float64)
    together, alone = made(x), torch.cat([made(image[None]) for image in x])
    torch.testing.assert_close(together, alone)
    assert not made.kernels(x)[0].equal(made.kernels(x)[1])


def test_gradients_are_those_of_finite_differences() -> None:
    made = layer(2)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, (x,))
