"""H-DenseUNet: does a 3-D network behind a 2-D one find what only the third axis tells?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from sinet.models import create_network
from sinet.models.hdenseunet import DenseUNet3d, HDenseUNet
from sinet.papers._dense import better, dice, figures, predict, smooth_noise, trainings, uniform
from sinet.papers.base import Card, Finding, Setting

CARD = Card(
    slug="hdenseunet",
    title=(
        "H-DenseUNet: Hybrid Densely Connected UNet for Liver and Tumor Segmentation from CT "
        "Volumes"
    ),
    authors="Xiaomeng Li, Hao Chen, Xiaojuan Qi, Qi Dou, Chi-Wing Fu, Pheng-Ann Heng",
    year=2018,
    venue="IEEE Transactions on Medical Imaging",
    url="https://arxiv.org/abs/1709.07330",
    licence="none stated (xmengli/H-DenseUNet); nothing of it was read",
    idea=(
        "A deep 2-D network, which can be pre-trained, looks at every slice with its neighbours; "
        "a thin 3-D network reads the volume together with the 2-D scores; the last maps of both "
        "are added and fused. The plane is left to 2-D, the third axis to 3-D."
    ),
    equations=(
        "s_i, u_i = f(V_(i-1), V_i, V_(i+1))",
        "u' = g([V, 250 s])",
        "out = HFF(u + u')",
    ),
    claims=(
        "the hybrid has 61.2 M parameters and 302.9 G multiply-adds at 224 x 224 x 8",
        "the hybrid segments lesions better than the 2-D network",
        "it tells lesions better from what looks like them in the plane only",
        "scores of the 2-D network as an input (auto-context) help the 3-D network",
        "the hybrid is better than the 3-D network alone",
    ),
    models=(
        "hdenseunet",
        "hdenseunet_skip",
        "hdenseunet_2d",
        "hdenseunet_2d_noskip",
        "hdenseunet_3d",
    ),
    parity=(
        "outputs of the authors' Keras graphs in float64: the 2-D network with and without skips "
        "and the hybrid, to 1e-14"
    ),
)
SEEDS = (0, 1)

_SIDES = (64, 64, 12)
_SIDES_BIG = (96, 96, 12)
_NARROW_2D: dict[str, Any] = {"depths": (2, 4, 6, 4), "growth": 12, "stem_width": 24}
_NARROW_3D: dict[str, Any] = {"depths": (1, 2, 3, 2), "growth": 8, "stem_width": 16}
_PAPER = (
    "LiTS, Dice per case 72.2 (lesion), 96.1 (liver); those volumes are not to be had here: "
    "painted ones stand in for them"
)


class Planar(HDenseUNet):
    """The 2-D network alone, over every slice with its neighbours."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net3d, self.fusion, self.classifier = (nn.Identity() for _ in range(3))  # type: ignore[assignment]

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Scores of every slice."""
        return self.forward_planar(volume)[0]


class NoContext(HDenseUNet):
    """The hybrid whose 3-D network sees zeros in the place of scores."""

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Scores of every voxel."""
        scores, planar = self.forward_planar(volume)
        spatial = self.net3d(torch.cat([volume, torch.zeros_like(scores)], 1))
        return self.classifier(self.fusion(spatial + planar))  # type: ignore[no-any-return]


