"""CATNet: do dense links between all levels, and crops from all levels, find more small things?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign

from sinet.heads import SCP, HRoIE, create_neck
from sinet.papers._pixels import (
    WIDTH,
    Measure,
    Scenes,
    detection_scores,
    equal_fpn,
    exactly,
    fit,
    neck_macs,
    outdoes,
    pyramid,
    scenes,
    trials,
)
from sinet.papers.base import Card, Finding, Setting

CARD = Card(
    slug="catnet",
    title=(
        "Learning to Aggregate Multi-Scale Context for Instance Segmentation in Remote Sensing "
        "Images"
    ),
    authors="Ye Liu, Huifang Li, Chao Hu, Shuang Luo, Yan Luo, Chang Wen Chen",
    year=2024,
    venue="IEEE TNNLS",
    url="https://arxiv.org/abs/2111.11057",
    licence="GPL-3.0 (yeliudev/CATNet); only facts of it are used, written here anew",
    idea=(
        "Small things in aerial images need context. Let every level of the pyramid hear all "
        "coarser inputs and then all finer results, add the image's global context where a gate "
        "wants it, and crop every region from all levels instead of one."
    ),
    equations=(
        "t_i = B(l_i + sum_{j > i} a_ij up(l_j)); b_i = B(l_i + t_i + sum_{j < i} c_ij pool(t_j))",
        "SCP(x) = x + m(sum_p softmax_p(k x_p) v x_p) sigmoid(a x)",
        "R <- R + O_i sigmoid(W_i [R, O_i]), level after level",
    ),
    claims=(
        "DenseFPN with 1, 3 and 5 stages has 3.7, 8.0 and 12.3 M parameters, SCP 0.66, HRoIE 0.53",
        "DenseFPN and SCP find more than a plain feature pyramid of equal cost",
        "they find more small things",
        "crops from all levels tell more than crops from one",
    ),
    models=("catnet", "dense_fpn"),
    parity=(
        "outputs of the authors' modules in float64, on stand-ins for mmcv: the neck with one "
        "stage and HRoIE bottom-up, to 1e-6 of the output's scale"
    ),
)
SEEDS = (0, 1, 2)

SIZE, SIDES = 96, (8, 48)
LEVELS, OUTS = (0, 1, 2, 3), 5
_PARAMS = {
    "dense_fpn_1": 3_715_602,
    "dense_fpn_3": 7_995_922,
    "dense_fpn_5": 12_276_242,
    "scp": 660_490,
    "hroie": 525_312,
}


def reproduce(setting: Setting) -> list[Finding]:
    """Sizes, detectors that differ in their neck, and classifiers of boxes in their crops.

    The aerial data sets are not at hand: scenes of garments on a noisy texture stand in.
    """
    train = scenes(160 if setting.quick else 2_000, SIZE, SIDES, train=True)
    test = scenes(40 if setting.quick else 300, SIZE, SIDES, train=False)
    steps = 12 if setting.quick else 250
    macs = neck_macs(_catnet, LEVELS, SIZE)
    fpn = equal_fpn(macs, LEVELS, OUTS, SIZE)
    find: dict[str, Measure] = {
        name: partial(detection_scores, make, LEVELS, train, test, steps)
        for name, make in (("catnet", _catnet), ("fpn", fpn))
    }
    tell: dict[str, Measure] = {
        name: partial(_region_scores, name, train, test, steps // 2)
        for name in ("all_levels", "one_level")
    }
    found = trials(setting, find, SEEDS) | trials(setting, tell, SEEDS)
    conditions = {
        "macs of backbone and neck": {"catnet": macs, "fpn": neck_macs(fpn, LEVELS, SIZE)},
        "data": "synthetic scenes of Fashion-MNIST items",
        "train_scenes": len(train.boxes),
        "test_scenes": len(test.boxes),
        "steps": steps,
        "size": SIZE,
    }
    paper = "iSAID val 45.1 box AP; better than others at similar cost"
    return [
        _sizes(),
        outdoes(CARD.claims[1], paper, found["ap50"], "catnet", ["fpn"], "AP50", conditions),
        outdoes(CARD.claims[2], paper, found["ap_small"], "catnet", ["fpn"], "AP", conditions),
        outdoes(
            CARD.claims[3],
            "regions gathered over all levels; no figure of it alone at hand",
            found["accuracy"],
            "all_levels",
            ["one_level"],
            "% right",
            {"of small items": found["accuracy_small"], **conditions, "steps": steps // 2},
        ),
    ]


def _catnet(channels: Sequence[int]) -> nn.Module:
    return create_neck("catnet", channels, WIDTH, num_outs=OUTS, stages=1)


def _sizes() -> Finding:
    channels = [256, 512, 1024, 2048]
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {
            f"dense_fpn_{n}": create_neck("dense_fpn", channels, stages=n) for n in (1, 3, 5)
        }
        parts |= {"scp": SCP(), "hroie": HRoIE()}
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return exactly(CARD.claims[0], "counted on the authors' modules", _PARAMS, found)


class Regions(nn.Module):
    """Says what is in given boxes: a pyramid, crops, two linear layers.

    Shapes: (B, 1, H, W) and boxes of each image -> (K, 10)
    """

    def __init__(self, all_levels: bool) -> None:
        super().__init__()
        self.pyramid = pyramid(partial(create_neck, "fpn", out_channels=WIDTH), LEVELS)
        if all_levels:
            self.crop: nn.Module = HRoIE(WIDTH, 7, self.pyramid.reductions)
        else:  # the larger the box the coarser the level, the coarsest from 48 pixels on
            names = [str(i) for i in LEVELS]
            self.crop = MultiScaleRoIAlign(names, 7, 0, canonical_scale=48, canonical_level=5)
        self.read = nn.Sequential(
            nn.Flatten(), nn.Linear(49 * WIDTH, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, pixels: torch.Tensor, boxes: list[torch.Tensor]) -> torch.Tensor:
        """Crop, then classify."""
        shapes = [(pixels.shape[-2], pixels.shape[-1])] * len(boxes)
        logits: torch.Tensor = self.read(self.crop(self.pyramid(pixels), boxes, shapes))
        return logits


def _region_scores(
    arm: str, train: Scenes, test: Scenes, steps: int, seed: int
) -> Mapping[str, float]:
    """Share of boxes whose garment is told, in points; also of those below 16 pixels."""
    network = Regions(arm == "all_levels")
    order = torch.Generator().manual_seed(seed)

    def batch(source: Scenes, chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = network(source.pixels[chosen], [source.boxes[i] for i in chosen])
        return logits, torch.cat([source.labels[i] for i in chosen])

    def loss_of(step: int) -> torch.Tensor:
        chosen = torch.randint(len(train.boxes), (16,), generator=order).tolist()
        return F.cross_entropy(*batch(train, chosen))

    fit(network, loss_of, steps, 4e-3)
    with torch.inference_mode():
        logits, labels = batch(test, list(range(len(test.boxes))))
    right = (logits.argmax(1) == labels).double()
    boxes = torch.cat(list(test.boxes))
    small = (boxes[:, 2:] - boxes[:, :2]).amax(1) < 16
    return {
        "accuracy": 100 * float(right.mean()),
        "accuracy_small": 100 * float(right[small].mean()),
    }
