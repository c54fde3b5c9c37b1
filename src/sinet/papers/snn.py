"""Self-normalizing networks: the fixed point in numbers, and deep networks without norm layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from sinet.models.snn import SNN, lecun_normal_, snn_widths
from sinet.papers._arms import Contest, beats, contest
from sinet.papers.base import Card, Finding, Outcome, Setting
from sinet.training.recipe import Recipe

CARD = Card(
    slug="snn",
    title="Self-Normalizing Neural Networks",
    authors="G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter",
    year=2017,
    venue="NeurIPS",
    url="https://arxiv.org/abs/1706.02515",
    licence="GPL-3.0 (bioinf-jku/SNNs), not used; written from the equations, Apache-2.0",
    idea=(
        "An activation whose two constants make mean 0 and variance 1 the attracting fixed point "
        "of every layer, so that fully connected networks of any depth train without norm layers."
    ),
    equations=(
        "selu(x) = l x for x > 0, l a (e^x - 1) otherwise; a = 1.67326324, l = 1.05070099",
        "weights ~ N(0, 1 / fan_in), biases 0",
        "alpha dropout: s (x m - l a (1 - m)) + t with m ~ Bernoulli(q), s and t keep (0, 1)",
    ),
    claims=(
        "mean and variance (0, 1) attract: from every start in the theorem's domain",
        "very large variances shrink, very small ones grow: no explosion, no vanishing",
        "networks of 32 layers train without normalisation",
        "SNNs are better than all other kinds of fully connected networks on 121 UCI tasks",
    ),
    models=("snn_mlp", "snn_cnn"),
    parity="tutorial MLP of the authors, float64, 1e-6; counts of MLP and CNN",
)
SEEDS = (0, 1, 2)

ALPHA, SCALE = 1.6732632423543772848, 1.0507009873554804934


def moment_map(
    mean: torch.Tensor, variance: torch.Tensor, total: torch.Tensor, squares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of SELU units whose inputs have `mean` and `variance`.

    The units' net inputs are taken as normal: N(mean x total, variance x squares).

    Args:
        mean: of the layer's inputs.
        variance: of the layer's inputs.
        total: sum of a unit's weights.
        squares: sum of a unit's squared weights.
    """
    m, v = mean * total, variance * squares
    s = v.sqrt()
    root = math.sqrt(2)
    low = torch.erfc(m / (root * s))
    once = torch.exp(m + v / 2) * torch.erfc((m + v) / (root * s))
    twice = torch.exp(2 * (m + v)) * torch.erfc((m + 2 * v) / (root * s))
    bell = math.sqrt(2 / math.pi) * s * torch.exp(-(m**2) / (2 * v))
    first = SCALE / 2 * (m * (2 - low) + ALPHA * (once - low) + bell)
    second = (m**2 + v) * (2 - low) + ALPHA**2 * (twice - 2 * once + low) + m * bell
    return first, SCALE**2 / 2 * second - first**2


def reproduce(setting: Setting) -> list[Finding]:
    """The theorems on grids; 32 layers on images; seven kinds of network at equal width."""
    return [
        _fixed_point(),
        _attracts(),
        _neither_explodes_nor_vanishes(),
        _deep(setting),
        _seven_kinds(setting),
    ]


