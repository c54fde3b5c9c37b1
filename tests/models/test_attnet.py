from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.layers import LayerScale2d, RmsNorm2d

from sinet.layers.at_conv import ATConv

from .tester import ModelTester, create


class TestAttNet(ModelTester):
    module = "attnet"
    figures: ClassVar = {
        "attnet_test": (147_277, None),
        "attnet_xxs": (2_853_556, 535_726_784),
        "attnet_xs": (5_554_902, 1.012e9),
        "attnet_s": (7_681_316, 1.336e9),
        "attnet_t1": (13_714_900, 2.434e9),
        "attnet_t2": (27_010_782, 5.110e9),
        "attnet_t3": (49_175_682, 9.415e9),
        "attnet_t4": (87_320_214, 16.773e9),
    }


@pytest.mark.parametrize(
    ("name", "glu_norm", "layer_scale"),
    [
        ("attnet_xxs", False, False),
        ("attnet_xs", False, True),
        ("attnet_s", False, False),
        ("attnet_t1", True, True),
    ],
)
def test_small_variants_leave_parts_out(name: str, glu_norm: bool, layer_scale: bool) -> None:
    with torch.device("meta"):
        kinds = {type(m) for m in timm.create_model(name).modules()}
    assert (RmsNorm2d in kinds) == glu_norm
    assert (LayerScale2d in kinds) == layer_scale


def test_hidden_width_is_truncated_twice() -> None:
    with torch.device("meta"):
        model = timm.create_model("attnet_xs")
    assert model.stages[0][0].mlp.dw.in_channels == 213  # int(2 * int(40 * 8) / 3)


def test_last_norm_has_another_epsilon() -> None:
    model = create("attnet_test")
    assert model.head.norm.eps == 1e-5
    assert model.stages[0][0].norm1.eps == 1e-6


def test_inhibition_escapes_weight_decay() -> None:
    model = create("attnet_test")
    mixers = sum(isinstance(m, ATConv) for m in model.modules())
    assert len(model.no_weight_decay()) == mixers == 5


def test_any_size_down_to_one_pixel_a_tap() -> None:
    model = create("attnet_test")
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()  # the last map is 1 x 1