def reproduce(setting: Setting) -> list[Finding]:
    """Costs; then the parts and the whole on painted volumes with lesions and decoys."""
    big = setting.device == "cuda"
    sides = _SIDES_BIG if big else _SIDES
    hybrid: dict[str, Any] = {
        "planar": _NARROW_2D, "volume": _NARROW_3D, "width": 16, "skips": True, "drop_rate": 0.1,
    }  # fmt: skip
    arms: dict[str, Callable[[], nn.Module]] = {
        "planar": partial(Planar, **hybrid),
        "hybrid": partial(HDenseUNet, **hybrid),
    }
    if big:
        arms["no_context"] = partial(NoContext, **hybrid)
        arms["volume"] = partial(DenseUNet3d, width=16, **_NARROW_3D)
    images, labels, decoys = volumes(
        torch.Generator().manual_seed(99), 2 if setting.quick else 16, sides
    )

    def measure(model: nn.Module) -> dict[str, float]:
        found = predict(model, images)
        marked = (found == 2).float()
        # of lesions and of decoys, weighed alike: who marks all or nothing gets 50
        told_apart = 50 * (1 + marked[labels == 2].mean() - marked[decoys].mean())
        return {"lesion_dice": dice(found, labels, 2), "told_apart": float(told_apart)}

    results = trainings(
        setting,
        arms,
        lambda generator, count: volumes(generator, count, sides)[:2],
        measure,
        steps=1500 if big else 200,
        batch_size=2 if big else 1,
        lr=1e-3,
        seeds=(0, 1, 2) if big else SEEDS,
    )
    sizes = {name: figures(make(), 1, 1, *sides) for name, make in arms.items()}
    conditions = {
        "params": {name: size["params"] for name, size in sizes.items()},
        "macs": {name: size["macs"] for name, size in sizes.items()},
        "data": f"painted volumes of {' x '.join(map(str, sides))}",
    }
    pairs = [(1, "lesion_dice", "planar"), (2, "told_apart", "planar")]
    if big:
        pairs += [(3, "lesion_dice", "no_context"), (4, "lesion_dice", "volume")]
    return [
        _costs(),
        *(
            better(
                CARD.claims[claim], _PAPER, results, conditions,
                by=by, ours="hybrid", others=[other],
            )
            for claim, by, other in pairs
        ),
    ]  # fmt: skip


def volumes(
    generator: torch.Generator, count: int, sides: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A body with an organ; in it lesions, and decoys that end after two slices at most.

    Shapes: (count, 1, H, W, Z) of about a Hounsfield window; (count, H, W, Z) with 1 the organ and
    2 the lesions; (count, H, W, Z), true in decoys
    """
    high, wide, deep = sides
    y = torch.linspace(-1, 1, high).reshape(-1, 1, 1)
    x = torch.linspace(-1, 1, wide).reshape(1, -1, 1)
    z = torch.arange(deep).reshape(1, 1, -1)

    def amount(low: float, high: float) -> torch.Tensor:
        return uniform(generator, count, low, high, 3)

    def blobs(low: float, high: float) -> torch.Tensor:
        """Three ellipsoids of the same look in the plane, `low` to `high` slices up and down."""
        found = torch.zeros(count, 1, *sides, dtype=torch.bool)
        for _ in range(3):
            across, down = (x - amount(-0.4, 0.4)), (y - amount(-0.4, 0.4))
            along = (z - amount(0, deep - 1).round()) / amount(low, high)
            size = amount(0.1, 0.2)
            found |= (across / size) ** 2 + (down / size) ** 2 + along**2 < 1
        return found

    body = (x**2 + y**2 < 0.9).expand(count, 1, *sides)
    outline = (x / amount(0.6, 0.8)) ** 2 + (y / amount(0.6, 0.8)) ** 2
    organ = outline + 0.15 * smooth_noise(generator, count, sides, 5) < 1
    lesions = blobs(3.0, 5.0) & organ
    decoys = blobs(0.6, 1.4) & organ & ~lesions
    image = -100.0 + 120.0 * body + 40.0 * organ
    image = image - amount(25, 45) * (lesions | decoys)
    image = image + 8 * smooth_noise(generator, count, sides, 9)
    image = image + 15 * torch.randn(image.shape, generator=generator)
    return image, (organ.long() + lesions)[:, 0], decoys[:, 0]


def _costs() -> Finding:
    with torch.device("meta"):
        whole, part = create_network("hdenseunet"), create_network("hdenseunet_2d_noskip")
    found = figures(whole, 1, 1, 224, 224, 8)
    planar = 8 * figures(part, 1, 3, 224, 224)["macs"]
    right = found["params"] == 61_195_054 and abs(found["macs"] / 302.9e9 - 1) < 2e-3
    return Finding(
        CARD.claims[0],
        "the released graph, counted: 61,195,054 parameters and 302.9 G",
        {**found, "macs_of_the_2d_part": planar},
        "confirmed" if right else "refuted",
        f"{found['params'] / 1e6:.1f} M, {found['macs'] / 1e9:.1f} G, of which the 2-D network "
        f"{planar / 1e9:.0f} G",
    )
