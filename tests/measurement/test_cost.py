"""Costs are known exactly for layers small enough to count by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sinet.measurement.cost import cost


class Attention(nn.Module):
    """Scaled dot-product attention of every pixel with every other, one head of `c` channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize(
    ("layer", "channels", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 3, 16 * 16 * 8 * 3 * 9),
        (nn.Conv2d(8, 8, 3, stride=2, padding=1), 8, 8 * 8 * 8 * 8 * 9),
        (nn.Conv2d(8, 8, 5, padding=2, groups=8), 8, 16 * 16 * 8 * 25),
        (nn.Conv2d(8, 16, 1, groups=4), 8, 16 * 16 * 16 * 2),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 10)), 3, 3 * 256 * 10),
        (Attention(), 4, 2 * 256 * 256 * 4),
        (nn.ReLU(), 3, 0),
    ],
    ids=["dense", "strided", "depthwise", "grouped", "linear", "attention", "relu"],
)
def test_multiply_adds(layer: nn.Module, channels: int, macs: int) -> None:
    assert cost(layer, 16, channels).macs == macs


def test_parameters_bytes_and_activations() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    found = cost(network, (16, 20), 3)
    assert found.params == 3 * 8 * 9 + 8 + 2 * 8
    assert found.bytes == 4 * (found.params + 2 * 8) + 8, "running statistics and their counter"
    assert found.activations == 8 * 16 * 20, "what the convolution writes, the norm's not counted"


def test_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    cost(network, 8, 3)
    assert network.training
    assert all(p.device.type == "cpu" for p in network.parameters())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not network[0]._forward_hooks
