from __future__ import annotations

import math
from typing import ClassVar

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.measurement.cost import cost
from sinet.models.patnet import (
    Block,
    ChannelGate,
    DistanceAttention,
    PartialProject,
    distance_buckets,
)

from .tester import ModelTester, create, images


class TestPATNet(ModelTester):
    module = "patnet"
    figures: ClassVar = {
        "patnet_test": (364_708, None),
        "patnet_t0": (3_558_240, 0.2433e9),
        "patnet_t1": (6_144_876, 0.540e9),
        "patnet_t2": (12_651_072, 1.078e9),
        "patnet_s": (28_976_352, 2.828e9),
        "patnet_m": (61_367_424, 6.996e9),
        "patnet_l": (104_465_984, 12.47e9),
    }

    def side(self, size: int, reduction: int) -> int:
        """Patches do not overlap and are not padded: what is left over is dropped."""
        return size // reduction


def test_merged_form_is_exact() -> None:
    model, x = create("patnet_test").double(), images().double()
    fused = reparameterize_model(model)
    torch.testing.assert_close(fused(x), model(x), atol=1e-12, rtol=1e-12)
    projects = [m for m in fused.modules() if isinstance(m, PartialProject)]
    assert len(projects) == 5
    assert all(isinstance(m.mix, nn.Identity) and m.conv.bias is not None for m in projects)
    # what stays is the norm behind each product, which no convolution can take in
    norms = [name for name, m in fused.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(name.endswith(("project.norm", "attn.norm")) for name in norms)


def test_merging_saves_what_the_paper_says() -> None:
    """A quarter of the squared width a pixel and layer; merged MACs are those of the card."""
    model = timm.create_model("patnet_t2")
    merged = cost(reparameterize_model(model.eval()), 224)
    assert merged.macs == pytest.approx(1.033e9, rel=0.002)


def test_rpe_uses_rounded_euclidean_distance() -> None:
    buckets = distance_buckets()
    assert buckets[:21].tolist() == list(range(40, 61))
    assert buckets[-1] == 80
    assert (buckets.diff() >= 0).all()
    attn = DistanceAttention(12, 2)
    nn.init.normal_(attn.bias_table)
    bias = attn.bias(5, 30)
    assert bias.shape == (2, 150, 150)
    for one, other in (((0, 0), (0, 0)), ((0, 0), (4, 3)), ((4, 29), (0, 0)), ((2, 1), (3, 29))):
        t = round(math.hypot(one[0] - other[0], one[1] - other[1]))
        g = t if t <= 20 else min(40, round(20 + 20 * math.log(t / 20) / math.log(8)))
        i, j = (y * 30 + x for y, x in (one, other))
        assert bias[:, i, j].equal(attn.bias_table[:, 40 + g])


def test_gate_reads_the_unbiased_spread() -> None:
    torch.manual_seed(0)
    gate, x = ChannelGate(6).eval().double(), torch.randn(2, 6, 4, 5).double()
    kept: list[torch.Tensor] = []
    gate.fc.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
    gate(x)
    torch.testing.assert_close(kept[0][..., 0, 0], x.mean((2, 3)))
    torch.testing.assert_close(kept[0][..., 0, 1], x.flatten(2).std(2))


def test_blank_and_tiny_images_are_fine() -> None:
    model = create("patnet_test").train()
    model(torch.zeros(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(images(1, 3, 32, 32)).isfinite().all()  # one position in the last stages


def test_only_the_last_stage_attends_and_has_two_shortcuts() -> None:
    model = create("patnet_test")
    for i, stage in enumerate(model.stages):
        blocks = [block for block in stage if isinstance(block, Block)]
        assert {block.mixer_shortcut for block in blocks} == {i == 3}


def test_the_mlp_half_is_an_option() -> None:
    plain, usual = (create("patnet_test", partial_mlp=on) for on in (False, True))
    assert not [m for m in plain.modules() if isinstance(m, PartialProject)]
    assert plain(images()).shape == usual(images()).shape
