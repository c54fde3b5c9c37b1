from __future__ import annotations

from typing import ClassVar

import timm
import torch

from .tester import ModelTester


class TestPlainConvNet(ModelTester):
    module = "plain_convnet"
    figures: ClassVar = {
        "plain_convnet_test": (349_960, None),
        "plain_convnet50": (22_780_456, None),
    }
    no_drop_path: ClassVar = dict.fromkeys(figures, "no layer has a way around it")


def test_it_is_a_resnet_without_its_shortcuts() -> None:
    with torch.device("meta"):
        plain, residual = timm.create_model("plain_convnet50"), timm.create_model("resnet50")
    shared = {k: v.shape for k, v in residual.state_dict().items() if "downsample" not in k}
    assert {k: v.shape for k, v in plain.state_dict().items()} == shared


def test_a_block_has_no_way_around_it() -> None:
    block = timm.create_model("plain_convnet50").layer1[1].eval()
    torch.nn.init.zeros_(block.conv2.weight)
    one, other = (block(torch.randn(2, 256, 4, 4)) for _ in range(2))
    assert one.equal(other)


def test_norms_let_signals_through_from_the_start() -> None:
    blocks = timm.create_model("plain_convnet50").layer4
    assert all(block.bn3.weight.all() for block in blocks)
