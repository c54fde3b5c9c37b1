"""The small trainings of dense networks: what they are judged by, and what is painted for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sinet.papers._dense import better, dice, loss, mean_dice, predict, trainings
from sinet.papers.attswinunet import lesions
from sinet.papers.base import Setting
from sinet.papers.hdenseunet import volumes


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def draw(source: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(count, 1, 8, 8, generator=source)
    return images, (images[:, 0] > 0).long()


def test_dice_is_that_of_the_definition() -> None:
    truth = torch.tensor([[0, 1, 1, 2]])
    found = torch.tensor([[0, 1, 0, 2]])
    assert dice(found, truth, 1) == pytest.approx(200 / 3)
    assert mean_dice(found, truth, 3) == pytest.approx((200 / 3 + 100) / 2)


def test_loss_falls_to_nothing_where_the_network_is_right() -> None:
    _, labels = draw(generator(), 2)
    right = 50 * (2 * nn.functional.one_hot(labels, 2).movedim(-1, 1).float() - 1)
    assert loss(right, labels) < 1e-6
    assert loss(-right, labels) > 50
    assert loss([right, -right], labels) == pytest.approx(float(loss(-right, labels)) / 2)


def test_trainings_are_kept_and_decide_by_the_spread_of_seeds(tmp_path: Path) -> None:
    images, labels = draw(generator(), 4)

    def measure(model: nn.Module) -> dict[str, float]:
        return {"dice": dice(predict(model, images), labels, 1)}

    def train(arms: dict[str, type[nn.Module]]) -> dict[str, list[dict[str, float]]]:
        builders = {name: lambda made=made: made(1, 2, 1) for name, made in arms.items()}
        return trainings(
            Setting(quick=False, work=tmp_path), builders, draw, measure,
            steps=60, batch_size=4, lr=0.3, seeds=(0, 1),
        )  # fmt: skip

    results = train({"sees": nn.Conv2d})
    assert all(run["dice"] > 95 for run in results["sees"])
    assert train({"sees": nn.Linear}) == results  # which could not be trained on images
    results["blind"] = [{"dice": 50.0}, {"dice": 52.0}]
    finding = better("claim", "paper", results, {"data": "d"}, by="dice", ours="sees",
                     others=["blind"])  # fmt: skip
    assert finding.verdict == "confirmed"
    assert finding.measured["data"] == "d"
    assert set(finding.measured["dice"]) == {"sees", "blind"}


def test_lesions_are_darker_than_the_skin_around() -> None:
    images, labels = lesions(generator(), 8, 64)
    assert images.shape == (8, 3, 64, 64)
    share = labels.float().mean((1, 2))
    assert ((share > 0.01) & (share < 0.7)).all()
    grey = images.mean(1)
    assert grey[labels == 1].mean() < grey[labels == 0].mean() - 0.2


def test_decoys_differ_from_lesions_along_the_third_axis_only() -> None:
    images, labels, decoys = volumes(generator(), 8, (64, 64, 12))
    assert images.shape == (8, 1, 64, 64, 12)
    lesion = labels == 2
    assert not (lesion & decoys).any()
    assert decoys.any((1, 2, 3)).all()
    assert lesion.any((1, 2, 3)).all()

    def thickness(mask: torch.Tensor) -> float:
        along = mask.sum(-1)
        return float(along[along > 0].float().mean())

    assert thickness(lesion) > 3 * thickness(decoys)
    values = images[:, 0]
    assert abs(values[lesion].mean() - values[decoys].mean()) < 8
