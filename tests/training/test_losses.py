"""Losses over pixels, against what they are by definition."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sinet.data.masks import VOID
from sinet.training.losses import LOSSES, dice, lovasz, pixel_loss


@pytest.fixture
def truth() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 4, (2, 6, 7))


def certain(truth: torch.Tensor) -> torch.Tensor:
    hot = F.one_hot(truth.where(truth != VOID, 0), 4).movedim(-1, 1).float()
    return 60 * hot


@pytest.mark.parametrize("name", LOSSES)
def test_void_pixels_count_for_nothing(name: str, truth: torch.Tensor) -> None:
    logits = torch.randn(2, 4, 6, 7, requires_grad=True)
    truth[:, :2] = VOID
    loss = pixel_loss(name, logits, truth)
    loss.backward()
    assert loss.item() > 0
    assert logits.grad is not None
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 2:].any()
    changed = logits.detach().clone()
    changed[:, :, :2] += 5
    assert pixel_loss(name, changed, truth).item() == pytest.approx(loss.item(), rel=1e-5)
    nothing = torch.full_like(truth, VOID)
    assert pixel_loss(name, logits, nothing).isfinite()


@pytest.mark.parametrize("name", LOSSES)
def test_a_certain_right_answer_costs_nothing(name: str, truth: torch.Tensor) -> None:
    assert pixel_loss(name, certain(truth), truth).item() == pytest.approx(0, abs=1e-5)


def test_cross_entropy_is_torchs(truth: torch.Tensor) -> None:
    logits = torch.randn(2, 4, 6, 7)
    ours = pixel_loss("ce", logits, truth, 0.1)
    assert ours == pytest.approx(F.cross_entropy(logits, truth, label_smoothing=0.1).item())


def test_lovasz_of_a_hard_answer_is_one_minus_iou(truth: torch.Tensor) -> None:
    said = truth.roll(1, 2)
    iou = [
        ((said == c) & (truth == c)).sum() / ((said == c) | (truth == c)).sum() for c in range(4)
    ]
    assert lovasz(certain(said), truth).item() == pytest.approx(1 - sum(iou).item() / 4, abs=1e-4)


def test_dice_of_a_hard_answer(truth: torch.Tensor) -> None:
    said = truth.roll(1, 2)
    each = [
        (2 * ((said == c) & (truth == c)).sum() + 1) / ((said == c).sum() + (truth == c).sum() + 1)
        for c in range(4)
    ]
    assert dice(certain(said), truth).item() == pytest.approx(1 - sum(each).item() / 4, abs=1e-4)


def test_named_losses_are_added(truth: torch.Tensor) -> None:
    logits = torch.randn(2, 4, 6, 7)
    both = pixel_loss("ce", logits, truth) + pixel_loss("dice", logits, truth)
    assert pixel_loss("ce+dice", logits, truth) == pytest.approx(both.item())
