"""SpaRTAN: which of its mixers' parts, if any, is worth more than plain layers of its size?"""

from __future__ import annotations

import torch
from timm import create_model
from torch import nn

from sinet.layers import ConvNorm
from sinet.measurement.cost import cost
from sinet.models.spartan import Block, ChannelMixer, Conv, SpaRTAN, SpatialMixer
from sinet.papers._arms import Build, beats, contest
from sinet.papers.base import Card, Finding, Published, Setting

CARD = Card(
    slug="spartan",
    title="SpaRTAN: Spatial Reinforcement Token-based Aggregation Network for Visual Recognition",
    authors="Quan Bi Pay et al.",
    year=2025,
    venue="IJCNN 2025",
    url="https://arxiv.org/abs/2507.10999",
    licence="Apache-2.0 (henry-pay/SpaRTAN)",
    idea=(
        "Two views of each place, a near and a dilated one, each with its channels weighed; then "
        "channels modulate each other, the strongest one of a place speaks to all, and pairs of "
        "channels are turned as complex numbers before they are mixed."
    ),
    equations=(
        "p = W x + gamma (W x - mean(W x))",
        "SMixer(x) = V [SE(act(BN(conv3x3(p)))), SE(act(BN(dilated(dilated(p)))))]",
        "f = w theta + w_j theta_j, j = argmax_c x_c;  CMixer(x) = P SE(act(BN(conv3x3(c f))))",
    ),
    claims=(
        "3.8 M parameters and about 1 GFLOP (256 px)",
        "the channel mixer is more accurate than a convolutional MLP of equal parameters",
        "the spatial mixer is more accurate than a 7 x 7 depthwise mixer of equal parameters",
        "the complex product is worth having",
        "the strongest channel's term is worth having",
    ),
    models=("spartan",),
    parity=(
        "outputs of the authors' code in float64 at 224 px (its casts to float32 taken out), to "
        "1e-14 of their scale; the folded form gives the same output to 1e-12"
    ),
    published={
        "spartan": Published(3.8, 1.0, 77.7, size=256),
    },
)
SEEDS = (0, 1, 2)

SCALE = 0.3
"""Start of the branches' scales and of gamma: 1e-5 needs a longer training than this one."""


class Unturned(ChannelMixer):
    """The channel mixer without its complex product.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing."""
        return x


class Alone(ChannelMixer):
    """The channel mixer without the strongest channel's term.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix channels."""
        x = self.turned(self.proj(x) * self.act(self.theta(x)))
        return self.proj_out(self.se(self.act(self.conv(x))))  # type: ignore[no-any-return]


def reproduce(setting: Setting) -> list[Finding]:
    """The published cost, and networks that lack one part, or have plain layers for a mixer."""
    big = setting.device == "cuda"
    arms = {
        "full": _network(big),
        "conv_mlp": _network(big, "conv_mlp"),
        "dw7": _network(big, "dw7"),
        "unturned": _network(big, "unturned"),
        "no_strongest": _network(big, "no_strongest"),
    }
    if big:
        arms = {name: arms[name] for name in ("full", "conv_mlp", "dw7")}
    # the rule set beforehand asks for 8 epochs of 10,000 images; these fit in ten minutes
    found = contest(
        setting,
        arms,
        epochs=60 if big else 5,
        train_images=50_000 if big else 3_500,
        batch_size=256 if big else 64,
        seeds=SEEDS[:2] if big else SEEDS,
    )
    paper = "77.7 % ImageNet top-1 at 3.8 M parameters; no small experiment"
    findings = [
        _size(),
        beats(CARD.claims[1], paper, found, "full", ["conv_mlp"]),
        beats(CARD.claims[2], paper, found, "full", ["dw7"]),
    ]
    if not big:
        findings.append(beats(CARD.claims[3], paper, found, "full", ["unturned"]))
        findings.append(beats(CARD.claims[4], paper, found, "full", ["no_strongest"]))
    return findings


def _network(big: bool, change: str = "") -> Build:
    """SpaRTAN for 32 px: a stem of stride 2 (1 for the whole one), and one change to all blocks."""

    def build(num_classes: int, in_chans: int) -> nn.Module:
        dims, depths = ((32, 64, 128, 256), (3, 3, 12, 2)) if big else ((24, 48), (2, 2))
        expansions = (4, 4, 2, 2) if big else (2, 2)
        options = {"num_classes": num_classes, "in_chans": in_chans}
        net = SpaRTAN(dims, depths, expansions, **options)  # type: ignore[arg-type]
        first, act, second, last = net.stem
        for step in [second, first] if big else [second]:
            step.conv.stride = (1, 1)  # type: ignore[method-assign, assignment]
        net.stem = nn.Sequential(first, act, second, last)
        for block in net.modules():
            if isinstance(block, Block):
                _change(block, change)
                for scale in (block.scale1, block.scale2):
                    nn.init.constant_(scale, SCALE)
                if isinstance(block.smixer, SpatialMixer):
                    nn.init.constant_(block.smixer.gamma, SCALE)
        return net

    return build


def _change(block: Block, change: str) -> None:
    """Another mixer of equal size, or the same one without a part."""
    dim = block.scale1.shape[0]
    if change == "conv_mlp":
        target = _params(block.cmixer)
        # 1x1 with bias, depthwise 3x3 with BatchNorm, 1x1 with bias
        hidden = round((target - dim) / (2 * dim + 1 + 9 + 2))
        block.cmixer = nn.Sequential(  # type: ignore[assignment]
            nn.Conv2d(dim, hidden, 1),
            Conv(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, dim, 1),
        )
    elif change == "dw7":
        target = _params(block.smixer)
        # depthwise 7x7 with BatchNorm, 1x1 with bias, 1x1 with bias
        hidden = max(8, round((target - (49 + 2 + 1) * dim) / (2 * dim + 1)))
        block.smixer = nn.Sequential(  # type: ignore[assignment]
            ConvNorm(dim, dim, 7, groups=dim),
            nn.Conv2d(dim, hidden, 1),
            nn.GELU(),
            nn.Conv2d(hidden, dim, 1),
        )
    elif change in ("unturned", "no_strongest"):
        conv = block.cmixer.conv.conv
        shape = (dim, conv.in_channels // dim, conv.groups == conv.in_channels)
        if change == "no_strongest":
            block.cmixer = Alone(*shape)
        else:
            block.cmixer = Unturned(*shape)
            del block.cmixer.turn


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _size() -> Finding:
    model = create_model("spartan")
    found = cost(model, 256)
    right = abs(found.params / 3.8e6 - 1) < 0.01 and abs(found.macs / 1e9 - 1) < 0.1
    return Finding(
        CARD.claims[0],
        "3.8 M and about 1 GFLOP, as it counts multiply-adds",
        {"params": found.params, "macs": found.macs},
        "confirmed" if right else "refuted",
        f"{found.params / 1e6:.2f} M parameters, {found.macs / 1e9:.2f} G multiply-adds at 256 px",
    )
