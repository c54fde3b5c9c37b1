"""`metric_agreement`: our metrics against those of the reference libraries, on the same answers.

    python benchmarks/metric_agreement.py        # needs the extras detection, medical; pycocotools

mAP (boxes and masks) against pycocotools, IoU against torchmetrics, Dice against MONAI, PSNR and
SSIM against torchmetrics; twenty made-up sets of answers each, some right, some nearly, some wrong.
Writes docs/results/metric_agreement.json: the largest difference.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import numpy as np
import torch
from monai.metrics import DiceMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from sinet.data.instances import Instances
from sinet.data.regions import Region
from sinet.measurement.results import record
from sinet.tasks._coco import Answers, as_coco, coco_precision
from sinet.tasks.signatures.segment import confusion, mean_iou
from sinet.tasks.signatures.superres import luma, psnr, ssim
from sinet.tasks.signatures.volume import dices, mean_dice

SETS, CLASSES = 20, 5
Pair = tuple[float, float]


def blobs(rng: np.random.Generator, count: int, moved: float = 0.0) -> list[Region]:
    """Ellipses in an image of 60 x 80 pixels."""
    y, x = np.mgrid[:60, :80]
    middles, radii = rng.uniform((0, 0), (80, 60), (count, 2)), rng.uniform(3, 15, (count, 2))
    middles = middles + rng.normal(0, moved, middles.shape) if moved else middles
    shapes = (
        ((x - a) / c) ** 2 + ((y - b) / d) ** 2 < 1
        for (a, b), (c, d) in zip(middles, radii, strict=True)
    )
    return [Region.of(shape) for shape in shapes if shape.any()]


def objects(rng: np.random.Generator) -> tuple[list[Answers], list[Instances]]:
    """Forty images; two answers an object, one of them moved, and some where nothing is."""
    answers, truths = [], []
    for i in range(40):
        seed, count = rng.integers(2**32), int(rng.integers(0, 6))
        true = blobs(np.random.default_rng(seed), count)
        labels, crowd = rng.integers(0, CLASSES, len(true)), rng.random(len(true)) < 0.1
        truths.append(Instances.found(f"{i}", true, labels, crowd, (60, 80)))
        near = blobs(np.random.default_rng(seed), count, moved=2.0)[: len(true)]
        said = [*true, *near, *blobs(rng, 4)]
        names = np.concatenate([labels, labels[: len(near)], rng.integers(0, CLASSES, 9)])
        boxes = np.array([r.corners for r in said], np.float32).reshape(-1, 4)
        answers.append(Answers.of(boxes, rng.random(len(said)).round(2), names[: len(said)], said))
    return answers, truths


def precision(rng: np.random.Generator, kind: str) -> list[Pair]:
    """Both of COCO's mAP."""
    answers, truths = objects(rng)
    known, said = as_coco(answers, truths, CLASSES, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **known}
        truth.createIndex()
        count = COCOeval(truth, truth.loadRes(said), kind)
        count.evaluate()
        count.accumulate()
        count.summarize()
    return list(zip(coco_precision(answers, truths, CLASSES, kind), count.stats[:2], strict=True))


def maps(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Answer and truth, a third of which differ."""
    truth = rng.integers(0, CLASSES, shape).astype(np.uint8)
    wrong = rng.random(shape) < 1 / 3
    return np.where(wrong, rng.integers(0, CLASSES, shape), truth).astype(np.uint8), truth


def iou(rng: np.random.Generator) -> list[Pair]:
    """Mean IoU over pixels of all images; a tenth of them void."""
    found, truth = maps(rng, (8, 40, 50))
    truth[rng.random(truth.shape) < 0.1] = 255
    counts = sum(confusion(f, t, CLASSES) for f, t in zip(found, truth, strict=True))
    theirs = MulticlassJaccardIndex(CLASSES, ignore_index=255)
    theirs.update(torch.from_numpy(found).long(), torch.from_numpy(truth).long())
    return [(mean_iou(counts), theirs.compute().item())]


def dice(rng: np.random.Generator) -> list[Pair]:
    """Mean Dice over volumes and classes but the first."""
    found, truth = maps(rng, (6, 16, 20, 12))
    ours = mean_dice(np.stack([dices(f, t, CLASSES) for f, t in zip(found, truth, strict=True)]))
    coded = [np.stack([part == c for c in range(CLASSES)], 1) for part in (found, truth)]
    theirs = DiceMetric(include_background=False)
    theirs(*(torch.from_numpy(part).float() for part in coded))
    return [(ours, theirs.aggregate().item())]


def quality(rng: np.random.Generator) -> list[Pair]:
    """PSNR and SSIM of the luma, a border left out; windows inside the picture only."""
    truth = rng.integers(0, 256, (60, 70, 3)).astype(np.uint8)
    noisy = (truth + rng.integers(-30, 31, truth.shape)).clip(0, 255)
    planes, border = [luma(part) for part in (noisy, truth)], int(rng.integers(0, 5))
    inside = slice(border, -border or None)
    tensors = [torch.from_numpy(p[inside, inside].copy())[None, None] for p in planes]
    decibels = peak_signal_noise_ratio(*tensors, data_range=255.0).item()
    _, each = structural_similarity_index_measure(
        *tensors, data_range=255.0, return_full_image=True
    )
    alike = each[..., 5:-5, 5:-5].mean().item()
    return [(psnr(*planes, border), decibels), (ssim(*planes, border), alike)]


METRICS: dict[str, Callable[[np.random.Generator], list[Pair]]] = {
    "mAP of boxes, pycocotools": lambda rng: precision(rng, "bbox"),
    "mAP of masks, pycocotools": lambda rng: precision(rng, "segm"),
    "mean IoU, torchmetrics": iou,
    "mean Dice, MONAI": dice,
    "PSNR and SSIM, torchmetrics": quality,
}


def main() -> None:
    """Compare and record."""
    torch.set_default_dtype(torch.float64)  # torchmetrics takes the logarithm of 255 in it
    largest = {}
    for name, metric in METRICS.items():
        pairs = [p for seed in range(SETS) for p in metric(np.random.default_rng(seed))]
        largest[name] = max(abs(a - b) for a, b in pairs)
    seeds = list(range(SETS))
    print(largest)
    print(record("metric_agreement", max(largest.values()), "largest difference", 1e-6, "lower",
                 seeds=seeds, extra=largest))  # fmt: skip


if __name__ == "__main__":
    main()
