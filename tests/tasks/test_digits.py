"""Numbers of several digits: their training, what their file gives, and how that is counted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tester import TaskTester
from torch import nn

from sinet.data.dataset import ImageDataset, Split
from sinet.data.numbers import NO_DIGIT, Number, presence
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.errors import UsageError
from sinet.heads.digits import digits_head
from sinet.models.spec import ModelSpec
from sinet.models.svhn_multidigit import NumberLogits, read_numbers
from sinet.models.svhn_multidigit import coverage_at as models_coverage
from sinet.tasks.digits import Digits
from sinet.tasks.signatures import Described, signature
from sinet.tasks.signatures.digits import coverage_at

NAMES = [str(i) for i in range(10)]
IDS: list[int | str] = list(range(10))
PREPROCESS = Preprocess(16, 3, (0.5,) * 3, (0.25,) * 3, fit="stretch")


def numbers(count: int, seed: int = 0) -> Split:
    """Five bars; the brightness of each says its digit, a dark one that there is none."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 12, 30, 3), np.uint8)
    truths = []
    for i, image in enumerate(images):
        digits = tuple(int(d) for d in rng.integers(0, 10, rng.integers(1, 6)))
        for place, digit in enumerate(digits):
            image[:, 6 * place : 6 * place + 6] = 70 + 18 * digit
        truths.append(Number(f"{seed}/{i}", digits))
    names = [f"{seed}/{i}" for i in range(count)]
    return Split(images, presence(truths), names, targets=truths)


def dataset() -> ImageDataset:
    splits = {"train": numbers(40), "val": numbers(11, seed=1)}
    return ImageDataset(Path("numbers"), "made here", NAMES, IDS, True, splits, task="digits")


