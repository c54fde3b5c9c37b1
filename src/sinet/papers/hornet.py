"""HorNet: what order n can express, at which cost, and whether it helps at equal multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sinet.layers.gn_conv import GlobalFilter, GnConv, gn_conv_macs
from sinet.models.hornet import HorNet
from sinet.papers._arms import Build, beats, contest
from sinet.papers.base import Card, Finding, Outcome, Published, Setting

CARD = Card(
    slug="hornet",
    title="HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions",
    authors="Y. Rao, W. Zhao, Y. Tang, J. Zhou, S.-N. Lim, J. Lu",
    year=2022,
    venue="NeurIPS 2022",
    url="https://arxiv.org/abs/2207.14284",
    licence="MIT (raoyongming/HorNet); rewritten here",
    idea=(
        "Self-attention multiplies features of two places with each other. A convolution can do "
        "so too: multiply the map by a convolution of itself, widen, and repeat. Each repetition "
        "adds one factor, and because the early ones are narrow, any number of them costs little "
        "more than one."
    ),
    equations=(
        "p, q = split(proj_in(x)); q_0 .. q_(n-1) = split(spatial(q) / 3)",
        "y = p * q_0; y = pws_k(y) * q_(k+1); out = proj_out(y)",
        "MACs a pixel = C^2 (3 + 2/3 (1 - 4^(1-n))) + K^2 C (2 - 2^(1-n))",
    ),
    claims=(
        "an operator of order n forms products of up to n + 1 places",
        "higher orders cost little more: below 11/3 C^2 + 2 K^2 C multiply-adds a pixel",
        "better than ConvNeXt at its layout and recipe: 82.8 (7x7) and 83.0 (GF) against 82.1%",
    ),
    models=(
        "hornet_tiny_7x7",
        "hornet_tiny_gf",
        "hornet_small_7x7",
        "hornet_small_gf",
        "hornet_base_7x7",
        "hornet_base_gf",
        "hornet_large_7x7",
        "hornet_large_gf",
    ),
    parity="hornet_tiny_7x7 and hornet_tiny_gf of the authors, float64, to 1e-15",
    published={
        "hornet_tiny_7x7": Published(22, 4.0, 82.8),
        "hornet_tiny_gf": Published(23, 3.9, 83.0),
        "hornet_small_7x7": Published(50, 8.8, 83.8),
        "hornet_small_gf": Published(50, 8.7, 84.0),
        "hornet_base_7x7": Published(87, 15.6, 84.2),
        "hornet_base_gf": Published(88, 15.5, 84.3),
        # their 209 and 211 M are with the classifier of ImageNet-22K
        "hornet_large_7x7": Published(None, 34.8),
        "hornet_large_gf": Published(None, 34.7),
    },
    caveat=(
        "The large networks were trained on ImageNet-22K. Our multiply-adds leave the FFT out."
    ),
)
SEEDS = (0, 1, 2)

_OFFSETS = ((0, 0), (1, -1), (-2, 1), (2, 2), (-1, -3))
_WIDTH, _SIZE, _RIM, _STEPS, _BATCH = 32, 16, 4, 250, 16


def reproduce(setting: Setting) -> list[Finding]:
    """Exact properties of the operators, products of pixels, accuracy at equal multiply-adds."""
    return [_exact(), _products(setting.quick), _accuracy(setting)]


def _exact() -> Finding:
    """Degree n + 1, the closed form of the cost, and that a filter of ones changes nothing."""
    torch.manual_seed(0)
    x = torch.randn(1, 64, 9, 10, dtype=torch.float64)
    measured: dict[str, float] = {}
    for order in range(1, 6):
        layer = _without_biases(GnConv(64, order).double())
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            once = layer(x)
        with torch.no_grad():
            twice = layer(2 * x)
        measured[f"degree_error_{order}"] = _error(twice, 2 ** (order + 1) * once)
        counted = flops.get_total_flops() / 2 / 90
        measured[f"macs_error_{order}"] = abs(counted / gn_conv_macs(64, order) - 1)
        measured[f"macs_per_pixel_{order}"] = counted
    ones = GlobalFilter(64, (14, 8)).double()
    ones.complex_weight.data = torch.tensor([1.0, 0.0]).double().expand(64, 14, 8, 2).clone()
    with torch.no_grad():
        measured["filter_of_ones_error"] = _error(ones(x), x)
        measured["filter_by_products_error"] = _error(ones.by_products(x), x)
    bound = 11 / 3 * 64**2 + 2 * 49 * 64
    right = all(v < 1e-9 for k, v in measured.items() if "error" in k)
    right &= measured["macs_per_pixel_5"] < bound
    return Finding(
        "gnConv is of degree n + 1 and costs what the formula says, below its bound",
        "11/3 C^2 + 2 K^2 C multiply-adds a pixel at most",
        {**measured, "bound": bound},
        "confirmed" if right else "refuted",
        f"orders 1 to 5 at 64 channels: {measured['macs_per_pixel_1']:.0f} to "
        f"{measured['macs_per_pixel_5']:.0f} multiply-adds a pixel, bound {bound:.0f}",
    )


def _without_biases(layer: nn.Module) -> nn.Module:
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return layer


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _products(quick: bool) -> Finding:
    """Train one bare operator on the sign of the product of m pixels, for every order and m."""
    mixers: dict[str, Callable[[], nn.Module]] = {
        f"order_{n}": lambda n=n: GnConv(_WIDTH, n, scale=1.0)  # type: ignore[misc]
        for n in range(1, 3 if quick else 5)
    }
    if not quick:
        mixers["convnext"] = lambda: ConvNeXtBlock(_WIDTH, ls_init_value=None)
    factors, seeds = ((2, 3), (0,)) if quick else ((2, 3, 4), SEEDS)
    measured: dict[str, Any] = {
        f"{name}_of_{m}": [_learn(make, m, seed) for seed in seeds]
        for name, make in mixers.items()
        for m in factors
    }
    wrong = []
    for name, values in measured.items():
        if name.startswith("order"):
            _, order, _, m = name.split("_")
            can = int(m) <= int(order) + 1
            if (min(values) <= 0.95) if can else (max(values) >= 0.6):
                wrong.append(name)
    verdict: Outcome = "refuted" if wrong else "confirmed"
    listed = "; ".join(f"{k} {min(v):.2f}-{max(v):.2f}" for k, v in measured.items())
    return Finding(
        "a bare operator of order n learns the product of m pixels if and only if m <= n + 1",
        "products of n + 1 places; no experiment of this kind",
        {**measured, "steps": _STEPS, "seeds": list(seeds)},
        "not decided" if quick else verdict,
        f"accuracy (chance 0.5): {listed}" + (f"; against it: {', '.join(wrong)}" if wrong else ""),
    )


def _learn(make: Callable[[], nn.Module], m: int, seed: int) -> float:
    """Accuracy on fresh images after training 1x1 -> operator -> 1x1."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, _WIDTH, 1), make(), nn.Conv2d(_WIDTH, 1, 1))
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=_STEPS)
    for _ in range(_STEPS):
        x, target = _signs(m)
        loss = F.binary_cross_entropy_with_logits(_inner(network(x)), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        right = [(_inner(network(x)) > 0) == (y > 0.5) for x, y in (_signs(m) for _ in range(8))]
    return float(torch.cat(right).double().mean())


def _signs(m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of independent -1 and 1; 1 where the product of m neighbours is positive, else 0."""
    x = torch.randint(0, 2, (_BATCH, 1, _SIZE, _SIZE)).float() * 2 - 1
    product = torch.ones_like(x)
    for dy, dx in _OFFSETS[:m]:
        product = product * x.roll((-dy, -dx), (2, 3))
    return x, (_inner(product) + 1) / 2


def _inner(x: torch.Tensor) -> torch.Tensor:
    """Without the rim, where neighbours lie outside."""
    return x[:, :, _RIM:-_RIM, _RIM:-_RIM]


def _accuracy(setting: Setting) -> Finding:
    """HorNet against ConvNeXt of equal multiply-adds; on a GPU also order 1 and global filters."""
    large = setting.device == "cuda"
    arms: dict[str, Build] = {"hornet": _hornet((2, 3, 4, 5)), "convnext": _convnext}
    if large:
        arms["order_1"] = _hornet((1, 1, 1, 1))
        arms["hornet_gf"] = _hornet((2, 3, 4, 5), ((8, 5), (4, 3)))
    found = contest(
        setting,
        arms,
        epochs=30 if large else 6,
        train_images=50_000 if large else 6_000,
        batch_size=256 if large else 64,
        seeds=SEEDS,
    )
    return beats(
        "more accurate than ConvNeXt at equal multiply-adds, micro networks at 32 px",
        CARD.claims[2],
        found,
        "hornet",
        [name for name in ("convnext", "order_1") if name in arms],
    )


def _hornet(
    orders: Sequence[int], filters: Sequence[tuple[int, int] | None] = (None, None)
) -> Build:
    """HorNet for 32 px: a stem of 2 x 2, layer scale at 1."""

    def build(num_classes: int, in_chans: int) -> nn.Module:
        network = HorNet(
            24,
            (1, 2, 4, 1),
            orders,
            (None, None, *filters),
            layer_scale=1.0,
            num_classes=num_classes,
            in_chans=in_chans,
        )
        network.stem[0] = nn.Conv2d(in_chans, 24, 2, 2)
        return network

    return build


def _convnext(num_classes: int, in_chans: int) -> nn.Module:
    """ConvNeXt of the same layout, wider, so that it costs the same."""
    network = ConvNeXt(
        in_chans,
        num_classes,
        depths=(1, 2, 4, 1),
        dims=(29, 58, 116, 232),
        ls_init_value=1.0,
    )
    network.stem[0] = nn.Conv2d(in_chans, 29, 2, 2)
    assert isinstance(network, nn.Module)
    return network
