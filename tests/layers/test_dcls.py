from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.layers import replace
from sinet.layers.dcls import VERSIONS, DCLS1d, DCLS2d, DCLS2dFlat, DCLS3d

KINDS = {1: DCLS1d, 2: DCLS2d, 3: DCLS3d}


def layer(dims: int, version: str, window: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    made = KINDS[dims](4, 6, 5, window, version=version, **{"groups": 2, **options}).double()
    made.P.data.normal_(0, 1.5)
    if made.SIG is not None:
        made.SIG.data.normal_(0, 0.5)
    made.clamp_parameters()
    return made


def by_hand(made: Any) -> torch.Tensor:
    """The definition, element by element and place by place."""
    kernel = torch.zeros(*made.weight.shape[:2], *made.window, dtype=torch.float64)
    rows = [made._row(axis) for axis in range(made.dims)]
    for o, i, e in itertools.product(*map(range, made.weight.shape)):
        share = torch.zeros(made.window, dtype=torch.float64)
        for place in itertools.product(*map(range, made.window)):
            value = 1.0
            for axis, row in enumerate(rows):
                d = place[axis] - made.window[axis] // 2 - made.P[row, o, i, e].item()
                s = abs(made.SIG[row, o, i, e].item()) if made.SIG is not None else 0
                if made.version == "gauss":
                    value *= math.exp(-0.5 * (d / (0.27 + s)) ** 2)
                else:
                    value *= max(0.0, 1 + s - abs(d))
            share[place] = value
        if made.version != "v0":
            share = share / (share.sum() + 1e-7)
        kernel[o, i] += made.weight[o, i, e].item() * share
    return kernel


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("dims", "window"), [(1, 9), (2, 7), (2, (3, 7)), (3, (3, 5, 4))])
def test_kernel_is_the_definition(version: str, dims: int, window: Any) -> None:
    made = layer(dims, version, window)
    torch.testing.assert_close(made.kernel(), by_hand(made))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_merges_into_an_ordinary_convolution(version: str, dims: int) -> None:
    made = layer(dims, version, 5, stride=2, padding=2)
    x = torch.randn(2, 4, *(9, 7, 8)[:dims], dtype=torch.float64)
    conv = made.fuse()
    assert type(conv) is made.conv
    torch.testing.assert_close(conv(x), made(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("row", [False, True])
def test_flat_kernel_lies_along_one_axis(row: bool) -> None:
    made = DCLS2dFlat(4, 4, 3, 7, groups=4, row=row).double()
    x = torch.randn(1, 4, 9, 10, dtype=torch.float64)
    kernel = made.kernel()
    assert kernel.shape == ((4, 1, 1, 7) if row else (4, 1, 7, 1))
    torch.testing.assert_close(made(x), F.conv2d(x, kernel, made.bias, groups=4))
    torch.testing.assert_close(made.fuse()(x), made(x))


def test_first_version_has_rows_first_and_the_others_columns() -> None:
    v0, v1 = layer(2, "v0", 9), layer(2, "v1", 9)
    v1.weight.data, v1.P.data = v0.weight.data, v0.P.data.flip(0)
    torch.testing.assert_close(v1.kernel(), v0.kernel(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_elements_at_rest_are_in_the_centre_of_any_window(version: str) -> None:
    made = layer(2, version, (5, 9))
    made.P.data.zero_()
    peak = made.kernel()[0, 0].abs().argmax()
    assert divmod(int(peak), 9) == (2, 4)


def test_whole_positions_are_ordinary_dilated_convolution() -> None:
    made = DCLS2d(4, 4, 9, 5, padding=2, groups=4, version="v0").double()
    steps = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).reshape(2, 1, 1, 9)
    made.P.data.copy_(grid.expand_as(made.P))
    x = torch.randn(1, 4, 8, 9, dtype=torch.float64)
    dilated = F.conv2d(
        x, made.weight.reshape(4, 1, 3, 3), made.bias, padding=2, dilation=2, groups=4
    )
    torch.testing.assert_close(made(x), dilated)


def test_an_element_at_the_window_s_end_can_come_back() -> None:
    made = layer(2, "v0", 7)
    made.P.data.fill_(3.0)
    made.kernel().sum().backward()
    assert made.P.grad.abs().min() > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_gradients_are_those_of_finite_differences(version: str) -> None:
    made = DCLS2d(2, 2, 3, 5, version=version).double()

    def kernel(weight: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        tensors = {"weight": weight, "P": positions}
        return torch.func.functional_call(_Kernel(made), {f"of.{k}": v for k, v in tensors.items()})

    assert torch.autograd.gradcheck(kernel, (made.weight, made.P))


class _Kernel(nn.Module):
    def __init__(self, of: DCLS2d) -> None:
        super().__init__()
        self.of = of

    def forward(self) -> torch.Tensor:
        return self.of.kernel()


def test_training_brings_positions_back_into_the_window() -> None:
    net = nn.Sequential(layer(2, "gauss", (3, 7)), layer(2, "v0", (3, 7)))
    for made in net:
        made.P.data.fill_(10)
        made.eval().kernel()
        assert made.P.min() == 10, "evaluation changes nothing"
        made.train().kernel()
    assert net[0].P[:, 0, 0, 0].tolist() == [3, 1]  # columns first
    assert net[1].P[:, 0, 0, 0].tolist() == [1, 3]


def test_shared_positions_are_one_parameter() -> None:
    net = nn.Sequential(DCLS2d(4, 4, 3, 5, padding=2), DCLS2d(4, 4, 3, 5, padding=2))
    net[1].share_positions(net[0])
    assert [name for name in net.state_dict() if name.endswith("P")] == ["0.P"]
    twin = copy.deepcopy(net)
    twin[0].P.data.add_(1)
    assert twin[1].positions is twin[0].P
    assert net[1].positions is net[0].P
    net(torch.randn(1, 4, 8, 8)).sum().backward()
    assert net[0].P.grad.any()


@pytest.mark.parametrize("stride", [1, 2])
def test_starts_as_the_convolution_it_replaces(stride: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, (3, 5), stride, (2, 1), (2, 1), groups=2)).double()
    x = torch.randn(2, 4, 11, 14, dtype=torch.float64)
    before = net(x)
    assert replace(net, nn.Conv2d, DCLS2d, dilated_kernel_size=(9, 7)) == ["0"]
    torch.testing.assert_close(net(x), before, atol=1e-12, rtol=1e-12)
    net(x).square().sum().backward()
    assert net[0].P.grad.all()


@pytest.mark.parametrize("version", ["v1", "max"])
def test_elements_in_whole_places_would_never_move(version: str) -> None:
    made = layer(2, version, 7)
    made.P.data.round_()
    if made.SIG is not None:
        made.SIG.data.zero_()
    made.kernel().square().sum().backward()
    assert not made.P.grad.any()
    with pytest.raises(UsageError, match=f"never move in {version}"):
        DCLS2d.from_conv(nn.Conv2d(4, 4, 3), version=version)  # type: ignore[arg-type]


def test_windows_that_do_not_fit_a_convolution_are_explained() -> None:
    with pytest.raises(UsageError, match=r"17 x 17 cannot be centred .* over 2 x 2"):
        DCLS2d.from_conv(nn.Conv2d(4, 4, 2))
    with pytest.raises(UsageError, match=r"5 x 5 .* over 7 x 7"):
        DCLS2d.from_conv(nn.Conv2d(4, 4, 7), 5)
    with pytest.raises(UsageError, match="number of zeros"):
        DCLS2d.from_conv(nn.Conv2d(4, 4, 3, padding="same"))


def test_impossible_layers_are_explained() -> None:
    with pytest.raises(UsageError, match="3 groups do not divide 4 input and 6 output channels; 2"):
        DCLS2d(4, 6, 3, 5, groups=3)
    with pytest.raises(UsageError, match="gaus"):
        DCLS2d(4, 4, 3, 5, version="gaus")  # type: ignore[arg-type]
