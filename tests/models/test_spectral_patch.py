"""The patch-based baseline for hyperspectral scenes."""

from __future__ import annotations

import pytest
import torch

from sinet.models._networks import create_network


@pytest.mark.parametrize("side", [3, 5, 9, 12])
def test_a_patch_gives_the_logits_of_one_pixel(side: int) -> None:
    network = create_network("spectral_patch_test", in_chans=7, num_classes=5)
    x = torch.randn(2, 7, side, side)
    out = network(x)
    assert out.shape == (2, 5, 1, 1)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_an_answer_does_not_depend_on_the_batch() -> None:
    network = create_network("spectral_patch_test", in_chans=7, num_classes=5).eval().double()
    x = torch.randn(3, 7, 9, 9, dtype=torch.float64)
    assert torch.allclose(network(x)[:1], network(x[:1]))


def test_the_size_of_the_baseline() -> None:
    network = create_network("spectral_patch", in_chans=103, num_classes=9)
    assert sum(p.numel() for p in network.parameters()) == 435_671
