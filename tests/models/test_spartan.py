from __future__ import annotations

from typing import ClassVar

import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.models.spartan import Block, ChannelMixer, SpatialMixer

from .tester import ModelTester, create, images


class TestSpaRTAN(ModelTester):
    module = "spartan"
    drop_path_after_last = True
    # the paper prints about 1.0 G, at 256 px; 0.818 G of the authors' code at 224 px is fvcore's
    # count: also 2 a BatchNorm output, 5 a GroupNorm output and 1 a pooled element, 18,665,472
    figures: ClassVar = {"spartan_test": (395_136, None), "spartan": (3_820_296, 0.7996e9)}

    def side(self, size: int, reduction: int) -> int:
        """The stem's steps are padded, the 2x2 ones between stages are not."""
        return -(-size // 4) // (reduction // 4)


def awake(name: str = "spartan_test") -> nn.Module:
    """The network with scales of 0.5, so that its branches matter."""
    model = create(name)
    for key, parameter in model.named_parameters():
        if key.endswith(("scale1", "scale2", "gamma")):
            parameter.data.fill_(0.5)
    return model


def test_merged_form_is_exact() -> None:
    model, x = awake().double(), images().double()
    fused = reparameterize_model(model)
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(fused(x), model(x), atol=1e-12, rtol=1e-12)


def test_pairs_are_complex_numbers() -> None:
    torch.manual_seed(0)
    mixer, x = ChannelMixer(8, 2, True).double(), torch.randn(2, 16, 3, 5).double()
    pairs = x.permute(0, 2, 3, 1).reshape(2, 3, 5, 8, 2).contiguous()
    product = torch.view_as_complex(pairs) * torch.view_as_complex(mixer.turn)
    expected = torch.view_as_real(product).reshape(2, 3, 5, 16).permute(0, 3, 1, 2)
    torch.testing.assert_close(mixer.turned(x), expected)


def test_only_the_strongest_of_the_input_channels_is_picked() -> None:
    torch.manual_seed(0)
    mixer, x = ChannelMixer(8, 2, True).eval().double(), torch.randn(1, 8, 4, 4).double()
    kept: list[torch.Tensor] = []
    mixer.conv.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
    mixer(x)
    theta, weight = nn.functional.gelu(mixer.theta(x)), mixer.proj(x)
    for y, column in ((0, 0), (3, 2)):
        j = int(x[0, :, y, column].argmax())
        products = (weight * theta)[0, :, y, column]
        expected = mixer.turned((products + products[j])[None, :, None, None])[0, :, 0, 0]
        torch.testing.assert_close(kept[0][0, :, y, column], expected)


def test_groups_change_in_the_middle() -> None:
    model = create("spartan_test")
    blocks = [(i, b) for i, s in enumerate(model.stages) for b in s if isinstance(b, Block)]
    for i, block in blocks:
        near, wide = block.smixer.near.conv, block.cmixer.conv.conv
        assert near.groups == (1 if i < 2 else near.in_channels)
        assert wide.weight.shape[1] == (1 if i < 2 else 2)


def test_the_boost_leaves_the_mean() -> None:
    mixer, x = SpatialMixer(16, True).eval(), images(1, 16, 8, 8)
    kept: list[torch.Tensor] = []
    mixer.near.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
    mixer(x)
    mixer.gamma.data.fill_(1)
    mixer(x)
    plain, boosted = kept
    torch.testing.assert_close(boosted.mean((2, 3)), plain.mean((2, 3)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(boosted.std((2, 3)), 2 * plain.std((2, 3)), atol=1e-5, rtol=1e-3)


def test_branches_matter_when_awake() -> None:
    """The battery runs at scales of 1e-5, where a wrong branch would hardly be seen."""
    model, x = awake(), images(1)
    exact = awake().double()(x.double())
    assert not torch.allclose(exact.float(), create("spartan_test")(x), atol=1e-2)
    torch.testing.assert_close(model(x).double(), exact, atol=1e-3, rtol=1e-3)
