from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.layers import LayerScale2d
from timm.utils import reparameterize_model
from torch import nn

from sinet.layers.ffnified_attention import RepDepthwise
from sinet.measurement.cost import cost
from sinet.models import load_state
from sinet.models.metamixer import FFNetSR, NormConvSkip

from .tester import ModelTester, create, images, lively


class TestFFNet(ModelTester):
    module = "metamixer"
    # the training form, which has a second kernel beside each of 7 x 7; the published multiply-adds
    # are those of the merged form and are checked below
    figures: ClassVar = {
        "ffnet_test": (402_872, None),
        "ffnet_1": (13_775_656, 3_000_681_472),
        "ffnet_2": (27_208_408, 6_060_932_608),
        "ffnet_3": (48_817_896, 10_235_590_656),
        "ffnet_4": (79_868_968, 43_422_097_408),
    }


def filled(module: nn.Module) -> nn.Module:
    """Random everywhere, as layer scales start at nothing."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.3)
    return lively(module).eval().double()


@pytest.mark.parametrize(
    ("name", "params", "gmacs"), [("ffnet_1", 13.66, 2.98), ("ffnet_2", 26.91, 6.00)]
)
def test_merged_form_has_the_published_cost(name: str, params: float, gmacs: float) -> None:
    found = cost(reparameterize_model(timm.create_model(name)), 256)
    assert found.params / 1e6 == pytest.approx(params, abs=0.005)
    assert found.macs / 1e9 == pytest.approx(gmacs, abs=0.01)


def test_network_merges_exactly() -> None:
    model = filled(timm.create_model("ffnet_test", num_classes=10))
    x = images(2, 3, 64, 80).double()
    merged = reparameterize_model(model)
    torch.testing.assert_close(merged(x), model(x), atol=1e-12, rtol=1e-12)
    norms = [name for name, m in merged.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == ["norm"]


def test_skip_is_taken_into_the_convolution() -> None:
    layer = filled(NormConvSkip(6))
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(layer.fuse()(x), layer(x), atol=1e-12, rtol=1e-12)


def test_merged_weights_load_into_a_merged_network() -> None:
    merged = reparameterize_model(create("ffnet_test"))
    other = reparameterize_model(timm.create_model("ffnet_test", num_classes=10)).eval()
    load_state(other, merged.state_dict(), "merged")
    assert other(images(1)).equal(merged(images(1)))


@pytest.mark.parametrize(
    ("name", "channel_large", "layer_scale"),
    [("ffnet_1", False, False), ("ffnet_2", True, False), ("ffnet_3", True, True)],
)
def test_variants_differ_as_published(name: str, channel_large: bool, layer_scale: bool) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    large = [isinstance(stage[-1].mixer.keys, RepDepthwise) for stage in model.stages]
    assert large == [False, False, True, True]
    assert isinstance(model.stages[0][0].mlp.dw, RepDepthwise) == channel_large
    assert isinstance(model.stages[0][0].ls1, LayerScale2d) == layer_scale


def test_super_resolution_starts_from_repeated_pixels() -> None:
    net = FFNetSR(scale=3, dim=8, depth=2).eval()
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    x = torch.randn(1, 3, 5, 7)
    larger = nn.functional.interpolate(x, scale_factor=3, mode="nearest")
    assert net(x).equal(larger)


def test_light_super_resolution_has_the_published_size() -> None:
    assert sum(p.numel() for p in FFNetSR().parameters()) == 1_789_452
