"""Swin UNETR: merged patches, windows over volumes, and is the Swin encoder worth its cost?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from sinet.models import create_network
from sinet.papers._dense import (
    Draw,
    better,
    brain,
    figures,
    mean_dice,
    predict,
    smooth_noise,
    trainings,
    uniform,
)
from sinet.papers.base import Card, Finding, Setting

CARD = Card(
    slug="swinunetr",
    title=("Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images"),
    authors="Ali Hatamizadeh, Vishwesh Nath, Yucheng Tang, Dong Yang, Holger R. Roth, Daguang Xu",
    year=2022,
    venue="BrainLes, MICCAI 2021",
    url="https://arxiv.org/abs/2201.01266",
    licence="Apache-2.0 (MONAI, which is used as it is)",
    idea=(
        "An encoder of shifted-window attention over a volume, five resolutions, each handed "
        "through residual convolutions to a convolutional decoder."
    ),
    equations=(
        "z' = z + (S)W-MSA(LN(z));  z'' = z' + MLP(LN(z')), windows of 7 x 7 x 7",
        "merge(z) = Linear(LN([eight sub-grids of z]))",
    ),
    claims=(
        "62.2 M parameters; a checkpoint of MONAI before 1.5 needs its way of merging patches",
        "sliding windows at an overlap of 0.7 cost 4.6 times those at 0.5",
        "0.5 points of Dice above nnU-Net on BraTS21",
        "the Swin encoder is better than convolutions of equal multiply-adds where context decides",
    ),
    models=(
        "swin_unetr",
        "swin_unetr_small",
        "swin_unetr_tiny",
        "swin_unetr_v2",
        "swin_unetr_2d",
        "swin_unetr_2d_v2",
        "swin_unetr_brats21",
        "swin_unetr_btcv",
    ),
    parity=(
        "outputs of MONAI in float64, the BraTS network at 64 x 64 x 64 and a 2-D one, to 1e-6 of "
        "their scale"
    ),
)
SEEDS = (0, 1)

_CLASSES = 4
_MIDDLE = 49  # the plane between the hemispheres, of the brain at 2 mm


def reproduce(setting: Setting) -> list[Finding]:
    """Merging, windows; then against convolutions on a brain with painted lesions."""
    big = setting.device == "cuda"
    sides = (64, 64, 64) if big else (64, 64, 32)
    draw = _cases(brain(), sides)
    images, labels = draw(torch.Generator().manual_seed(99), 1 if setting.quick else 8)
    name = "swin_unetr_small" if big else "swin_unetr_tiny"
    arms: dict[str, Callable[[], nn.Module]] = {
        "swin_unetr": partial(create_network, name, num_classes=_CLASSES),
        # with as many blocks as make the multiply-adds equal to 1 %
        "convolutions": partial(_segresnet, 16, (2, 3, 3, 6))
        if big
        else partial(_segresnet, 8, (2, 4, 4, 8)),
    }

    def measure(model: nn.Module) -> dict[str, float]:
        return {"dice": mean_dice(predict(model, images), labels, _CLASSES)}

    results = trainings(
        setting,
        arms,
        draw,
        measure,
        steps=1500 if big else 120,
        batch_size=2 if big else 1,
        lr=1e-3,
        seeds=(0, 1, 2) if big else SEEDS,
    )
    sizes = {arm: figures(build(), 1, 4, *sides) for arm, build in arms.items()}
    conditions = {
        "params": {arm: size["params"] for arm, size in sizes.items()},
        "macs": {arm: size["macs"] for arm, size in sizes.items()},
        "data": f"average brain MNI152 with painted lesions, {' x '.join(map(str, sides))}",
    }
    unavailable = "BraTS21 is not to be had here, and half a point is below a small run's noise"
    return [
        _merging(),
        _windows(),
        Finding(CARD.claims[2], "0.913 against 0.908", {"cases": 0}, "not decided", unavailable),
        better(
            CARD.claims[3], "better than TransBTS, SegResNet, nnU-Net", results, conditions,
            by="dice", ours="swin_unetr", others=["convolutions"],
        ),
    ]  # fmt: skip


def _segresnet(width: int, blocks: tuple[int, ...]) -> nn.Module:
    with warnings.catch_warnings():  # of packages that MONAI imports if they are there
        warnings.simplefilter("ignore")
        from monai.networks.nets.segresnet import SegResNet

    net: nn.Module = SegResNet(3, width, 4, _CLASSES, blocks_down=blocks)
    return net


def _cases(volume: tuple[torch.Tensor, torch.Tensor], sides: tuple[int, int, int]) -> Draw:
    """Crops around the middle in four made-up modalities, with lesions in both hemispheres.

    Class 1 is the seam of a lesion, 2 and 3 its core in the left and in the right hemisphere: they
    look the same, and only where the middle of the brain is tells them apart.
    """
    t1, tissue = volume
    axes = [torch.arange(side).reshape([-1 if i == k else 1 for k in range(3)])
            for i, side in enumerate(sides)]  # fmt: skip

    def one(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        def amount(low: float, high: float) -> float:
            return float(uniform(generator, 1, low, high, 0))

        def at(low: float, high: float) -> int:
            return int(amount(low, high + 1 - 1e-3))

        # the middle lies in the crop, but anywhere in its inner half
        start = [_MIDDLE - at(sides[0] // 4, 3 * sides[0] // 4)]
        start += [
            at(10, size - side - 10) for size, side in zip(t1.shape[1:], sides[1:], strict=True)
        ]
        cut = tuple(slice(s, s + side) for s, side in zip(start, sides, strict=True))
        image, kind = t1[cut], tissue[cut]
        right = (axes[0] >= _MIDDLE - start[0]).expand(sides)
        seam, core = torch.zeros(2, *sides, dtype=torch.bool)
        for _ in range(4):
            centre = [amount(0.2, 0.8) * side for side in sides]
            away = sum(
                ((axis - c) / amount(6, 10)) ** 2 for axis, c in zip(axes, centre, strict=True)
            )
            core |= away < 0.5
            seam |= away < 1
        inside = image > 0.1
        labels = torch.where(core, 2 + right.long(), seam.long()) * inside
        looks = torch.randn(4, 3, generator=generator)[:, kind] * 0.2 + image
        shows = torch.tensor([0.6, 0.3, 0.0, -0.3]).reshape(4, 1, 1, 1)  # seam: one of them only
        looks = looks + 0.4 * (labels == 1) * torch.eye(4)[0].reshape(4, 1, 1, 1)
        looks = (looks + shows * (labels > 1)) * inside
        looks = looks * (0.2 * smooth_noise(generator, 1, sides, 3)[0]).exp()
        return looks + 0.1 * torch.randn(looks.shape, generator=generator), labels

    def draw(generator: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = zip(*(one(generator) for _ in range(count)), strict=True)
        return torch.stack(images), torch.stack(labels)

    return draw


@torch.inference_mode()
def _merging() -> Finding:
    options: dict[str, Any] = {"num_classes": 3}
    nets = {how: create_network("swin_unetr_tiny", merging=how, **options).eval()
            for how in ("corrected", "legacy", "v2")}  # fmt: skip
    x = torch.randn(1, 4, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    for net in nets.values():
        net.load_state_dict(nets["corrected"].state_dict())
    outputs = {how: net(x) for how, net in nets.items()}
    scale = outputs["corrected"].std()
    moved = {how: float((outputs[how] - outputs["corrected"]).std() / scale)
             for how in ("legacy", "v2")}  # fmt: skip
    params = sum(p.numel() for p in create_network("swin_unetr").parameters())
    right = params == 62_191_941 and min(moved.values()) > 1e-3
    return Finding(
        CARD.claims[0],
        "62.1 M; two of the eight sub-grids were taken twice, and two never",
        {"params": params, **{f"change_{how}": value for how, value in moved.items()}},
        "confirmed" if right else "refuted",
        f"{params / 1e6:.2f} M parameters; the same weights merged otherwise move the output by "
        f"{moved['legacy']:.1%} (legacy), {moved['v2']:.1%} (v2) of its deviation",
    )


def _windows() -> Finding:
    """Windows of 128 voxels a side over a BraTS volume, and in the limit of a large one."""

    def count(overlap: float) -> int:
        step = int(128 * (1 - overlap))
        return math.prod(math.ceil((side - 128) / step) + 1 for side in (240, 240, 155))

    half, more = count(0.5), count(0.7)
    limit = (0.5 / 0.3) ** 3
    return Finding(
        CARD.claims[1],
        "an overlap of 0.7 in the paper, 0.5 to 0.6 in the repository",
        {"windows_half": half, "windows_0.7": more, "ratio": more / half, "ratio_limit": limit},
        "confirmed" if abs(limit - 4.6) < 0.1 else "refuted",
        f"{more} against {half} windows for 240 x 240 x 155 voxels ({more / half:.1f} times); "
        f"{limit:.1f} times in a large volume",
    )
