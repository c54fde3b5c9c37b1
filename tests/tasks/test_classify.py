from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from tester import TaskTester
from torch import nn

from sinet.data.dataset import ImageDataset
from sinet.tasks.classify import Classify
from sinet.training.evaluate import evaluate
from sinet.training.loader import eval_batches
from sinet.training.recipe import Recipe


class TestOneLabel(TaskTester):
    task = Classify
    metric_names = frozenset({"val/loss", "val/top1", "val/f1"})

    def data(self) -> ImageDataset:
        return tiny.dataset()

    def network(self) -> nn.Module:
        return tiny.TinyNet(4)


class TestManyClasses(TestOneLabel):
    metric_names = frozenset({"val/loss", "val/top1", "val/top5", "val/f1"})

    def data(self) -> ImageDataset:
        return tiny.dataset(classes=7)

    def network(self) -> nn.Module:
        return tiny.TinyNet(7)


class TestSeveralLabels(TaskTester):
    task = Classify
    metric_names = frozenset({"val/loss", "val/map", "val/f1"})

    def data(self) -> ImageDataset:
        return tiny.multilabel()

    def network(self) -> nn.Module:
        return tiny.TinyNet(3)


class Oracle(nn.Module):
    """Gives the logits it was made with, whatever it sees."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[: len(x)]


def make(data: ImageDataset, network: nn.Module, **recipe: object) -> Classify:
    return Classify(network, data, Recipe().replace(**recipe), tiny.PREPROCESS)


def test_metrics_of_known_predictions() -> None:
    data = tiny.dataset(val=10)
    labels = torch.from_numpy(data.val.labels)
    right = 10.0 * nn.functional.one_hot(labels, 4)
    right[0] = right[0].roll(1)  # one of ten is wrong
    task = make(data, Oracle(right))
    metrics = evaluate(task, task.network, eval_batches(task.val_source(), 10))
    assert metrics["val/top1"] == pytest.approx(0.9)
    assert metrics["val/loss"] == pytest.approx(1.0, abs=1e-2)  # 10 / 10 images


def test_multilabel_metrics_of_known_predictions() -> None:
    data = tiny.multilabel()
    task = make(data, Oracle(20 * torch.from_numpy(data.val.labels) - 10))
    metrics = evaluate(task, task.network, eval_batches(task.val_source(), 20))
    assert metrics["val/map"] == pytest.approx(1.0)
    assert metrics["val/f1"] == pytest.approx(1.0)
    assert metrics["val/loss"] < 1e-3


def test_smoothing_spreads_the_target() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0, 0.0]])
    task = make(tiny.dataset(), tiny.TinyNet(4), label_smoothing=0.2)
    soft = torch.tensor([[0.85, 0.05, 0.05, 0.05]])
    expected = -(soft * logits.log_softmax(1)).sum()
    assert task.loss(logits, torch.tensor([0])).item() == pytest.approx(expected.item())


def test_smoothing_of_several_labels_goes_towards_a_half() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.0]])
    task = make(tiny.multilabel(), tiny.TinyNet(3), label_smoothing=0.2)
    expected = nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor([[0.9, 0.1, 0.9]])
    )
    assert task.loss(logits, torch.tensor([[1.0, 0.0, 1.0]])).item() == pytest.approx(
        expected.item()
    )


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("data", [tiny.dataset(), tiny.multilabel()], ids=["one", "several"])
def test_blended_images_have_blended_targets(data: ImageDataset, kind: str) -> None:
    task = make(data, tiny.TinyNet(), crop="none", flip="none", **{kind: 1.0})
    plain = make(data, tiny.TinyNet(), crop="none", flip="none")
    batch = task.train_source().__getitems__(list(range(9)))  # an odd number too
    torch.manual_seed(0)
    images, targets = task.augment(batch, 16)
    original, labels = plain.augment(batch, 16)
    whole = labels if labels.ndim == 2 else nn.functional.one_hot(labels, 4).float()
    partner = whole.roll(1, 0)
    differs = (whole != partner).any(1)
    share = ((targets - partner) * (whole - partner)).sum(1)[differs] / (
        (whole - partner).square().sum(1)[differs]
    )
    assert torch.allclose(share, share[0].expand_as(share))  # one share for the batch
    assert 0 < share[0] < 1
    if kind == "mixup":
        expected = share[0] * original + (1 - share[0]) * original.roll(1, 0)
        assert torch.allclose(images, expected, atol=1e-5)
    else:
        kept = (images == original).all(1).float().mean((1, 2))
        assert torch.allclose(kept.mean(), share[0], atol=0.05)


def test_blending_can_be_rare() -> None:
    task = make(tiny.dataset(), tiny.TinyNet(), mixup=1.0, mix_prob=0.0)
    _, targets = task.augment(task.train_source().__getitems__([0, 1]), 16)
    assert targets.ndim == 1


def test_predictions_carry_the_users_own_names() -> None:
    data = tiny.dataset()
    logits = torch.tensor([[0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
    first, second = make(data, Oracle(logits)).predict(torch.zeros(2, 3, 16, 16))
    assert (first.label, first.id, first.labels) == ("class 1", 10, ("class 1",))
    assert (second.label, second.id) == ("class 3", 30)
    assert first.score == pytest.approx(first.probabilities.max().item())
    assert first.probabilities.sum().item() == pytest.approx(1.0)


def test_several_labels_are_those_above_one_half() -> None:
    logits = torch.tensor([[2.0, -2.0, 0.5]])
    (found,) = make(tiny.multilabel(), Oracle(logits)).predict(torch.zeros(1, 3, 16, 16))
    assert found.labels == ("r", "b")
    assert found.label == "r"


def test_mirroring_averages_both_views() -> None:
    class LeftHalf(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., :8].mean((2, 3))

    images = torch.randn(2, 3, 16, 16)
    plain, both = (make(tiny.dataset(), LeftHalf(), tta=tta).eval() for tta in (False, True))
    assert torch.allclose(plain.outputs(images), images[..., :8].mean((2, 3)))
    assert torch.allclose(both.outputs(images), images.mean((2, 3)), atol=1e-6)


def test_several_labels_are_learned(tmp_path: Path) -> None:
    recipe = Recipe(epochs=15, batch_size=12, lr=0.03, mixup=0.2, label_smoothing=0.05)
    trained = tiny.run(tmp_path, recipe, tiny.multilabel())
    assert trained.multilabel
    assert trained.metrics["val/map"] > 0.95


def test_images_of_different_sizes_are_learned(tmp_path: Path) -> None:
    data = tiny.dataset(24, 8)
    for split in data.splits.values():
        split.items = [tiny.png(pixels, 16 + i % 5) for i, pixels in enumerate(split.items)]
    recipe = Recipe(epochs=10, batch_size=8, lr=0.03, crop="resized", progressive=0.5)
    first = tiny.run(tmp_path / "a", recipe, data)
    assert first.metrics["val/top1"] > 0.5
    assert tiny.identical(first, tiny.run(tmp_path / "b", recipe, data))
