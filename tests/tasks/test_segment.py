"""The segmentation task: its training, what its file gives, and how that is counted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image
from tester import TaskTester
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex

import sinet.deployment
from sinet.data.dataset import ImageDataset, Split
from sinet.data.masks import VOID, Mask, MaskFormat
from sinet.data.preprocess import Preprocess
from sinet.data.regions import from_rle
from sinet.data.windows import Windows
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.deployment.predictor import Predictor
from sinet.models.spec import ModelSpec
from sinet.tasks.segment import Segment
from sinet.tasks.signatures import Described, signature
from sinet.tasks.signatures.segment import boundary_scores, confusion, mean_iou

CLASSES = ["sky", "tree", "road"]
PREPROCESS = Preprocess(16, 3, (0.5,) * 3, (0.25,) * 3, width=24, fit="stretch")


class Given(Mask):
    """A mask that is there already."""

    def __init__(self, pixels: np.ndarray) -> None:
        super().__init__("given", b"", MaskFormat(False, (0,), (0,)))
        object.__setattr__(self, "pixels", pixels)

    def read(self) -> np.ndarray:
        return self.pixels  # type: ignore[attr-defined]


def scenes(count: int, seed: int = 0, shape: tuple[int, int] = (20, 30)) -> Split:
    """Bands whose colour says their class, and a corner that counts for nothing."""
    rng = np.random.default_rng(seed)
    colours = np.array([[60, 60, 220], [40, 200, 40], [120, 120, 120]])
    masks = np.zeros((count, *shape), dtype=np.uint8)
    for mask in masks:
        first, second = sorted(rng.integers(3, shape[0] - 2, 2))
        mask[first:], mask[second:] = 1, 2
    images = (colours[masks] + rng.integers(-30, 30, (*masks.shape, 3))).clip(0, 255)
    masks[:, :2, :2] = VOID
    return Split(
        images.astype(np.uint8),
        np.ones((count, 3), np.float32),
        [f"{seed}/{i}.png" for i in range(count)],
        targets=[Given(mask) for mask in masks],
    )


def dataset() -> ImageDataset:
    splits = {"train": scenes(24), "val": scenes(9, seed=1)}
    root = Path("scenes")
    return ImageDataset(root, "made here", CLASSES, [0, 1, 2], True, splits, task="segment")


class TestSegment(TaskTester):
    task = Segment
    metric_names = frozenset({"val/loss", "val/miou", "val/dice", "val/pixels"})
    preprocess = PREPROCESS

    def data(self) -> ImageDataset:
        return dataset()

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, 1, 1)
        )


class Deep(nn.Module):
    """Two outputs in training, one in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        out: torch.Tensor = self.conv(x)
        return [out, F.avg_pool2d(out, 4)] if self.training else out


@pytest.mark.parametrize("loss", ["ce", "dice", "focal", "lovasz", "ce+dice"])
def test_deep_supervision_with_any_loss(loss: str) -> None:
    task = TestSegment().make(loss=loss)
    task.network = Deep()
    task.training_step(TestSegment().batch(task), 0).backward()
    assert task.network.conv.weight.grad.isfinite().all()


def test_what_is_tried_fits_the_images() -> None:
    data = dataset()
    usual = [ModelSpec("sinet_tiny", 64), ModelSpec("levit_conv_192", 224)]
    specs = Segment.specs(usual, data)
    assert {s.backbone for s in specs} == {"sinet_tiny"}  # the other wants squares of 224
    shape = Segment.preprocessing(specs[0], data, ((0.5,) * 3, (0.2,) * 3)).shape
    assert shape[0] % 32 == shape[1] % 32 == 0
    assert shape[1] > shape[0]  # as the images are


def facts(shape: tuple[int, int]) -> Described:
    size, width = shape
    fitted = Preprocess(size, 3, (0.5,) * 3, (0.25,) * 3, width=width, fit="stretch")
    return Described("segment", CLASSES, [0, 1, 2], True, fitted)


