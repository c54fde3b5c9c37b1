"""The fixed points of self-normalizing networks, against closed forms and against simulation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sinet.errors import UsageError
from sinet.models._moments import (
    ALPHA,
    SCALE,
    FixedPointDropout,
    closed_form,
    constants_for,
    moment_map,
)


def test_the_closed_form_gives_selus_constants() -> None:
    assert closed_form() == pytest.approx((ALPHA, SCALE), abs=1e-14)
    assert constants_for(0, 1) == pytest.approx((ALPHA, SCALE), abs=1e-12)


def test_the_map_agrees_with_simulation() -> None:
    x = 0.2 + 1.3**0.5 * torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    seen = nn.functional.selu(x)
    numbers = (torch.tensor(v, dtype=torch.float64) for v in (0.2, 1.3, 1.0, 1.0))
    mean, variance = moment_map(*numbers)
    assert seen.mean().item() == pytest.approx(mean.item(), abs=4e-3)
    assert seen.var().item() == pytest.approx(variance.item(), abs=6e-3)


def test_other_fixed_points() -> None:
    assert constants_for(-0.1, 2.0) == pytest.approx((1.9769, 1.0739), abs=1e-4)
    with pytest.raises(UsageError, match=r"no constants of SELU keep mean 5 and variance 0\.01"):
        constants_for(5, 0.01)


@pytest.mark.parametrize(
    ("keep", "a", "b"),
    [(0.95, 0.954844, 0.083936), (0.9, 0.921285, 0.161971), (0.8, 0.878904, 0.309040)],
)
def test_dropouts_affine_map(keep: float, a: float, b: float) -> None:
    layer = FixedPointDropout(1 - keep)
    assert (layer.a, layer.b) == pytest.approx((a, b), abs=1e-6)


def test_dropout_is_pytorchs_at_the_usual_point() -> None:
    x = torch.full((10_000,), 0.5)
    ours, counts = FixedPointDropout(0.3).train()(x).unique(return_counts=True)
    theirs = nn.AlphaDropout(0.3).train()(x).unique()
    torch.testing.assert_close(ours, theirs)  # what is dropped becomes, and what is kept
    assert counts[0].item() == pytest.approx(3000, abs=250)


def test_dropout_keeps_another_point_too() -> None:
    alpha, scale = constants_for(-0.1, 2.0)
    layer = FixedPointDropout(0.2, -0.1, 2.0, -alpha * scale).train()
    x = -0.1 + 2**0.5 * torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    found = layer(x)
    assert found.mean().item() == pytest.approx(-0.1, abs=5e-3)
    assert found.var().item() == pytest.approx(2.0, abs=1e-2)
    assert torch.equal(layer.eval()(x), x)
    with pytest.raises(UsageError, match="dropout 1 given"):
        FixedPointDropout(1)
