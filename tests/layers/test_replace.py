from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from sinet import layers
from sinet.errors import UsageError
from sinet.layers import DCLS2d, FDConv2d, replace

Build = Callable[..., nn.Module]


class Scaled(nn.Module):
    """The smallest operator: the convolution, times a number."""

    def __init__(self, conv: nn.Conv2d, by: float) -> None:
        super().__init__()
        self.conv, self.by = conv, by

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, by: float = 1.0) -> Scaled:
        return cls(conv, by)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * self.by


class NoWay(nn.Module):
    """An operator that cannot take over a convolution."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=4, zero_init_last=False).eval()


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_network_of_timm_becomes_dynamic_and_keeps_its_function() -> None:
    model, x = network(), images()
    before = model(x)
    names = layers.replace(
        model, nn.Conv2d, layers.FDConv2d, where="layer[34].*.conv2", kernel_num=8
    )
    assert names == ["layer3.0.conv2", "layer4.0.conv2"]
    replaced = [model.get_submodule(name) for name in names]
    assert all(isinstance(m, FDConv2d) and m.kernel_num == 8 for m in replaced)
    torch.testing.assert_close(model(x), before, atol=1e-3, rtol=1e-3)
    model.train()(x).sum().backward()
    assert all(m.dft_weight.grad.any() for m in replaced)


@pytest.mark.parametrize(
    "operator",
    [
        functools.partial(Scaled, by=3.0),
        functools.partial(Scaled.from_conv, by=3.0),
        lambda conv: Scaled(conv, 3.0),
    ],
)
def test_forms_of_an_operator(operator: Build) -> None:
    model, x = network(), images()
    names = replace(model, nn.Conv2d, operator, where=lambda name, conv: conv.stride == (2, 2))
    assert names
    assert all(model.get_submodule(name).by == 3 for name in names)
    assert model(x).isfinite().all()


@pytest.mark.parametrize(
    "pattern",
    [
        FDConv2d(4, 4, 3, kernel_num=8, levels=(2, 4)),
        DCLS2d(4, 4, 9, 5, version="gauss"),
    ],
)
def test_a_finished_operator_is_a_pattern(pattern: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(18, 20, 3, padding=1, bias=False))
    replace(model, nn.Conv2d, pattern)
    assert type(model[0]) is type(pattern)
    assert model[0].options == pattern.options
    assert model(torch.randn(2, 18, 12, 12)).shape == (2, 20, 12, 12)


def test_wrong_options_name_the_module() -> None:
    with pytest.raises(UsageError, match=r"^conv1\.0: .*kernels"):
        replace(network(), nn.Conv2d, FDConv2d, where="conv1.0", kernels=3)


def test_options_beside_a_partial_win() -> None:
    model = network()
    (name,) = replace(model, nn.Conv2d, functools.partial(Scaled, by=3.0), "layer1.0.conv1", by=2.0)
    assert model.get_submodule(name).by == 2


def test_everything_is_replaced_without_where_and_nothing_inside_it() -> None:
    model = network()
    wanted = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert replace(model, nn.Conv2d, Scaled) == wanted
    assert replace(model, Scaled, lambda old: old.conv) == wanted
    assert [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)] == wanted


def test_a_shared_module_stays_shared() -> None:
    conv = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    assert replace(model, nn.Conv2d, Scaled) == ["0", "2"]
    assert model[0] is model[2]


def test_kind_and_mode_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(18, 18, 3)).double().train()
    replace(model, nn.Conv2d, FDConv2d, kernel_num=2)
    assert model[0].training
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(18, 18, 3))
    replace(model, nn.Conv2d, FDConv2d, kernel_num=2)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_after_an_error_the_network_is_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(18, 18, 3), nn.Conv2d(18, 18, 3, groups=2))
    before = list(model)
    with pytest.raises(UsageError, match=r"^1: .*2 groups"):
        replace(model, nn.Conv2d, FDConv2d, kernel_num=2)
    assert list(model) == before


@pytest.mark.parametrize(
    ("operator", "where", "message"),
    [
        (NoWay, None, "NoWay has no from_conv"),
        (Scaled(nn.Conv2d(1, 1, 1), 1.0), None, "a finished Scaled"),
        (functools.partial(Scaled, 3.0), None, "by name"),
        (Scaled, "layer9.*", "none of which matches .*layer9"),
        (lambda conv: nn.Conv2d(conv.in_channels, conv.out_channels + 1, 1), "conv1.0", "makes"),
        (lambda conv: nn.Conv2d(conv.in_channels + 1, 8, 1), "conv1.0", "cannot be run"),
    ],
)
def test_errors_say_what_to_do(operator: Build, where: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(network(), nn.Conv2d, operator, where=where)


def test_nothing_there_and_the_model_itself() -> None:
    with pytest.raises(UsageError, match="0 Conv2d in Sequential"):
        replace(nn.Sequential(nn.ReLU()), nn.Conv2d, Scaled)
    with pytest.raises(UsageError, match="itself a Conv2d"):
        replace(nn.Conv2d(1, 1, 1), nn.Conv2d, Scaled)


def test_convolutions_that_do_more_are_refused() -> None:
    model = nn.Sequential(Conv2dSame(18, 18, 3, stride=2))
    with pytest.raises(UsageError, match="does more than"):
        replace(model, nn.Conv2d, FDConv2d)
    assert replace(model, Conv2dSame, Scaled) == ["0"]


def test_size_is_for_operators_that_need_one() -> None:
    def build(conv: nn.Conv2d) -> nn.Module:
        return nn.Sequential(conv, nn.LayerNorm((8, 8)))

    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    with pytest.raises(UsageError, match="`size`"):
        replace(model, nn.Conv2d, build)
    assert replace(model, nn.Conv2d, build, size=(8, 8)) == ["0"]
