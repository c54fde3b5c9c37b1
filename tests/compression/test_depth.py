"""Networks that have learned several depths at once are cut to the first that is good enough."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sinet.compression.depth import shallowest
from sinet.models import create_network


@pytest.mark.parametrize(("drop", "depth"), [(0.005, 3), (0.03, 2), (1.0, 1), (0.0, 4)])
def test_the_first_depth_that_keeps_the_metric(drop: float, depth: int) -> None:
    network = create_network("unetpp_test", num_classes=2).eval()
    worth = {1: 0.5, 2: 0.88, 3: 0.899, 4: 0.9}
    found, metrics = shallowest(network, lambda shallow: worth[shallow.depth], drop)
    assert metrics == list(worth.values())
    assert found.depth == depth
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        heads = network.forward_heads(network.forward_features(x))
        assert torch.equal(found(x), heads[depth - 1])


def test_others_stay_as_they_are() -> None:
    for network in (nn.Conv2d(3, 3, 1), create_network("unetpp_test", deep_supervision=False)):
        found, metrics = shallowest(network, lambda _: pytest.fail("nothing to judge"), 1.0)
        assert found is network
        assert metrics == []
