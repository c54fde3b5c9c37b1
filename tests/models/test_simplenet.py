from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.models.simplenet import convert

from .tester import ModelTester, create, images


class TestSimplenet(ModelTester):
    module = "simplenet"
    figures: ClassVar = {
        "simplenet_test": (411_368, None),
        "simplenet_cifar_310k": (312_362, 55.8e6),
        "simplenet_cifar_460k": (456_446, None),  # the Caffe order; the published name's count
        "simplenet_cifar_5m": (5_498_378, 652e6),
        "simplenet_cifar_8m": (8_585_610, None),
        "simplenetv1_small_m1_05": (1_506_792, 341e6),
        "simplenetv1_small_m2_05": (1_506_792, 428e6),
        "simplenetv1_small_m1_075": (3_287_272, 759e6),
        "simplenetv1_small_m2_075": (3_287_272, 954e6),
        "simplenetv1_5m_m1": (5_752_808, 1.342e9),
        "simplenetv1_5m_m2": (5_752_808, 1.689e9),
        "simplenetv1_9m_m1": (9_508_968, 2.774e9),
        "simplenetv1_9m_m2": (9_508_968, 3.555e9),
    }
    size = 32
    no_drop_path: ClassVar = dict.fromkeys(figures, "no layer has a way around it")
    odd = 40  # poolings round down and strides up, see the test of odd maps below

    def side(self, size: int, reduction: int) -> int:
        return size // reduction


@pytest.mark.parametrize(
    ("name", "sides"),
    [("simplenet_test", [38, 19, 10, 5, 2]), ("simplenet_cifar_310k", [75, 37, 18, 9, 4])],
)
def test_strides_round_up_and_poolings_down(name: str, sides: list[int]) -> None:
    maps = create(name, features_only=True)(images(1, 3, 75, 75))
    assert [m.shape[-1] for m in maps] == sides


def test_order_of_the_pytorch_file() -> None:
    with torch.device("meta"):
        model = timm.create_model("simplenet_cifar_460k", pointwise=(10, 11))
    assert sum(p.numel() for p in model.parameters()) == 385_790


def test_head_takes_the_largest_value_of_each_whole_channel() -> None:
    model, x = create("simplenet_test"), images()
    hidden = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(hidden, model.forward_features(x).amax((2, 3)))


def test_whole_channels_are_dropped_but_not_before_a_pooling() -> None:
    model = timm.create_model("simplenet_cifar_310k", layer_drop_rate=0.2)
    rates = [layer.drop.p for layer in model.layers]
    assert [i for i, rate in enumerate(rates) if rate == 0] == [3, 6, 8, 11, 12]
    assert [layer.pool[1].p for layer in model.layers if len(layer.pool)] == [0.2] * 4
    assert all(isinstance(layer.drop, nn.Dropout2d) for layer in model.layers)


def test_fused_layers_are_exact() -> None:
    model, x = create("simplenet_cifar_310k").double(), images(2, 3, 32, 32).double()
    fused = reparameterize_model(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(fused(x), model(x), atol=1e-12, rtol=1e-12)


def test_own_names_pass_unchanged() -> None:
    state = create("simplenet_test").state_dict()
    assert list(convert(state)) == list(state)
