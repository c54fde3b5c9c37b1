from __future__ import annotations

import math
from typing import ClassVar

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXtBlock
from torch import nn

from sinet.models import load_state
from sinet.models.convnext import ConvNeXtIsotropic, convert

from .tester import ModelTester, create, images


class TestConvnextIsotropic(ModelTester):
    module = "convnext"
    figures: ClassVar = {
        "convnext_isotropic_test": (213_016, None),
        "convnext_isotropic_small": (22_308_712, 4.3e9),
        "convnext_isotropic_base": (87_083_752, 16.9e9),
        "convnext_isotropic_large": (305_905_640, 59.7e9),
    }

    def side(self, size: int, reduction: int) -> int:
        return size // reduction  # nothing is padded: what is left over is dropped


def theirs(name: str) -> str:
    """A name of ours in the authors' naming, of both forms."""
    for ours, other in (
        (".blocks.", "."),
        (".conv_dw.", ".dwconv."),
        (".mlp.fc", ".pwconv"),
        ("head.norm.", "norm."),
        ("head.fc.", "head."),
    ):
        name = name.replace(ours, other)
    return name


def test_isotropic_means_one_width_one_map_no_layer_scale() -> None:
    model = create("convnext_isotropic_test")
    assert [type(m) for m in model.stem] == [nn.Conv2d]
    shapes: set[torch.Size] = set()
    for block in model.blocks:
        assert block.gamma is None
        block.register_forward_hook(lambda _, __, out: shapes.add(out.shape))
    model(images(1, 3, 95, 64))
    assert shapes == {torch.Size((1, 48, 5, 4))}


def test_feature_maps_come_from_the_quarters_of_the_depth() -> None:
    with torch.device("meta"):
        model = timm.create_model("convnext_isotropic_small")
        backbone = timm.create_model("convnext_isotropic_small", features_only=True)
    ends = [info["module"] for info in model.feature_info]
    assert ends == ["blocks.3", "blocks.8", "blocks.12", "blocks.17"]
    maps = backbone(torch.empty(1, 3, 64, 64, device="meta"))
    assert [m.shape for m in maps] == [(1, 384, 4, 4)] * 4


def test_remainder_of_the_patches_is_dropped() -> None:
    model, x = create("convnext_isotropic_test"), images(1, 3, 79, 64)
    assert model(x).equal(model(x[:, :, :64]))


@pytest.mark.parametrize("scaled", [False, True])
def test_block_is_its_equation(scaled: bool) -> None:
    """The norm is over the channels of one position, the GELU exact, nothing after the sum."""
    torch.manual_seed(0)
    block = ConvNeXtBlock(8, ls_init_value=0.5 if scaled else None).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 8, 9, 5, dtype=torch.float64)
    y = block.conv_dw(x)
    mean = y.mean(1, keepdim=True)
    y = (y - mean) * ((y - mean).square().mean(1, keepdim=True) + 1e-6).rsqrt()
    y = y * block.norm.weight.view(-1, 1, 1) + block.norm.bias.view(-1, 1, 1)
    y = torch.einsum("bchw,dc->bdhw", y, block.mlp.fc1.weight)
    y = y + block.mlp.fc1.bias.view(-1, 1, 1)
    y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
    y = torch.einsum("bchw,dc->bdhw", y, block.mlp.fc2.weight)
    y = y + block.mlp.fc2.bias.view(-1, 1, 1)
    if scaled:
        y = y * block.gamma.view(-1, 1, 1)
    torch.testing.assert_close(block(x), x + y, atol=1e-12, rtol=1e-12)


def test_names_of_the_authors() -> None:
    model = create("convnext_isotropic_test")
    state = model.state_dict()
    assert convert(state).keys() == state.keys()
    renamed = {theirs(k).replace("stem.0.", "stem."): v for k, v in state.items()}
    expected = {"stem.bias", "blocks.5.dwconv.weight", "blocks.0.pwconv2.bias", "norm.weight"}
    assert expected | {"head.weight"} <= renamed.keys()
    other = ConvNeXtIsotropic(48, 6, num_classes=10).eval()
    report = load_state(other, renamed, "theirs")
    assert report.converted
    x = images(1)
    assert other(x).equal(model(x))


def test_timms_own_networks_take_the_names_of_the_authors() -> None:
    options = {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 24), "num_classes": 10}
    model = timm.create_model("convnext_tiny", **options).eval()
    renamed = {}
    for name, value in model.state_dict().items():
        name = name.replace("stem.", "downsample_layers.0.")
        for i in range(1, 4):
            name = name.replace(f"stages.{i}.downsample.", f"downsample_layers.{i}.")
        renamed[theirs(name)] = value
    assert {"downsample_layers.3.1.weight", "stages.1.1.gamma", "norm.bias"} <= renamed.keys()
    other = timm.create_model("convnext_tiny", **options).eval()
    assert load_state(other, renamed, "theirs").converted
    x = images(1, 3, 64, 96)
    assert other(x).equal(model(x))
