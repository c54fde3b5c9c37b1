"""The detection task: its training, what its file gives, and how that is counted."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tester import TaskTester
from torch import nn

from sinet.data.boxes import Boxes
from sinet.data.dataset import ImageDataset, Split
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.measurement.bench import settled
from sinet.models.spec import ModelSpec
from sinet.tasks._coco import Answers, Matches, as_coco, coco_precision
from sinet.tasks.detect import Detect, jitter_of
from sinet.tasks.signatures import Described, signature
from sinet.tasks.signatures.detect import MOST, Surest
from sinet.training.recipe import Recipe

CLASSES = ["disc", "bar"]
PREPROCESS = Preprocess(64, 3, (0.5,) * 3, (0.25,) * 3, width=96, fit="pad")


def scenes(count: int, seed: int = 0, shape: tuple[int, int] = (60, 80)) -> Split:
    """One to three bright rectangles, their colour says their class."""
    rng = np.random.default_rng(seed)
    height, width = shape
    images = rng.integers(0, 60, (count, height, width, 3))
    targets = []
    for i, image in enumerate(images):
        corners, labels = [], rng.integers(0, 2, rng.integers(1, 4))
        for label in labels:
            wide, high = rng.integers(12, 30, 2)
            x, y = rng.integers(0, width - wide), rng.integers(0, height - high)
            image[y : y + high, x : x + wide] = [230, 40, 40] if label else [40, 230, 40]
            corners.append((x, y, x + wide, y + high))
        targets.append(Boxes.of(f"{i}.xml", corners, labels))
    labels = np.ones((count, 2), np.float32)
    names = [f"{seed}/{i}.png" for i in range(count)]
    return Split(images.astype(np.uint8), labels, names, targets=targets)


def dataset() -> ImageDataset:
    splits = {"train": scenes(24), "val": scenes(9, seed=1)}
    root = Path("scenes")
    return ImageDataset(root, "made here", CLASSES, [3, 7], True, splits, task="detect")


def build(name: str = "light_detect", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return ModelSpec(name, 64, {"backbone": "sinet_test", **options}).create(2)


class TestDetect(TaskTester):
    task = Detect
    metric_names = frozenset({"val/map50", "val/map"})
    preprocess = PREPROCESS

    def data(self) -> ImageDataset:
        return dataset()

    def network(self) -> nn.Module:
        return build(width=16, blocks=1)


def test_what_is_tried_fits_the_images() -> None:
    data = dataset()
    usual = [ModelSpec("sinet_tiny", 64), ModelSpec("levit_conv_192", 224)]
    specs = Detect.specs(usual, data)
    assert {s.backbone for s in specs} == {"sinet_tiny"}  # the other wants squares of 224
    preprocess = Detect.preprocessing(specs[0], data, ((0.5,) * 3, (0.2,) * 3))
    assert preprocess.fit == "pad"
    assert preprocess.shape == (96, 128)


def test_a_smaller_size_moves_the_boxes_along() -> None:
    task = TestDetect().make()
    images, targets = TestDetect().batch(task)
    seen, moved = task.augment((images, targets), 32)
    assert seen.shape[2:] == (32, 64)
    assert torch.equal(moved[:, :2], targets[:, :2])
    assert torch.allclose(moved[:, 3], targets[:, 3] / 2)
    assert torch.allclose(moved[:, 2], targets[:, 2] * 64 / 96)


def test_a_recipe_says_how_images_change() -> None:
    plain = jitter_of(Recipe().replace(crop="none", flip="none"))
    assert (plain.scale, plain.shift, plain.flip, plain.mosaic) == (1.0, 0.0, False, 0.0)
    strong = jitter_of(Recipe.from_yaml("detect"))
    assert strong.scale == pytest.approx(0.4**-0.5)
    assert strong.mosaic == 0.5


def test_an_image_without_boxes_teaches_too() -> None:
    task = TestDetect().make()
    images, _ = TestDetect().batch(task)
    loss = task.training_step((images, torch.zeros(0, 6)), 0)
    loss.backward()
    assert loss.isfinite()


def facts(shape: tuple[int, int] = (64, 96)) -> Described:
    fitted = Preprocess(shape[0], 3, (0.5,) * 3, (0.25,) * 3, width=shape[1], fit="pad")
    return Described("detect", CLASSES, [3, 7], True, fitted)


class Fixed(nn.Module):
    """Known boxes whatever the image, as a network gives them."""

    def __init__(self, boxes: int = 400, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        start = torch.rand(1, boxes, 2, generator=draw) * torch.tensor([70.0, 40.0])
        size = 8 + 20 * torch.rand(1, boxes, 2, generator=draw)
        self.corners = nn.Parameter(torch.cat([start, start + size], -1))
        self.logits = nn.Parameter(3 * torch.randn(1, boxes, 2, generator=draw))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        zero = 0 * x.mean((1, 2, 3), keepdim=True)[:, 0]
        return self.logits + zero, self.corners + zero


def exported(network: nn.Module, known: Described, folder: Path) -> ort.InferenceSession:
    names = signature(known).raw
    body = export_network(network, known.preprocess.shape, 3, folder / "body.onnx", names)
    about = Metadata(CLASSES, [3, 7], known.preprocess, "net@64", True, task="detect")
    file = assemble(body, known.preprocess, about, folder / "model.onnx")
    return ort.InferenceSession(str(file))


@pytest.mark.parametrize("size", [(64, 96), (60, 80), (301, 200), (33, 250), (9, 8)])
def test_the_file_says_what_the_model_says(tmp_path: Path, size: tuple[int, int]) -> None:
    known, network = facts(), Fixed(60).eval()
    session = exported(network, known, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    names = list(signature(known).names)
    found = session.run(names, {"images": image})
    run = signature(known).eager(network, PreprocessModule(known.preprocess))
    with torch.inference_mode():
        expected = run(torch.from_numpy(image))
    for name, value in zip(names, found, strict=True):
        assert value.shape == expected[name].shape
        assert value.dtype == expected[name].numpy().dtype
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-5, atol=1e-3)
    boxes, scores, _ = found
    assert boxes.shape == (1, MOST, 4)
    assert 0 < (scores > 0).sum() < 60  # doubles are gone
    assert (boxes >= 0).all()
    assert (boxes[..., 2] <= size[1] + 1e-4).all()
    assert (boxes[..., 3] <= size[0] + 1e-4).all()


@pytest.mark.parametrize("name", ["light_detect", "retinanet", "fcos"])
def test_networks_become_files(tmp_path: Path, name: str) -> None:
    known, network = facts(), build(name).eval()
    session = exported(network, known, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (1, 50, 90, 3), dtype=np.uint8)
    logits, corners = session.run(["logits", "corners"], {"images": image})
    run = signature(known).eager(network, PreprocessModule(known.preprocess))
    with torch.inference_mode():
        expected = run(torch.from_numpy(image))
    np.testing.assert_allclose(logits, expected["logits"].numpy(), atol=1e-3)
    np.testing.assert_allclose(corners, expected["corners"].numpy(), atol=0.05)


@pytest.mark.parametrize("roi", ["align", "hroie"])
def test_two_stages_become_a_file(tmp_path: Path, roi: str) -> None:
    network = settled(build("faster_rcnn", width=16, roi=roi), (64, 96))
    network.rpn.head.cls_logits.weight.data *= 20  # proposals that differ
    file = export_network(network, (64, 96), 3, tmp_path / "x.onnx", ("logits", "corners"))
    session = ort.InferenceSession(str(file))
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images)
    assert [part.shape for part in expected] == [(3, 300, 2), (3, 300, 4)]
    for i in range(3):
        found = session.run(None, {"input": images[i : i + 1].numpy()})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[0], other[i].numpy(), atol=2e-3)
    assert (expected[0] > -19).any(-1).sum() > 200


def test_boxes_come_back_to_the_images_own_pixels() -> None:
    known = facts()
    height, width = 321, 200
    scale = min(64 / height, 96 / width)
    boxes = torch.tensor([[10.0, 20, 30, 60]])
    tail = Surest(known.preprocess)
    found = tail.placed(boxes * scale, torch.zeros(1, height, width, 3, dtype=torch.uint8))
    assert torch.allclose(found, boxes, atol=0.5)


def test_doubles_of_one_class_go_and_of_another_stay() -> None:
    tail = Surest(facts().preprocess)
    corners = torch.tensor([[[10.0, 10, 30, 30], [11, 10, 30, 30], [10, 10, 30, 30]]])
    logits = torch.tensor([[[3.0, -9], [2, -9], [-9, 1]]])
    boxes, scores, labels = tail(torch.zeros(1, 64, 96, 3, dtype=torch.uint8), logits, corners)
    assert labels[0, :2].tolist() == [0, 1]
    assert scores[0, :3].tolist() == pytest.approx([0.952574, 0.731059, 0.0], abs=1e-5)
    assert boxes[0, 0].tolist() == [10, 10, 30, 30]


def sample(
    images: int = 30, classes: int = 4, seed: int = 0, crowds: bool = True
) -> tuple[list[Answers], list[Boxes]]:
    """Answers that are right, nearly right and wrong, at scores with ties."""
    rng = np.random.default_rng(seed)
    answers, truths = [], []
    for i in range(images):
        count = rng.integers(0, 7)
        start = rng.uniform(0, 80, (count, 2))
        corners = np.concatenate([start, start + rng.uniform(5, 40, (count, 2))], 1)
        labels = rng.integers(0, classes - 1, count)
        crowd = rng.random(count) < 0.15 if crowds else None
        truths.append(Boxes.of(f"{i}", corners, labels, crowd))
        near = corners + rng.normal(0, 3, corners.shape)
        start = rng.uniform(0, 80, (5, 2))
        far = np.concatenate([start, start + rng.uniform(5, 40, (5, 2))], 1)
        said = np.concatenate([near, near + 1, far]).astype(np.float32)
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2] + 1)
        names = np.concatenate([labels, labels, rng.integers(0, classes, 5)])
        answers.append(Answers.of(said, rng.random(len(said)).round(2).astype(np.float32), names))
    return answers, truths


@pytest.mark.parametrize("crowds", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_count_is_that_of_pycocotools(seed: int, crowds: bool) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO
    cocoeval = pytest.importorskip("pycocotools.cocoeval").COCOeval
    answers, truths = sample(seed=seed, crowds=crowds)
    known, said = as_coco(answers, truths, 4)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco()
        truth.dataset = {"info": {}, **known}
        truth.createIndex()
        count = cocoeval(truth, truth.loadRes(said), "bbox")
        count.evaluate()
        count.accumulate()
        count.summarize()
    assert coco_precision(answers, truths, 4) == pytest.approx(count.stats[:2], abs=1e-6)
    ours = Matches(4)
    for found, boxes in zip(answers, truths, strict=True):
        ours.add(found, boxes)
    each = ours.precision()[0]
    theirs = count.eval["precision"][:, :, :, 0, -1].mean(1)  # IoU, class
    there = theirs[0] > -1
    np.testing.assert_allclose(each[there], theirs.T[there], atol=1e-6)
    assert np.isnan(each[~there]).all()


def test_weights_are_copies_of_images() -> None:
    answers, truths = sample(12)
    once, twice = Matches(4), Matches(4)
    weights = np.random.default_rng(0).integers(0, 3, 12)
    for i, times in enumerate(weights):
        once.add(answers[i], truths[i])
        for _ in range(times):
            twice.add(answers[i], truths[i])
    np.testing.assert_allclose(once.precision(weights[None])[0], twice.precision()[0], atol=0.02)


def test_scores_of_a_perfect_and_of_a_blind_answer() -> None:
    split, task = scenes(6), signature(facts())
    truths = [task.truth(split, i) for i in range(6)]
    perfect, blind = task.scorer(), task.scorer()
    for truth in truths:
        boxes, scores = np.zeros((1, MOST, 4), np.float32), np.zeros((1, MOST), np.float32)
        labels = np.zeros((1, MOST), np.int64)
        blind.update({"boxes": boxes, "scores": scores, "labels": labels}, [truth])
        boxes, scores, labels = boxes.copy(), scores.copy(), labels.copy()
        boxes[0, : len(truth)], scores[0, : len(truth)] = truth.corners, 0.9
        labels[0, : len(truth)] = truth.labels
        perfect.update({"boxes": boxes, "scores": scores, "labels": labels}, [truth])
    assert perfect.value() == pytest.approx(1.0)
    assert perfect.interval() == pytest.approx((1.0, 1.0))
    assert all(row["ap"] == pytest.approx(1) == row["recall"] for row in perfect.per_class())
    assert (perfect.per_input() == 1).all()
    assert blind.value() == 0
    assert blind.interval() == (0, 0)
    assert (blind.per_input() == 0).all()


def test_the_interval_holds_the_value() -> None:
    scorer = signature(facts()).scorer()
    scorer.answers, scorer.truths = sample(40, classes=2, crowds=False)  # type: ignore[attr-defined]
    low, high = scorer.interval()
    assert 0 < low < scorer.value() < high < 1


def test_classes_are_put_into_the_models_order() -> None:
    split, task = scenes(8), signature(facts())
    plain = task.truth(split, 2)
    turned = task.truth(split, 2, np.array([1, -1]))
    assert (turned.labels == 1).all()
    assert len(turned) == (plain.labels == 0).sum()


def test_results_as_rows_json_coco_and_picture() -> None:
    split, task = scenes(1), signature(facts())
    truth = task.truth(split, 0)
    result = task.truth_result("a.png", truth)
    rows = result.rows()
    assert [row["id"] for row in rows] == [[3, 7][label] for label in truth.labels]
    assert [row["x1"] for row in rows] == truth.corners[:, 0].tolist()
    assert result.to_json()["boxes"][0]["label"] in CLASSES
    entry = result.to_coco(5)[0]
    assert entry["image_id"] == 5
    assert entry["bbox"][2] == truth.corners[0, 2] - truth.corners[0, 0]
    image = split.image(0)
    assert (np.asarray(result.draw(image)) != image).any()
    failed = task.failed("b.png", "zero bytes")
    assert set(failed.rows()[0].values()) == {""}
    assert failed.to_json()["boxes"] == []
    assert failed.to_coco(1) == []


@pytest.mark.parametrize("name", ["retinanet", "fcos", "faster_rcnn"])
def test_torchvisions_detectors_learn(name: str) -> None:
    task = TestDetect().make(lr=1e-3)
    task.network = build(name)
    loss = task.training_step(TestDetect().batch(task), 0)
    loss.backward()
    assert loss.isfinite()
    given = [p.grad is not None for p in task.network.parameters()]
    assert np.mean(given) > 0.9
