from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.layers import SqueezeExcite
from torch import nn

from .tester import ModelTester, create, images


class TestMinspnet(ModelTester):
    module = "minspnet"
    figures: ClassVar = {
        "minspnet_test": (63_420, None),
        "minspnet_minimal": (478_336, None),
        "minspnet_small": (1_222_276, None),
        "minspnet_medium": (2_495_532, None),
        "minspnet_large": (6_080_204, None),
    }
    no_drop_path: ClassVar = {"minspnet_minimal": "as the article draws it, without options"}


def test_minimal_is_the_article_layer_by_layer() -> None:
    model = timm.create_model("minspnet_minimal")
    stem, act = model.stem
    assert (stem.conv.kernel_size, stem.conv.stride) == ((3, 3), (2, 2))
    assert isinstance(stem.bn, nn.BatchNorm2d)
    assert isinstance(act, nn.ReLU)
    blocks_a, *blocks_b = [list(stage) for stage in model.stages]
    assert len(blocks_a) == 3
    for block in blocks_a:
        assert (block.dw.conv.kernel_size, block.dw.conv.stride) == ((3, 3), (1, 1))
        assert block.dw.conv.groups == block.dw.conv.in_channels
        assert block.pw.conv.kernel_size == (1, 1)
        assert block.pw.conv.out_channels > block.pw.conv.in_channels  # expansion
        assert isinstance(block.attn, SqueezeExcite)
    assert [len(stage) for stage in blocks_b] == [1, 1, 1, 1]
    for (block,) in blocks_b:
        assert (block.dw.conv.kernel_size, block.dw.conv.stride) == ((5, 5), (2, 2))
        assert isinstance(block.attn, nn.Identity)
        assert block.shortcut.conv.stride == (2, 2)  # projected
    head = [m for m in model.head.modules() if isinstance(m, (nn.Linear, nn.ReLU))]
    assert [type(m) for m in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert head[0].out_features == 256


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_fusion_hears_every_late_stage(stage: int) -> None:
    model, x = create("minspnet_test"), images(1)
    kept: list[torch.Tensor] = []
    model.stages[stage].register_forward_hook(lambda _, __, out: kept.append(out))
    if stage < 3:  # silence the usual way on, so that only the skip connection is left
        for parameter in model.stages[stage + 1].parameters():
            parameter.data.zero_()
    out = model(x).square().sum()
    (gradient,) = torch.autograd.grad(out, kept)
    assert gradient.any()


@pytest.mark.parametrize("attn", ["se", "eca", "cbam", ["", "se", "se", "cbam"]])
def test_attention_can_be_chosen_or_left_out(attn: str | list[str]) -> None:
    without, with_it = (create("minspnet_test", attn_layer=a) for a in ("", attn))
    assert with_it(images(1)).shape == (1, 10)
    counts = [sum(p.numel() for p in model.parameters()) for model in (without, with_it)]
    assert counts[0] < counts[1]


def test_small_images_keep_larger_maps() -> None:
    for name in ("minspnet_minimal", "minspnet_test"):
        usual, small = (create(name, features_only=True, stem_stride=s) for s in (2, 1))
        halves = [r // 2 for r in usual.feature_info.reduction()]
        assert small.feature_info.reduction() == halves
        assert small(images(1))[-1].shape[-1] == 2 * usual(images(1))[-1].shape[-1]