def _grid(*ranges: tuple[float, float], points: int = 13) -> list[torch.Tensor]:
    axes = [torch.linspace(low, high, points, dtype=torch.float64) for low, high in ranges]
    return [axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")]


def _fixed_point() -> Finding:
    """g(0, 1) = (0, 1) for normalised weights, and its derivative there."""
    start = torch.tensor([0.0, 1.0], dtype=torch.float64)
    zero, one = start

    def step(state: torch.Tensor) -> torch.Tensor:
        return torch.stack(moment_map(state[0], state[1], zero, one))

    distance = float((step(start) - start).abs().max())
    jacobian = torch.func.jacrev(step)(start)
    norm = float(torch.linalg.matrix_norm(jacobian, 2))
    return Finding(
        "(0, 1) is a fixed point and attracts: the derivative's norm is below 1",
        "spectral norm 0.7877",
        {"distance": distance, "spectral_norm": norm},
        "confirmed" if distance < 1e-12 and norm < 1 else "refuted",
        f"moved by {distance:.1e}, spectral norm {norm:.4f}",
    )


def _attracts() -> Finding:
    """Theorem 1 on a grid: the domain maps into itself, and all starts end in one point."""
    mean, variance, total, squares = _grid((-0.1, 0.1), (0.8, 1.5), (-0.1, 0.1), (0.95, 1.1))
    state = moment_map(mean, variance, total, squares)
    low = [float(s.min()) for s in state]
    high = [float(s.max()) for s in state]
    inside = low[0] >= -0.1 and high[0] <= 0.1 and low[1] >= 0.8 and high[1] <= 1.5
    for _ in range(200):
        state = moment_map(*state, total, squares)
    shape = (13, 13, -1)  # starts first, weights last
    ends = [s.reshape(shape).flatten(0, 1) for s in state]
    spread = max(float((e.amax(0) - e.amin(0)).max()) for e in ends)
    return Finding(
        CARD.claims[0],
        "image within mean +-0.1, variance 0.80009 to 1.48617; one attracting fixed point",
        {"mean": [low[0], high[0]], "variance": [low[1], high[1]], "spread_after_200": spread},
        "confirmed" if inside and spread < 1e-9 else "refuted",
        f"mean {low[0]:.4f} to {high[0]:.4f}, variance {low[1]:.4f} to {high[1]:.4f} after one "
        f"layer; after 200 layers all starts within {spread:.1e}",
    )


def _neither_explodes_nor_vanishes() -> Finding:
    """Theorems 2 and 3 on grids: the largest and smallest change of the variance."""
    changes = []
    for means, variances, squares in (
        ((-1.0, 1.0), (3.0, 16.0), (0.8, 1.25)),
        ((-0.1, 0.1), (0.02, 0.16), (0.8, 1.25)),
        ((-0.1, 0.1), (0.02, 0.24), (0.9, 1.25)),
    ):
        mean, variance, total, square = _grid(means, variances, (-0.1, 0.1), squares)
        changes.append(moment_map(mean, variance, total, square)[1] - variance)
    most, least = float(changes[0].max()), [float(c.min()) for c in changes[1:]]
    return Finding(
        CARD.claims[1],
        "variances of 3 to 16 always shrink, of 0.02 to 0.16 (0.24) always grow",
        {"largest_change_of_large": most, "smallest_change_of_small": least},
        "confirmed" if most < 0 < min(least) else "refuted",
        f"large ones change by at most {most:.3f}, small ones by at least {min(least):+.4f}",
    )


def _recipe(setting: Setting) -> Recipe:
    """Plain SGD as in the article; images are not altered, so that depth alone matters."""
    epochs = 30 if setting.device == "cuda" else 8
    options = {"optimizer": "sgd", "lr": 0.01, "weight_decay": 0.0, "warmup": 0.1}
    return Recipe(epochs=epochs, batch_size=64, flip="none", crop="none").replace(**options)


def _deep(setting: Setting) -> Finding:
    """32 layers, once with SELU and once with ReLU, both with LeCun's initialisation."""
    arms = {"selu-32": _kind("selu", 32), "relu_lecun-32": _kind("relu_lecun", 32)}
    found = contest(setting, arms, size=16, recipe=_recipe(setting), seeds=SEEDS)
    means = {name: found.mean(name) for name in arms}
    verdict: Outcome = "not decided"
    if not setting.quick:
        trains, fails = means["selu-32"] > 75, means["relu_lecun-32"] < 50
        verdict = "confirmed" if trains and fails else "not decided" if trains else "refuted"
    return Finding(
        "32 layers train with SELU (above 75 %) where ReLU with the same weights does not",
        "8 to 32 layers train as well as few",
        {"top1": dict(found.top1), **found.conditions},
        verdict,
        ", ".join(f"{name} {mean:.1f}%" for name, mean in means.items()),
    )


def _seven_kinds(setting: Setting) -> Finding:
    """The article's seven kinds of network at depth 16, on images: the 121 tasks are not here."""
    arms = {kind: _kind(kind, 16) for kind in _KINDS if kind != "relu_lecun"}
    found: Contest = contest(setting, arms, size=16, recipe=_recipe(setting), seeds=SEEDS)
    return beats(
        "SNNs beat the six other kinds at 16 layers (images; the UCI tables are not bundled)",
        "best average rank of seven kinds on 121 UCI tasks",
        found,
        "selu",
        [kind for kind in arms if kind != "selu"],
    )


Build = Callable[[int, int], nn.Module]


def _kind(kind: str, depth: int, width: int = 128) -> Build:
    """A builder of a network of one kind for images of 16 px."""

    def build(num_classes: int, in_chans: int) -> nn.Module:
        if kind == "selu":
            widths = snn_widths(depth, width)
            return SNN(widths, num_classes=num_classes, in_chans=in_chans, img_size=16)
        first = nn.Linear(in_chans * 16 * 16, width)
        hidden = _KINDS[kind](depth - 1, width)
        network = nn.Sequential(nn.Flatten(), first, *hidden, nn.Linear(width, num_classes))
        for layer in (m for m in network.modules() if isinstance(m, nn.Linear)):
            if kind == "relu_lecun":
                lecun_normal_(layer)
            elif kind != "weightnorm":  # whose direction and length are parameters of their own
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        return network

    return build


def _plain(depth: int, width: int) -> Sequence[nn.Module]:
    pairs = ((nn.ReLU(), nn.Linear(width, width)) for _ in range(depth))
    return [*(module for pair in pairs for module in pair), nn.ReLU()]


def _normed(norm: Callable[[int], nn.Module]) -> Callable[[int, int], Sequence[nn.Module]]:
    def layers(depth: int, width: int) -> Sequence[nn.Module]:
        triples = ((norm(width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth))
        return [*(m for triple in triples for m in triple), norm(width), nn.ReLU()]

    return layers


def _weightnorm(depth: int, width: int) -> Sequence[nn.Module]:
    layers = list(_plain(depth, width))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            weight_norm(layer)
    return layers


class _Residual(nn.Module):
    """`x + W2 relu(W1 relu(x))`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_plain(2, width)[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.branch(x)
        return out


class _Highway(nn.Module):
    """`g relu(W x) + (1 - g) x`, the gate g = sigmoid(V x - 2) mostly closed at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.gate(x) - 2)
        return gate * torch.relu(self.fc(x)) + (1 - gate) * x


_KINDS: dict[str, Callable[[int, int], Sequence[nn.Module]]] = {
    "selu": _plain,  # built as SNN, see _kind
    "relu_lecun": _plain,
    "relu_he": _plain,
    "batchnorm": _normed(nn.BatchNorm1d),
    "layernorm": _normed(nn.LayerNorm),
    "weightnorm": _weightnorm,
    "highway": lambda depth, width: [_Highway(width) for _ in range(depth)],
    "resnet": lambda depth, width: [_Residual(width) for _ in range(depth // 2)],
}
