"""UNet++: what can be cut off a nested U-Net, and does nesting pay at equal size?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from sinet.measurement.latency import compare
from sinet.models import create_network
from sinet.models.unetpp import Node, UNetPP
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
from sinet.papers.base import Card, Finding, Outcome, Setting

CARD = Card(
    slug="unetpp",
    title=(
        "UNet++: Redesigning Skip Connections to Exploit Multiscale Features in Image Segmentation"
    ),
    authors="Zongwei Zhou, Md Mahfuzur Rahman Siddiquee, Nima Tajbakhsh, Jianming Liang",
    year=2020,
    venue="IEEE Transactions on Medical Imaging; DLMIA 2018",
    url="https://arxiv.org/abs/1912.05074",
    licence=(
        "academic, non-commercial (MrGiovanni/UNetPlusPlus), not read; MIT (pytorch-nested-unet), "
        "Apache-2.0 (MONAI)"
    ),
    idea=(
        "U-Nets of every depth nested in one grid: each node joins all earlier maps of its level "
        "with the one from below. With a loss at each of the top row's nodes the network can be "
        "cut to any depth after training, and the depth that a task needs need not be known before."
    ),
    equations=(
        "X(i, 0) = H(down(X(i-1, 0)))",
        "X(i, j) = H([X(i, 0), ..., X(i, j-1), up(X(i+1, j-1))])",
        "L_d = conv1x1(X(0, d)), d = 1 ... 4",
    ),
    claims=(
        "cut to depth d the network is its head d exactly, with 0.1, 0.5, 2.2 and 9.0 M parameters",
        "L3 takes two thirds of the time of L4",
        "L3 loses 0.6 points of IoU against L4, L1 much more",
        "UNet++ segments better than a U-Net of as many parameters",
    ),
    models=(
        "unetpp",
        "unetpp_bn",
        "unetpp_nnunet",
        "unetpp_nnunet_3d",
        "unetpp_monai",
        "unetpp_monai_3d",
    ),
    parity=(
        "outputs of the authors' Keras network and of their nnU-Net tree, and of "
        "pytorch-nested-unet, all heads, in float64 to 1e-14; MONAI's network to 1e-10"
    ),
)
SEEDS = (0, 1)

_PARAMS = {1: 100_961, 2: 511_105, 3: 2_204_961, 4: 9_041_601}
_SIDE = 96
_TRAIN = [*range(15, 46), *range(60, 76)]  # axial slices; two are left out on both sides of the
_TEST = [*range(48, 58)]  # tested ones
_CLASSES = 3


class UNet(nn.Module):
    """A U-Net of the same nodes: one way down, one way up.

    Shape: (B, 1, H, W) -> (B, num_classes, H, W)
    """

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        node = partial(Node, 2, kernel_size=(3, 3), norm="batch", negative_slope=0.0, drop_rate=0.0)
        self.down = nn.ModuleList(node(i, o) for i, o in pairwise((1, *widths)))
        pairs = [(below, here) for here, below in reversed(list(pairwise(widths)))]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
        self.nodes = nn.ModuleList(node(2 * here, here) for _, here in pairs)
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        skips: list[torch.Tensor] = []
        for node in self.down:
            x = node(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        for up, node in zip(self.ups, self.nodes, strict=True):
            x = node(torch.cat([skips.pop(), up(x)], 1))
        out: torch.Tensor = self.head(x)
        return out


def reproduce(setting: Setting) -> list[Finding]:
    """Exact cuts and their time; trained on brain slices, what each depth is worth."""
    base = 32 if setting.device == "cuda" else 16
    widths = [base * 2**i for i in range(5)]
    wide = [round(35 / 32 * base * 2**i) for i in range(5)]  # the paper's wide U-Net
    nested = partial(
        create_network, "unetpp", widths=widths, norm="batch", drop_rate=0.0, num_classes=_CLASSES
    )
    arms: dict[str, Callable[[], nn.Module]] = {
        "unet": partial(UNet, widths, _CLASSES),
        "wide_unet": partial(UNet, wide, _CLASSES),
        "unetpp": partial(nested, deep_supervision=False),
        "unetpp_supervised": partial(nested, deep_supervision=True),
    }
    volume = brain()
    images, labels = _slices(volume, _TEST)(torch.Generator().manual_seed(99), 40)
    if setting.quick:
        images, labels = images[:4], labels[:4]

    def measure(model: nn.Module) -> dict[str, float]:
        cut = {"dice": model}
        if isinstance(model, UNetPP) and model.deep_supervision:
            cut |= {f"dice_l{d}": model.prune(d) for d in range(1, 5)}
        return {by: mean_dice(predict(m, images), labels, _CLASSES) for by, m in cut.items()}

    big = setting.device == "cuda"
    results = trainings(
        setting,
        arms,
        _slices(volume, _TRAIN),
        measure,
        steps=2000 if big else 250,
        batch_size=8 if big else 4,
        lr=1e-3,
        seeds=(0, 1, 2) if big else SEEDS,
    )
    sizes = {name: figures(build(), 1, 1, _SIDE, _SIDE) for name, build in arms.items()}
    conditions = {
        "params": {name: size["params"] for name, size in sizes.items()},
        "macs": {name: size["macs"] for name, size in sizes.items()},
        "data": "axial slices of the average brain MNI152, grey and white matter, distorted",
        "note": "one averaged brain, so it shows the mechanism and not how well it generalizes",
    }
    paper = "IoU 3.4 points above the wide U-Net over four tasks"
    return [
        _cuts(),
        _time(setting),
        _depths(results["unetpp_supervised"]),
        better(
            CARD.claims[3], paper, results, conditions,
            by="dice", ours="unetpp_supervised", others=["wide_unet"],
        ),
        better(
            "without the loss at every depth UNet++ is better as well", paper, results, conditions,
            by="dice", ours="unetpp", others=["unet", "wide_unet"],
        ),
    ]  # fmt: skip


def _slices(volume: tuple[torch.Tensor, torch.Tensor], heights: list[int]) -> Draw:
    """Slices turned, scaled and moved a little, unevenly lit, with the noise of the scanner."""
    t1, tissue = (x[..., heights].permute(2, 0, 1)[:, None].float() for x in volume)
    high, wide = t1.shape[2:]

    def draw(generator: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        which = torch.randint(len(heights), (count,), generator=generator)
        angle, size, right, down = (
            spread * (2 * torch.rand(count, generator=generator) - 1)
            for spread in (0.2, 0.1, 0.1, 0.1)
        )
        zoom_y, zoom_x = (1 + size) * _SIDE / high, (1 + size) * _SIDE / wide
        turn = torch.stack(
            [
                torch.stack([angle.cos() * zoom_x, -angle.sin() * zoom_x, right], 1),
                torch.stack([angle.sin() * zoom_y, angle.cos() * zoom_y, down], 1),
            ],
            1,
        )
        grid = F.affine_grid(turn, [count, 1, _SIDE, _SIDE], align_corners=False)
        image = F.grid_sample(t1[which], grid, align_corners=False)
        labels = F.grid_sample(tissue[which], grid, mode="nearest", align_corners=False)
        image = image ** uniform(generator, count, 0.7, 1.4, 2)
        image = image * (0.3 * smooth_noise(generator, count, (_SIDE, _SIDE), 4)).exp()
        noise = uniform(generator, count, 0.02, 0.08, 2) * torch.randn(
            2, *image.shape, generator=generator
        )
        image = torch.hypot(image + noise[0], noise[1])  # of a magnitude image: Rice's
        return image, labels[:, 0].long()

    return draw


@torch.inference_mode()
def _cuts() -> Finding:
    torch.manual_seed(0)
    model = create_network("unetpp").eval()
    assert isinstance(model, UNetPP)
    x = torch.randn(1, 1, _SIDE, _SIDE)
    heads = model.forward_heads(model.forward_features(x))
    cut = {depth: model.prune(depth) for depth in _PARAMS}
    params = {d: sum(p.numel() for p in net.parameters()) for d, net in cut.items()}
    error = max(float((cut[d](x) - heads[d - 1]).abs().max()) for d in cut)
    right = error == 0 and params == _PARAMS
    return Finding(
        CARD.claims[0],
        "0.1, 0.5, 2.2 and 9.0 M parameters",
        {"largest_difference": error, **{f"l{d}_params": count for d, count in params.items()}},
        "confirmed" if right else "refuted",
        f"largest difference {error:.1e}; "
        + ", ".join(f"{p / 1e6:.2f} M" for p in params.values()),
    )


def _time(setting: Setting) -> Finding:
    model = create_network("unetpp").eval()
    assert isinstance(model, UNetPP)
    cut = {f"l{d}": model.prune(d) for d in _PARAMS}
    macs = {name: figures(net, 1, 1, _SIDE, _SIDE)["macs"] for name, net in cut.items()}
    x = torch.randn(1, 1, _SIDE, _SIDE)
    with torch.inference_mode():
        times = compare(
            {name: partial(net, x) for name, net in cut.items()},
            seconds=2 if setting.quick else 20,
            threads=torch.get_num_threads(),
            engine="torch",
        )
    ratio = times["l3"].median_ms / times["l4"].median_ms
    return Finding(
        CARD.claims[1],
        "L3 saves 32.2% of the time of L4, on a graphics card",
        {
            "ratio": ratio,
            "macs_ratio": macs["l3"] / macs["l4"],
            **{f"{name}_ms": time.median_ms for name, time in times.items()},
        },
        "confirmed" if 0.55 <= ratio <= 0.75 else "refuted",
        f"{ratio:.2f} of the time, {macs['l3'] / macs['l4']:.2f} of the multiply-adds; 0.55 to "
        "0.75 was set as the bar beforehand",
    )


def _depths(runs: Sequence[Mapping[str, float]]) -> Finding:
    points = {f"l{d}": statistics.fmean(run[f"dice_l{d}"] for run in runs) for d in range(1, 5)}
    lost = {name: points["l4"] - value for name, value in points.items()}
    verdict: Outcome = "not decided"
    if len(runs) > 1:
        holds = lost["l3"] <= 1 and lost["l1"] > lost["l3"] + 1
        verdict = "confirmed" if holds else "refuted"
    return Finding(
        CARD.claims[2],
        "0.6 points of IoU on average; how much L1 loses depends on the task",
        {"dice_points": points, "lost_points": lost},
        verdict,
        f"Dice of L4 {points['l4']:.2f}; L3, L2, L1 lose {lost['l3']:.2f}, {lost['l2']:.2f}, "
        f"{lost['l1']:.2f}; the bar: at most 1 for L3, a point more for L1",
    )
