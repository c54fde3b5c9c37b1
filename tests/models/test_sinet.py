from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sinet.layers import SmallAttention

from .tester import ModelTester, create, images


class TestSiNet(ModelTester):
    module = "sinet"
    figures: ClassVar = {
        "sinet_test": (178_104, None),
        "sinet_tiny": (3_155_000, None),
        "sinet_small": (6_353_312, None),
        "sinet_base": (13_701_896, None),
        "sinet_large": (44_205_176, None),
    }


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("sinet_tiny", 0.6, 1.2),
        ("sinet_small", 1.5, 3.0),
        ("sinet_base", 4.0, 8.0),
        ("sinet_large", 10.0, 30.0),
    ],
)
def test_gflops_at_224_px(name: str, low: float, high: float) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        timm.create_model(name).eval()(torch.empty(1, 3, 224, 224))
    assert low <= counter.get_total_flops() / 1e9 <= high  # FLOPs = 2 x MACs


def test_base_has_fewer_parameters_than_resnet50() -> None:
    with torch.device("meta"):
        ours, theirs = (timm.create_model(name) for name in ("sinet_base", "resnet50"))
    assert sum(p.numel() for p in ours.parameters()) < sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("options", "reductions"),
    [
        ({}, [4, 8, 16, 32]),
        ({"stem_stride": 1}, [2, 4, 8, 16]),
        ({"stem_stride": 1, "strides": [1, 2, 2, 2]}, [1, 2, 4, 8]),
        ({"strides": [2, 2, 2, 1]}, [4, 8, 16, 16]),
    ],
)
def test_strides_for_small_images(options: dict[str, object], reductions: list[int]) -> None:
    backbone = create("sinet_test", features_only=True, **options)
    assert backbone.feature_info.reduction() == reductions
    maps = backbone(images(1, height=32, width=32))
    assert [32 // m.shape[-1] for m in maps] == reductions


@pytest.mark.parametrize("act", ["relu", "gelu", "silu", "hard_swish"])
def test_act_layer_reaches_every_activation(act: str) -> None:
    model = create("sinet_test", act_layer=act)
    kind = type(timm.layers.create_act_layer(act))
    acts = [m for m in model.modules() if isinstance(m, (nn.ReLU, nn.GELU, nn.SiLU, kind))]
    assert len(acts) == 1 + 5 + 1  # stem, one a block, head
    assert all(isinstance(m, kind) for m in acts)


def test_other_norm_stays_when_reparameterized() -> None:
    model = create("sinet_test", norm_layer="layernorm2d")
    x = images(1)
    torch.testing.assert_close(reparameterize_model(model)(x), model(x), atol=1e-5, rtol=1e-5)
    assert any(isinstance(m, nn.LayerNorm) for m in reparameterize_model(model).stages.modules())


def test_attention_is_cut_into_windows_when_the_input_grows() -> None:
    backbone = create("sinet_test", features_only=True)
    maps = backbone(images(1, height=320, width=272))  # stage 3 is 20 x 17: 2 x 2 windows
    assert maps[2].shape[-2:] == (20, 17)
    assert maps[2].isfinite().all()


def test_the_first_and_the_last_block_learn_alike_from_the_start() -> None:
    """Branches start at full strength (docs/decisions.md), and depth does not smother any."""
    torch.manual_seed(0)
    model = timm.create_model("sinet_base", num_classes=10)
    loss = torch.nn.functional.cross_entropy(model(torch.randn(8, 3, 64, 64)), torch.arange(8))
    loss.backward()
    first, last = model.stages[0][1], model.stages[3][2]
    norms = [
        (block.project.conv.weight.grad.norm() / block.project.conv.weight.norm()).item()
        for block in (first, last)
    ]
    assert min(norms) > 0
    assert max(norms) / min(norms) < 30


def test_drop_path_rises_with_depth() -> None:
    model = timm.create_model("sinet_test", drop_path_rate=0.2)
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for s in model.stages for b in list(s)[1:]]
    assert rates == sorted(rates)
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)


def test_reach_of_attention_is_a_stage_s_own() -> None:
    model = create("sinet_test", windows=(16, 16, 0, 4), sparse=(False, False, False, True))
    third, fourth = (m for m in model.modules() if isinstance(m, SmallAttention))
    assert (third.window, third.sparse) == (0, False)
    assert (fourth.window, fourth.sparse) == (4, True)
    x = images(1, height=160, width=192)
    assert not torch.allclose(model(x), create("sinet_test")(x), atol=1e-5)
