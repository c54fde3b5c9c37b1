"""What the papers' cards publish about a network agrees with what is counted here."""

from __future__ import annotations

from decimal import Decimal

import pytest
import timm
import torch
from timm.utils import reparameterize_model

from sinet.measurement.cost import Cost, cost
from sinet.papers.base import Published, papers

CARDS = {slug: found.CARD for slug, found in papers().items()}
TOLERANCE = {"params": 0.015, "macs": 0.05}
"""Share of a published figure; where half a unit of its last digit is more, that counts."""
MERGED = ("unireplknet", "metamixer")
"""Papers whose figures are of the merged networks, without the branches of training."""
CUT = "the authors print 28 M for 28.59 M: cut, not rounded"
UNRESOLVED = "the paper's figure fits neither the authors' code nor ours, which agree"
EXCEPTIONS = {
    ("convnext_tiny", "params"): CUT,
    ("convnext_dcls_tiny", "params"): CUT,
    ("patnet_t0", "params"): UNRESOLVED,
    ("patnet_t1", "params"): UNRESOLVED,
    ("tiny_moat_0", "macs"): "1.1 G are 1.06 G rounded up, and count the softmax as well",
}
"""A figure that does not agree, and why."""
LARGE = 40
"""Millions of parameters from which a network is counted among the slow tests only."""


def cases() -> list[object]:
    """Every published network; the large ones and those that take long to count as slow."""
    return [
        pytest.param(
            slug,
            name,
            told,
            id=name,
            marks=[pytest.mark.slow] if (told.params or 0) > LARGE else [],
        )
        for slug, card in CARDS.items()
        for name, told in card.published.items()
    ]


def tolerance(field: str, printed: float) -> float:
    """How far from a printed figure ours may be, in its unit."""
    digit = Decimal(repr(printed)).as_tuple().exponent
    assert isinstance(digit, int)
    return max(TOLERANCE[field] * printed, 0.5 * 10.0**digit)


def count(slug: str, name: str, told: Published) -> Cost:
    """The network as its paper counts it; its multiply-adds only where the paper prints them."""
    with torch.device("meta"):
        model = timm.create_model(name)
        if slug in MERGED:
            model = reparameterize_model(model)
    if told.macs is None:
        return Cost(sum(p.numel() for p in model.parameters()), 0, 0, 0)
    channels, size, _ = timm.get_pretrained_cfg(name).input_size
    return cost(model, told.size or size, channels)


def test_published_names_are_models_of_their_card() -> None:
    assert sum(len(card.published) for card in CARDS.values()) > 80
    for card in CARDS.values():
        assert set(card.published) <= set(card.models), card.slug
        assert all(map(timm.is_model, card.published)), card.slug
        assert card.published or not card.caveat, f"{card.slug}: a caveat about nothing"


def test_published_figures_are_in_their_units() -> None:
    for card in CARDS.values():
        for name, told in card.published.items():
            assert any(x is not None for x in (told.params, told.macs, told.top1)), name
            assert told.top1 is None or 50 < told.top1 < 100, name
            assert told.size is None or told.macs or told.top1, f"{name}: a size of nothing"


@pytest.mark.parametrize(
    ("field", "printed", "expected"),
    [
        ("params", 28, 0.5),
        ("params", 28.0, 0.42),
        ("params", 0.014862, 0.000223),
        ("macs", 0.3, 0.05),
        ("macs", 271, 13.55),
    ],
)
def test_tolerance_follows_the_printed_digits(field: str, printed: float, expected: float) -> None:
    assert tolerance(field, printed) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("slug", "name", "told"), cases())
def test_published_figures_agree_with_ours(slug: str, name: str, told: Published) -> None:
    ours = count(slug, name, told)
    pairs = {"params": (told.params, ours.params / 1e6), "macs": (told.macs, ours.macs / 1e9)}
    for field, (theirs, found) in pairs.items():
        if theirs is None:
            continue
        agrees = abs(found - theirs) <= tolerance(field, theirs)
        told_so = EXCEPTIONS.get((name, field))
        assert agrees == (told_so is None), f"{name} {field}: {theirs} printed, {found:.6g} counted"


def test_exceptions_are_of_published_figures() -> None:
    published = {name: told for card in CARDS.values() for name, told in card.published.items()}
    for name, field in EXCEPTIONS:
        assert getattr(published[name], field) is not None, (name, field)