class Tiny(nn.Module):
    """One dense layer and the heads."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 64), nn.ReLU())
        self.length, self.digits = nn.Linear(64, 7), nn.Linear(64, 5 * classes)

    def forward(self, x: torch.Tensor) -> NumberLogits:
        x = self.dense(x)
        return NumberLogits(self.length(x), self.digits(x).unflatten(1, (5, -1)))


class TestDigits(TaskTester):
    task = Digits
    metric_names = frozenset({"val/loss", "val/sequence", "val/character", "val/coverage98"})
    preprocess = PREPROCESS

    def data(self) -> ImageDataset:
        return dataset()

    def network(self) -> nn.Module:
        return Tiny()


def logits(count: int, classes: int = 10, places: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    length = 3 * torch.randn(count, places + 2, generator=rng)
    return length, 3 * torch.randn(count, places, classes, generator=rng)


@pytest.mark.parametrize("classes", [10, 11])
def test_the_tail_reads_as_the_paper_does(classes: int) -> None:
    length, digits = logits(200, classes)
    number, confidence = signature(facts()).tail()(torch.zeros(200, 1, 1, 3), length, digits)
    expected = read_numbers(length, digits)
    assert torch.equal(number, expected.digits)
    torch.testing.assert_close(confidence.log(), expected.log_prob)
    assert (number == NO_DIGIT).all(1).any()  # some are too long, or have no digit


def test_the_tail_finds_the_best_of_all_numbers() -> None:
    length, digits = logits(20, 3, 3)
    number, confidence = signature(facts()).tail()(torch.zeros(20, 1, 1, 3), length, digits)
    for i in range(20):
        p_length, p_digit = length[i].softmax(0), digits[i].softmax(1)
        every = {(-1,): float(p_length[4])}
        for n in range(4):
            for word in itertools.product(range(3), repeat=n):
                parts = [float(p_digit[place, c]) for place, c in enumerate(word)]
                every[word] = float(p_length[n]) * float(np.prod(parts))
        best = max(every, key=lambda word: every[word])
        assert float(confidence[i]) == pytest.approx(every[best], rel=1e-5)
        assert [d for d in number[i].tolist() if d >= 0] == [d for d in best if d >= 0]


def facts() -> Described:
    return Described("digits", NAMES, IDS, True, PREPROCESS)


def test_the_file_gives_number_and_confidence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Tiny().eval()
    body = export_network(network, (16, 16), 3, tmp_path / "body.onnx", ("length", "digits"))
    about = Metadata(NAMES, IDS, PREPROCESS, "net@16", True, task="digits")
    file = assemble(body, PREPROCESS, about, tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (6, 33, 70, 3), dtype=np.uint8)
    found = ort.InferenceSession(str(file)).run(["number", "confidence"], {"images": images})
    assert (found[0].dtype, found[0].shape) == (np.int64, (6, 5))
    assert (found[1].dtype, found[1].shape) == (np.float32, (6,))
    run = signature(facts()).eager(network, PreprocessModule(PREPROCESS))
    with torch.inference_mode():
        expected = run(torch.from_numpy(images))
    assert (found[0] == expected["number"].numpy()).all()
    np.testing.assert_allclose(found[1], expected["confidence"].numpy(), atol=1e-5)


def test_any_backbone_can_read() -> None:
    network = digits_head("sinet_test", img_size=(32, 48), drop_rate=0.1).eval()
    length, digits = network(torch.zeros(2, 3, 32, 48))
    assert (length.shape, digits.shape) == ((2, 7), (2, 5, 10))
    with pytest.raises(UsageError, match=r"images of 40 x 48 .* built for 32 x 48"):
        network(torch.zeros(1, 3, 40, 48))


def test_what_is_tried() -> None:
    usual = [ModelSpec("sinet_tiny", 64, {"stem_stride": 1}), ModelSpec("levit_conv_192", 224)]
    specs = Digits.specs(usual, dataset())
    assert {spec.backbone for spec in specs} == {"sinet_tiny"}  # the other wants squares of 224
    fitted = Digits.preprocessing(specs[0], dataset(), ((0.5,) * 3, (0.2,) * 3))
    assert (fitted.shape, fitted.fit) == ((64, 64), "stretch")
    assert specs[0].kwargs["img_size"] == 64


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("svhn_multidigit", {}, 54),
        ("svhn_multidigit_test", {"img_size": 24}, 24),
        ("digits_head", {"backbone": "sinet_test"}, 64),
    ],
)
def test_pictures_get_the_size_that_a_network_is_built_for(
    name: str, options: dict[str, Any], size: int
) -> None:
    stats = ((0.5,) * 3, (0.2,) * 3)
    fitted = Digits.preprocessing(ModelSpec(name, 128, options), dataset(), stats)
    assert fitted.shape == (size, size)
    with pytest.raises(UsageError, match="one number expected, such as 64"):
        Digits.preprocessing(ModelSpec(name, 128, {"img_size": [24, 40]}), dataset(), stats)


def test_an_eleventh_class_learns_that_there_is_no_digit() -> None:
    task = TestDigits().make()
    network = Tiny(11)
    batch = TestDigits().batch(task)
    task.loss(network(torch.zeros(8, 3, 16, 16)), batch[1]).backward()
    grads = network.digits.bias.grad.unflatten(0, (5, 11))
    assert (grads[4, 10] != 0).all()


def test_scores() -> None:
    split, task = numbers(6), signature(facts())
    truths = [task.truth(split, i) for i in range(6)]
    perfect, half = task.scorer(), task.scorer()
    sure = np.linspace(0.9, 0.4, 6, dtype=np.float32)
    perfect.update({"number": np.stack(truths), "confidence": sure}, truths)
    said = np.stack(truths)
    said[3:, 0] = (said[3:, 0] + 1) % 10
    half.update({"number": said, "confidence": sure}, truths)
    assert perfect.value() == perfect.characters() == perfect.coverage() == 1
    assert half.value() == half.coverage() == 0.5
    count = sum(len(number.digits) for number in split.targets)
    assert half.characters() == pytest.approx(1 - 3 / count)
    low, high = half.interval()
    assert low < 0.5 < high
    rows = half.per_class()
    assert rows[-1]["name"] == "all"
    assert sum(row["images"] for row in rows[:-1]) == rows[-1]["images"] == 6
    assert (half.per_input() <= perfect.per_input()).all()


def test_coverage_is_that_of_the_networks_own_file() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sure, right = rng.integers(0, 9, 30) / 9, rng.random(30) < 0.8
        for accuracy in (0.5, 0.8, 0.98):
            theirs = models_coverage(accuracy, torch.from_numpy(sure), torch.from_numpy(right))
            assert coverage_at(accuracy, sure, right) == pytest.approx(theirs)


def test_numbers_that_are_too_long_are_a_refusal() -> None:
    long = Number("a", (1, 2, 3, 4, 5, 6))
    assert long.length == 6
    assert (long.read() == NO_DIGIT).all()
    assert Number("b", (0, 7)).read().tolist() == [0, 7, -1, -1, -1]


def test_results_as_rows_json_and_picture() -> None:
    split, task = numbers(1), signature(facts())
    truth = task.truth(split, 0, np.arange(10))
    result = task.truth_result("a.png", truth)
    text = "".join(map(str, split.targets[0].digits))
    assert result.rows() == [{"number": text, "confidence": 1.0}]
    assert result.to_json()["number"] == text
    assert result.draw(split.image(0)).size == (30, 12)
    (failed,) = task.failed("b.png", "zero bytes").rows()
    assert set(failed.values()) == {""}