@pytest.mark.parametrize("size", [(16, 24), (31, 47), (8, 9), (64, 96)])
def test_the_file_gives_a_class_for_every_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    known = facts((16, 24))
    network = TestSegment().network().eval()
    body = export_network(network, (16, 24), 3, tmp_path / "body.onnx")
    about = Metadata(CLASSES, [0, 1, 2], known.preprocess, "net@16", True, task="segment")
    file = assemble(body, known.preprocess, about, tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    (found,) = ort.InferenceSession(str(file)).run(["classes"], {"images": images})
    assert found.dtype == np.uint8
    assert found.shape == (2, *size)
    from sinet.data.preprocess import PreprocessModule

    run = signature(known).eager(network, PreprocessModule(known.preprocess))
    with torch.inference_mode():
        expected = run(torch.from_numpy(images))["classes"].numpy()
    assert (found == expected).mean() > 0.995  # ties at the last digit aside


WINDOW = Preprocess(64, 3, (0.5,) * 3, (0.25,) * 3, width=96, fit="stretch", window=True)


@pytest.mark.parametrize("sides", [(64, 96), (50, 200), (200, 301), (30, 40)])
def test_large_images_are_seen_in_pieces(tmp_path: Path, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 3, 1)).eval()  # sees four pixels at once
    body = export_network(network, WINDOW.shape, 3, tmp_path / "body.onnx")
    about = Metadata(CLASSES, [0, 1, 2], WINDOW, "net@64", True, task="segment")
    file = assemble(body, WINDOW, about, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*sides, 3), dtype=np.uint8)
    found = Predictor(file, threads=1).run(image[None], raw=True)

    high, wide = (-(-side // 32) * 32 for side in sides)
    whole = np.pad(image, [(0, high - sides[0]), (0, wide - sides[1]), (0, 0)], mode="edge")
    planes = torch.from_numpy(whole).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        logits = network((planes - 0.5) / 0.25)
    rows, columns = logits.shape[2:]
    np.testing.assert_allclose(found["logits"][..., :rows, :columns], logits, atol=1e-4)
    assert found["classes"].shape == (1, *sides)

    Image.fromarray(image).save(tmp_path / "a.png")
    program = Path(sinet.deployment.__file__).with_name("templates") / "run_segment.py"
    shutil.copy(program, tmp_path / "run.py")
    subprocess.run([sys.executable, "run.py", "a.png"], cwd=tmp_path, check=True)
    assert (np.asarray(Image.open(tmp_path / "a.classes.png")) == found["classes"][0]).all()


def test_pieces_teach_every_pixel_once() -> None:
    data = large()
    fitted = Segment.preprocessing(ModelSpec("pyramid_seg", 512), data, ((0.5,) * 3, (0.2,) * 3))
    assert fitted.window
    assert fitted.shape == (512, 512)
    windows = Windows(data.val, fitted)
    images, masks = windows.batch(range(len(windows.cells)))
    assert images.shape[1:] == (3, 512, 512)
    truth = data.val.targets[0].read()
    counts = np.bincount(masks.numpy().ravel(), minlength=256)
    assert (counts[:3] == np.bincount(truth.ravel(), minlength=256)[:3]).all()
    draws = torch.Generator().manual_seed(0)
    for kind in ("resized", "none"):
        images, masks = windows.crops([0, 0], kind, 0.5, draws)
        assert images.shape == (2, 3, 512, 512)
        blue = images[:, 2] > 170  # as no other class is: image and mask were cut at one place
        assert ((masks == 0) == blue)[masks != VOID].float().mean() > 0.99


def large() -> ImageDataset:
    splits = {"train": scenes(1, shape=(1100, 1300)), "val": scenes(1, 1, (1100, 1300))}
    root = Path("scenes")
    return ImageDataset(root, "made here", CLASSES, [0, 1, 2], True, splits, task="segment")


def test_mean_iou_is_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    truth, found = (rng.integers(0, 3, (4, 9, 9)).astype(np.uint8) for _ in range(2))
    truth[:, 0] = VOID
    ours = mean_iou(sum(confusion(f, t, 3) for f, t in zip(found, truth, strict=True)))
    theirs = MulticlassJaccardIndex(3, ignore_index=VOID)
    theirs.update(torch.from_numpy(found).long(), torch.from_numpy(truth).long())
    assert ours == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_scores_of_a_perfect_and_of_a_blind_answer() -> None:
    split, task = scenes(3), signature(facts((16, 24)))
    truths = [task.truth(split, i) for i in range(3)]
    perfect, blind = task.scorer(), task.scorer()
    perfect.update({"classes": np.stack(truths)}, truths)
    blind.update({"classes": np.zeros_like(np.stack(truths))}, truths)
    assert perfect.value() == 1.0
    assert perfect.interval() == (1.0, 1.0)
    assert all(row["boundary f"] == pytest.approx(1.0) for row in perfect.per_class())
    assert 0 < blind.value() < 0.4
    low, high = blind.interval()
    assert low <= blind.value() <= high
    assert blind.per_class()[1]["iou"] == 0
    assert (blind.per_input() < perfect.per_input()).all()


def test_a_boundary_may_be_off_by_the_tolerance_but_no_more() -> None:
    truth = np.zeros((200, 200), np.uint8)
    truth[:, 100:] = 1
    shifted = [np.roll(truth, by, 1) for by in (0, 2, 12)]
    for mask in shifted:
        mask[:, :50], mask[:, 150:] = 0, 1
    exact, near, far = (boundary_scores(mask, truth, 2)[1] for mask in shifted)
    assert exact == pytest.approx(1.0)
    assert near == pytest.approx(1.0)
    assert far < 0.9


def test_classes_are_put_into_the_models_order() -> None:
    split, task = scenes(1), signature(facts((16, 24)))
    plain = task.truth(split, 0)
    turned = task.truth(split, 0, np.array([2, -1, 0]))
    assert (turned[plain == 0] == 2).all()
    assert (turned[plain == 1] == VOID).all()
    assert (turned[plain == VOID] == VOID).all()


def test_results_as_rows_json_and_picture() -> None:
    split, task = scenes(1), signature(facts((16, 24)))
    truth = task.truth(split, 0)
    result = task.truth_result("a.png", truth)
    (row,) = result.rows()
    assert row["sky"] == pytest.approx((truth == 0).mean(), abs=1e-6)
    stored = result.to_json()
    flat = np.concatenate([np.full(n, c) for c, n in stored["runs"]])
    assert (flat.reshape(stored["size"]) == truth).all()
    image = split.image(0)
    picture = np.asarray(result.draw(image))
    assert (picture[truth == VOID] == image[truth == VOID]).all()
    assert (picture[truth == 0] != image[truth == 0]).any()
    (failed,) = task.failed("b.png", "zero bytes").rows()
    assert set(failed.values()) == {""}


def test_classes_as_coco_entries() -> None:
    task, mask = signature(facts((32, 32))), scenes(1).targets[0].read()
    entries = task.truth_result("a.png", mask).to_coco(4)
    there = [i for i in np.unique(mask) if i != VOID]
    assert [entry["category_id"] for entry in entries] == [task.facts.class_ids[i] for i in there]
    for i, entry in zip(there, entries, strict=True):
        assert entry["image_id"] == 4
        assert (from_rle(entry["segmentation"]) == (mask == i)).all()
