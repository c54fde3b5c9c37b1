"""RCNet: does one pass upwards with links to the next level beat the pass downwards?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from sinet.heads import create_neck
from sinet.papers._pixels import (
    WIDTH,
    MakeNeck,
    Measure,
    detection_scores,
    equal_fpn,
    exactly,
    neck_macs,
    outdoes,
    scenes,
    trials,
)
from sinet.papers.base import Card, Finding, Setting

CARD = Card(
    slug="rcnet",
    title="RCNet: Reverse Feature Pyramid and Cross-scale Shift Network for Object Detection",
    authors="Zhuofan Zong, Qianggang Cao, Biao Leng",
    year=2021,
    venue="ACM Multimedia 2021",
    url="https://arxiv.org/abs/2110.12130",
    licence="Apache-2.0 (TempleX98/RCNet); written here anew",
    idea=(
        "Build the pyramid in one pass upwards in which every level also hears the next coarser "
        "one, weighed by the image. Then let channels move between levels, cyclically, and add "
        "what the levels and the positions have in common."
    ),
    equations=(
        "p = w x + (1 - w) m y; w = sigmoid(W [mean x, mean y])",
        "m = HW softmax(T C^-1/2 conv [x, y])",
        "P_i = post(w' pre(p) + (1 - w') pool(P_{i-1}))",
        "x' = x + mix([shift(x), x]); y = x' + context over levels + context over positions",
    ),
    claims=(
        "the neck has 7.67 M parameters, 6.67 M with plain convolutions; RetinaNet's 8.00 M",
        "reverse pyramid and cross-scale shift find more than a plain pyramid of equal cost",
        "the cross-scale shift helps",
        "deformable fusions help",
    ),
    models=("rcnet", "rcnet_plain", "revfp", "revfp_plain"),
    parity=(
        "outputs of the authors' neck in float64, on stand-ins for mmcv: deformable with "
        "BatchNorm, and plain at odd sizes, to 1e-6 of the output's scale"
    ),
)
SEEDS = (0, 1, 2)

SIZE, SIDES = 128, (8, 96)
LEVELS, OUTS = (1, 2, 3), 5
_PARAMS = {"rcnet": 7_665_346, "rcnet_plain": 6_669_586, "fpn": 7_997_440}


def reproduce(setting: Setting) -> list[Finding]:
    """Sizes, and detectors that differ in their neck.

    COCO is not at hand: scenes of garments on a noisy texture stand in. The plain pyramid is as
    wide as makes its cost that of the neck with plain convolutions.
    """
    train = scenes(160 if setting.quick else 2_000, SIZE, SIDES, train=True)
    test = scenes(40 if setting.quick else 300, SIZE, SIDES, train=False)
    steps = 12 if setting.quick else 150
    necks: dict[str, MakeNeck] = {
        name: partial(_neck, name) for name in ("rcnet_plain", "revfp_plain", "rcnet")
    }
    macs = {name: neck_macs(make, LEVELS, SIZE) for name, make in necks.items()}
    necks["fpn"] = equal_fpn(macs["rcnet_plain"], LEVELS, OUTS, SIZE)
    macs["fpn"] = neck_macs(necks["fpn"], LEVELS, SIZE)
    arms: dict[str, Measure] = {
        name: partial(detection_scores, make, LEVELS, train, test, steps)
        for name, make in necks.items()
    }
    found = trials(setting, arms, SEEDS)
    conditions = {
        "macs of backbone and neck, without deformable convolutions": macs,
        "by size": {name: found[name] for name in ("ap50", "ap_small", "ap_medium")},
        "data": "synthetic scenes of Fashion-MNIST items",
        "train_scenes": len(train.boxes),
        "test_scenes": len(test.boxes),
        "steps": steps,
        "size": SIZE,
    }
    compare = partial(outdoes, scores=found["ap"], unit="AP", measured=conditions)
    return [
        _sizes(),
        compare(
            CARD.claims[1],
            "RetinaNet R50 40.2 AP against 36.5, with deformable convolutions",
            ours="rcnet_plain",
            others=["fpn"],
        ),
        compare(CARD.claims[2], "helps", ours="rcnet_plain", others=["revfp_plain"]),
        compare(
            CARD.claims[3],
            "not in the paper's equations, but in its code",
            ours="rcnet",
            others=["rcnet_plain"],
        ),
    ]


def _neck(name: str, channels: Sequence[int]) -> nn.Module:
    return create_neck(name, channels, WIDTH, num_outs=OUTS)


def _sizes() -> Finding:
    channels = [512, 1024, 2048]
    found = {}
    with torch.device("meta"):
        for name in _PARAMS:
            neck = create_neck(name, channels, num_outs=OUTS)
            found[name] = sum(p.numel() for p in neck.parameters())
    return exactly(CARD.claims[0], "fewer than RetinaNet's pyramid", _PARAMS, found)
