from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.utils import reparameterize_model

from sinet.layers.dcls import DCLS2d
from sinet.measurement.cost import cost
from sinet.models.dcls import convert

from .tester import ModelTester, create, images


class TestDCLS(ModelTester):
    module = "dcls"
    # making the dense kernels counts here, 65 MMACs in tiny; the published multiply-adds are those
    # of the merged form: tiny's is checked below, and that these are within 5% of them in
    # tests/papers/test_published.py
    figures: ClassVar = {
        "dcls_test": (104_704, None),
        "convnext_dcls_tiny": (28_587_688, 5_035_424_448),
        "convnext_dcls_small": (50_217_064, 9_680_134_656),
        "convnext_dcls_base": (88_582_632, 16_683_292_672),
        "resnet50_dcls": (24_008_744, 12_618_100_736),
    }

    def side(self, size: int, reduction: int) -> int:
        """Patches that do not fit are left out."""
        return size // reduction


def test_merged_form_has_the_published_multiply_adds() -> None:
    merged = reparameterize_model(timm.create_model("convnext_dcls_tiny"), inplace=True)
    assert cost(merged, 224).macs / 1e9 == pytest.approx(4.98, rel=0.01)
    assert not any(isinstance(m, DCLS2d) for m in merged.modules())


def test_network_merges_exactly() -> None:
    model = create("dcls_test").double()
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):  # starts at nothing
            parameter.data.fill_(0.5)
    x = images(2, 3, 64, 96).double()
    torch.testing.assert_close(reparameterize_model(model)(x), model(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["convnext_dcls_tiny", "resnet50_dcls"])
def test_positions_are_shared_in_a_stage_and_never_decay(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert len(model.no_weight_decay()) == 4
    assert model.no_weight_decay() <= set(model.state_dict())


def test_every_spatial_convolution_is_replaced() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50_dcls")
    layers = [m for m in model.modules() if isinstance(m, DCLS2d)]
    assert len(layers) == 16
    assert {layer.window for layer in layers} == {(7, 7)}
    assert sum(layer.stride in (2, (2, 2)) for layer in layers) == 3


def test_the_last_block_s_positions_count() -> None:
    first, last = torch.zeros(2, 4, 1, 3), torch.ones(2, 4, 1, 3)
    theirs = {
        "downsample_layers.0.0.weight": torch.zeros(4, 3, 4, 4),
        "stages.0.0.dwconv.P": first,
        "stages.0.10.dwconv.P": last,
        "stages.0.9.dwconv.P": first,
    }
    assert convert(theirs)["stages.0.blocks.0.conv_dw.P"].equal(last)
    assert len(convert(theirs)) == 2
