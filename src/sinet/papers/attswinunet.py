"""Att-SwinU-Net: what its two kinds of attention change, exactly and in a small contest."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from sinet.models import create_network
from sinet.models.attswinunet import AttSwinUNet, CrossContextualAttention
from sinet.papers._dense import (
    better,
    dice,
    figures,
    predict,
    smooth_noise,
    trainings,
    uniform,
)
from sinet.papers.base import Card, Finding, Setting

CARD = Card(
    slug="attswinunet",
    title="Attention Swin U-Net: Cross-Contextual Attention Mechanism for Skin Lesion Segmentation",
    authors="Ehsan Khodapanah Aghdam, Reza Azad, Maral Zarvani, Dorit Merhof",
    year=2023,
    venue="ISBI 2023",
    url="https://arxiv.org/abs/2210.16898",
    licence="none stated (NITR098/AttSwinUNet); nothing of it was read",
    idea=(
        "A U-Net of Swin stages whose skips do more than concatenate: class tokens that sum up "
        "one stream read the other's tokens, and the encoder's attention maps guide the "
        "decoder's. In the released code the maps have no effect and the class tokens change one "
        "token a stream; both are here as released and as the paper describes them."
    ),
    equations=(
        "cls_s = mean(s), s = a (decoder), b (encoder)",
        "twice: cls_a += Attn(LN(cls_a); [LN(cls_a), b]), and cls_b likewise from a",
        "out = Linear([cls_a and a, cls_b and b])",
    ),
    claims=(
        "the released cross attention, 5.5 M parameters, changes one token of a stream",
        "attention in the skips is better than concatenation (Swin-Unet)",
        "class tokens added to all tokens are better than concatenation",
        "the encoder's attention maps in the decoder are better than concatenation",
    ),
    models=("attswinunet", "attswinunet_lite", "swinunet", "swinunet_lite"),
    parity=(
        "outputs of the released code, repaired so that it runs, in float64 at 224 px to 2e-15"
    ),
)
SEEDS = (0, 1)

_PAPER = (
    "Dice 91.05 against 89.46 on ISIC 2018 (from a later paper's table); those images and the "
    "pre-trained weights are not to be had here: painted lesions stand in for them"
)


def reproduce(setting: Setting) -> list[Finding]:
    """What reaches the output, exactly; then networks that differ in their skips."""
    big = setting.device == "cuda"
    side = 224 if big else 64
    common: dict[str, Any] = {"num_classes": 2}
    if not big:
        common |= {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8),
                   "window_size": 4, "img_size": side, "cross_heads": 2,
                   "cross_head_dim": 24}  # fmt: skip
    build = partial(create_network, "attswinunet", **common)
    arms = {
        "swin": partial(build, cross_skips=0),
        # as many parameters as with attention, spent on width
        "wide_swin": partial(build, cross_skips=0, embed_dim=102 if big else 25),
        "cross": build,
        "cross_broadcast": partial(build, class_token="broadcast"),
        "spatial_add": partial(build, cross_skips=0, spatial_attention="add"),
    }
    images, labels = lesions(torch.Generator().manual_seed(99), 20 if setting.quick else 200, side)

    def measure(model: nn.Module) -> dict[str, float]:
        return {"dice": dice(predict(model, images), labels, 1)}

    results = trainings(
        setting,
        arms,
        partial(lesions, side=side),
        measure,
        steps=1250 if big else 300,
        batch_size=24 if big else 16,
        lr=5e-4,
        seeds=(0, 1, 2) if big else SEEDS,
    )
    sizes = {name: figures(make(), 1, 3, side, side) for name, make in arms.items()}
    conditions = {
        "params": {name: size["params"] for name, size in sizes.items()},
        "macs": {name: size["macs"] for name, size in sizes.items()},
        "data": f"painted lesions, {side} px, no pre-training",
    }
    return [
        _reach(),
        _share(),
        *(
            better(claim, _PAPER, results, conditions, by="dice", ours=ours, others=others)
            for claim, ours, others in (
                (CARD.claims[1] + ", as released", "cross", ["swin", "wide_swin"]),
                (CARD.claims[2], "cross_broadcast", ["swin", "wide_swin"]),
                (CARD.claims[3], "spatial_add", ["swin"]),
            )
        ),
    ]


def lesions(generator: torch.Generator, count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pale skin with a darker spot of irregular outline, hairs, shade at the edges, a colour cast.

    Shapes: (count, 3, side, side), (count, side, side)
    """

    def amount(low: float, high: float) -> torch.Tensor:
        return uniform(generator, count, low, high, 2)

    def noise(knots: int) -> torch.Tensor:
        return smooth_noise(generator, count, (side, side), knots)

    axis = torch.linspace(-1, 1, side)
    y, x = axis[:, None].expand(side, side), axis.expand(side, side)
    across, down = x - amount(-0.4, 0.4), y - amount(-0.4, 0.4)
    inside = 1 - (across / amount(0.2, 0.6)) ** 2 - (down / amount(0.2, 0.6)) ** 2
    inside = inside + 0.35 * noise(7)
    # as dark as the lesion, but without an outline: what is near must be weighed against the whole
    shade = 0.15 * noise(3) + 0.25 * amount(0, 1) * (x**2 + y**2)
    spot = amount(0.1, 0.3) * (inside / 0.3).sigmoid() * (1 + 0.3 * noise(9))
    light = 0.75 - shade - spot + 0.03 * noise(side // 2)
    for _ in range(3):
        slope, bend = amount(-2, 2), amount(-0.5, 0.5)
        distance = (y - slope * x - bend * (4 * x).sin() - amount(-1, 1)).abs()
        light = light - amount(0, 0.4) * (-((distance / 0.03) ** 2)).exp()
    tint = torch.tensor([1.0, 0.8, 0.7]).reshape(3, 1, 1)
    cast = 1 + 0.1 * torch.randn(count, 3, 1, 1, generator=generator)
    images = light * tint * cast
    images = images + 0.03 * torch.randn(images.shape, generator=generator)
    return 4 * images - 2, (inside[:, 0] > 0).long()


@torch.inference_mode()
def _reach() -> Finding:
    """How many tokens, and pixels, one cross attention can change."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 196, 384).unbind(0)
    changed = {}
    for how in ("replace_first", "broadcast"):
        out, _ = CrossContextualAttention(384, 8, 64, how)(a, b)
        changed[how] = int((out != a).any(-1).sum())
    model = create_network("attswinunet_lite").eval()
    assert isinstance(model, AttSwinUNet)
    x = torch.randn(1, 3, 224, 224)
    before = model(x)
    attention = model.skips[0].get_submodule("cross.layers.1.0.proj")
    attention.get_parameter("bias").add_(1)
    pixels = int((model(x) != before).any(1).sum())
    cross = sum(p.numel() for skip in model.skips for p in skip.get_submodule("cross").parameters())
    measured = {
        "tokens": 196,
        "tokens_changed_as_released": changed["replace_first"],
        "tokens_changed_broadcast": changed["broadcast"],
        "pixels_changed_by_the_finest_skip": pixels,
        "pixels": 224 * 224,
        "cross_attention_params": cross,
    }
    return Finding(
        CARD.claims[0],
        "cross-contextual attention over the tokens of both streams",
        measured,
        "confirmed" if changed["replace_first"] == 1 else "refuted",
        f"{changed['replace_first']} of 196 tokens (broadcast: {changed['broadcast']}); the finest "
        f"skip's reaches {pixels / 224**2:.1%} of the pixels; {cross / 1e6:.2f} M parameters",
    )


@torch.inference_mode()
def _share() -> Finding:
    """The maps matter only where they are combined before they are used."""
    outputs = {}
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for how in ("off", "add", "mul"):
        torch.manual_seed(0)
        outputs[how] = create_network("swinunet_lite", spatial_attention=how).eval()(x)
    scale = outputs["off"].std()
    moved = {how: float((outputs[how] - outputs["off"]).std() / scale) for how in ("add", "mul")}
    return Finding(
        "sharing attention maps changes the output when it is done before they weigh the values",
        "the encoder's maps guide the decoder's; the released code adds them after their use",
        {f"change_{how}": value for how, value in moved.items()},
        "confirmed" if min(moved.values()) > 0 else "refuted",
        f"the output moves by {moved['add']:.1%} (add), {moved['mul']:.1%} (mul) of its deviation "
        "with fresh weights; in the released code by nothing",
    )
