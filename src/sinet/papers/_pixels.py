"""Controlled experiments on more than one label an image: trials, and scenes full of small items.

What `_arms` is for classifiers: networks that differ in one thing, trained alike with several
seeds. Here the trainings are loops of a few lines, and an arm may have several scores.
"""

from __future__ import annotations

import bisect
import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from sinet.data.dataset import Split
from sinet.errors import missing_extra
from sinet.files import read_json, write_json
from sinet.heads import PyramidBackbone, create_neck
from sinet.measurement.cost import cost
from sinet.papers._arms import complete
from sinet.papers._claims import images
from sinet.papers.base import Finding, Outcome, Setting

Measure = Callable[[int], Mapping[str, float]]
"""Seed -> scores by name, larger is better."""
Scores = Mapping[str, Sequence[float]]
"""Arm -> one score by seed."""
Place = tuple[int, int, int]
"""Left, top and longer side of an item."""
MakeNeck = Callable[[Sequence[int]], nn.Module]
"""Channels of the maps -> a fresh neck."""

WIDTH = 32
"""Channels of all necks here."""


def trials(
    setting: Setting, arms: Mapping[str, Measure], seeds: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
    """Measure every arm with every seed (quick: the first); what was measured before is read.

    Returns:
        Score -> arm -> values by seed.
    """

    def file(arm: str, seed: int) -> Path:
        return setting.work / f"{arm}-{seed}.json"

    def do(arm: str, seed: int) -> None:
        torch.manual_seed(seed)
        write_json(file(arm, seed), dict(arms[arm](seed)))

    order = [(arm, seed) for seed in (seeds[:1] if setting.quick else seeds) for arm in arms]
    complete(setting, order, file, do)
    found: dict[str, dict[str, list[float]]] = {}
    for arm, seed in order:
        for score, value in read_json(file(arm, seed)).items():
            found.setdefault(score, {}).setdefault(arm, []).append(value)
    return found


def standard_error(*values: Sequence[float]) -> float:
    """Pooled standard error of the difference of means."""
    return float(sum(statistics.variance(v) / len(v) for v in values if len(v) > 1) ** 0.5)


def outdoes(
    claim: str,
    paper: str,
    scores: Scores,
    ours: str,
    others: Sequence[str],
    unit: str,
    measured: Mapping[str, Any],
) -> Finding:
    """Whether one arm is better than each of the others by more than a pooled standard error.

    Confirmed if it is; refuted if any other is better than it by as much; else not decided, as it
    is with a single seed.
    """
    means = {arm: statistics.fmean(scores[arm]) for arm in (ours, *others)}
    gains = {other: means[ours] - means[other] for other in others}
    errors = {other: standard_error(scores[ours], scores[other]) for other in others}
    verdict: Outcome = "not decided"
    if len(scores[ours]) > 1:
        if all(gains[o] > errors[o] for o in others):
            verdict = "confirmed"
        elif any(gains[o] < -errors[o] for o in others):
            verdict = "refuted"
    why = f"{ours} {means[ours]:.2f} {unit}; " + "; ".join(
        f"{gains[o]:+.2f} +- {errors[o]:.2f} against {o}" for o in others
    )
    values = {f"{unit} by arm": {arm: list(scores[arm]) for arm in means}, "gain": gains}
    return Finding(claim, paper, {**values, **measured}, verdict, why)


def exactly(
    claim: str, paper: str, expected: Mapping[str, int], found: Mapping[str, int]
) -> Finding:
    """Whether whole numbers are the published ones."""
    wrong = {name: value for name, value in found.items() if value != expected[name]}
    verdict: Outcome = "refuted" if wrong else "confirmed"
    return Finding(claim, paper, dict(found), verdict, f"differ: {wrong}" if wrong else "all agree")


def fit(network: nn.Module, loss_of: Callable[[int], torch.Tensor], steps: int, lr: float) -> None:
    """AdamW: the rate rises over a tenth of the steps to `lr` and falls to nothing."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    network.train()
    for step in range(steps):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10)
        optimizer.step()
        schedule.step()
    network.eval()


@dataclass(frozen=True)
class Scenes:
    """Square pictures with items in them.

    Attributes:
        pixels: (N, 1, size, size), about 0 to 1.
        boxes: of each picture, (K, 4) as x1, y1, x2, y2.
        labels: of each picture, (K,), the garment.
    """

    pixels: torch.Tensor
    boxes: Sequence[torch.Tensor]
    labels: Sequence[torch.Tensor]

    @property
    def size(self) -> int:
        """Height and width."""
        return self.pixels.shape[-1]


def scenes(count: int, size: int, sides: tuple[int, int], *, train: bool) -> Scenes:
    """Garments of Fashion-MNIST, some in crowded rows, on a noisy texture of low contrast.

    Training and test scenes show other garments. The same call gives the same scenes.

    Args:
        count: how many.
        size: height and width.
        sides: shortest and longest side of an item, pixels.
        train: from the training images.
    """
    data = images(None, quick=False, most=6_000)
    split = data.train if train else data.val
    random = np.random.default_rng(int(train))
    torch_random = torch.Generator().manual_seed(int(train))
    pixels, boxes, labels = [], [], []
    for _ in range(count):
        coarse = torch.randn(1, 1, size // 8, size // 8, generator=torch_random)
        texture = F.interpolate(coarse, size=(size, size), mode="bicubic")[0, 0]
        canvas = 0.5 + 0.08 * texture + 0.06 * torch.randn(size, size, generator=torch_random)
        found = []
        chosen = []
        for left, top, side in _places(random, size, sides):
            index = int(random.integers(len(split)))
            strength = float(random.uniform(0.25, 0.6) * random.choice([-1, 1]))
            found.append(_paste(canvas, _garment(split, index), (left, top, side), strength))
            chosen.append(int(split.labels[index]))
        pixels.append(canvas[None])
        boxes.append(torch.tensor(found, dtype=torch.float32))
        labels.append(torch.tensor(chosen))
    return Scenes(torch.stack(pixels), boxes, labels)


def _places(random: np.random.Generator, size: int, sides: tuple[int, int]) -> list[Place]:
    """Where items go: a row of equal ones in a third of the scenes, then up to four others."""
    places: list[Place] = []
    if random.random() < 1 / 3:
        side = int(random.integers(sides[0], max(size // 5, sides[0] + 1)))
        row = min(4, size // side)
        left, top = (int(random.integers(size - n * side + 1)) for n in (row, 1))
        places += [(left + i * side, top, side) for i in range(row)]
    low, high = np.log(sides)
    for _ in range(int(random.integers(1, 5))):
        side = int(np.exp(random.uniform(low, high)))
        left, top = (int(n) for n in random.integers(size - side + 1, size=2))
        if all(_apart((left, top, side), other) for other in places):
            places.append((left, top, side))
    return places


def _apart(one: Place, other: Place) -> bool:
    """Whether two squares overlap by less than a quarter of the smaller side on some axis."""
    shared = [min(one[i] + one[2], other[i] + other[2]) - max(one[i], other[i]) for i in (0, 1)]
    return min(shared) < min(one[2], other[2]) / 4


def _garment(split: Split, index: int) -> torch.Tensor:
    """An image cut to what is not black."""
    image = torch.from_numpy(split.image(index, 1)[..., 0] / np.float32(255))
    rows, columns = ((image > 0.1).any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _paste(canvas: torch.Tensor, item: torch.Tensor, place: Place, strength: float) -> list[float]:
    """Lighten or darken the canvas by the item, in place; its box."""
    left, top, side = place
    longest = max(item.shape)
    height, width = (max(1, round(side * n / longest)) for n in item.shape)
    scaled = F.interpolate(item[None, None], size=(height, width), mode="bilinear", antialias=True)[
        0, 0
    ]
    canvas[top : top + height, left : left + width] += strength * scaled
    return [left, top, left + width, top + height]


def pyramid(make: MakeNeck, levels: tuple[int, ...]) -> PyramidBackbone:
    """A tiny backbone and a neck; `levels` are the backbone's maps that the neck takes."""
    body = timm.create_model("sinet_test", features_only=True, in_chans=1, out_indices=levels)
    return PyramidBackbone(body, make(body.feature_info.channels()))


class WideFPN(nn.Module):
    """The plain feature pyramid at another width, and a pointwise convolution to the common one.

    Shapes: [(B, C_i, H_i, W_i)] finest first -> [(B, WIDTH, H_i, W_i)] and extra levels
    """

    def __init__(self, in_channels: Sequence[int], num_outs: int, width: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = list(in_channels), WIDTH
        self.num_outs = num_outs
        self.fpn = create_neck("fpn", in_channels, width, num_outs=num_outs)
        self.project = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for _ in range(num_outs))

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Merge the maps; finest first, in and out."""
        maps = self.fpn(features)
        return [conv(x) for conv, x in zip(self.project, maps, strict=True)]


def neck_macs(make: MakeNeck, levels: tuple[int, ...], size: int) -> int:
    """Multiply-adds of backbone and neck; deformable convolutions are not counted."""
    return cost(pyramid(make, levels), size, 1).macs


def equal_fpn(macs: int, levels: tuple[int, ...], num_outs: int, size: int) -> MakeNeck:
    """The widest plain feature pyramid that has no more than these multiply-adds."""

    def of(width: int) -> MakeNeck:
        return lambda channels: WideFPN(channels, num_outs, width)

    widths = range(1, 257)
    above = bisect.bisect(widths, macs, key=lambda w: neck_macs(of(w), levels, size))
    return of(widths[max(above - 1, 0)])


def detection_scores(
    make: MakeNeck, levels: tuple[int, ...], train: Scenes, test: Scenes, steps: int, seed: int
) -> dict[str, float]:
    """Train torchvision's FCOS to find garments; COCO's average precisions in points.

    Garments are one class: telling shirts from coats would measure something else.

    Raises:
        UsageError: what computes the precisions is not installed.
    """
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise missing_extra("faster-coco-eval", "detection")
    network = _detector(pyramid(make, levels), train.size)
    order = torch.Generator().manual_seed(seed)

    def loss_of(step: int) -> torch.Tensor:
        chosen = torch.randint(len(train.boxes), (16,), generator=order).tolist()
        targets = [
            {"boxes": train.boxes[i], "labels": torch.zeros_like(train.labels[i])} for i in chosen
        ]
        return torch.stack(list(network(list(train.pixels[chosen]), targets).values())).sum()

    fit(network, loss_of, steps, 4e-3)
    metric = MeanAveragePrecision(backend="faster_coco_eval")
    with torch.inference_mode():
        for batch in torch.arange(len(test.boxes)).split(16):
            found = network(list(test.pixels[batch]))
            truth = [
                {"boxes": test.boxes[i], "labels": torch.zeros_like(test.labels[i])}
                for i in batch.tolist()
            ]
            metric.update(found, truth)
    values = metric.compute()
    names = {"ap": "map", "ap50": "map_50", "ap_small": "map_small", "ap_medium": "map_medium"}
    return {ours: 100 * float(values[theirs]) for ours, theirs in names.items()}


def _detector(backbone: PyramidBackbone, size: int) -> FCOS:
    """Level of stride s finds what reaches up to 4 s pixels from its centre, from 2 s on."""
    sides = tuple((stride / 2,) for stride in backbone.reductions)
    return FCOS(
        backbone,
        num_classes=1,
        min_size=size,
        max_size=size,
        image_mean=[0.5],
        image_std=[0.2],
        anchor_generator=AnchorGenerator(sides, ((1.0,),) * len(sides)),
        head=FCOSHead(WIDTH, 1, 1, num_convs=1),
        center_sampling_radius=2.0,
        score_thresh=0.05,
        topk_candidates=200,
    )
