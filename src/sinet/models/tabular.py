"""Fully connected networks for rows of numbers: self-normalizing ones, and what they are held to.

"Self-Normalizing Neural Networks", arXiv 1706.02515, compares seven kinds of such networks on
tables. All are built here from one set of options; `sinet.models.snn` has those for images.

- snn: SELU behind each layer, alpha dropout, weights N(0, 1 / fan_in)
- relu: He's weights (arXiv 1502.01852), nothing else ("MSRAinit" in the article)
- batchnorm, layernorm, weightnorm: ReLU with arXiv 1502.03167, 1607.06450, 1602.07868
- highway: `g relu(W x) + (1 - g) x` with the gate g = sigmoid(V x - 2), arXiv 1505.00387
- resnet: `x + W2 relu(W1 relu(x))`, arXiv 1512.03385, two layers a block

Written from the articles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.errors import UsageError, unknown
from sinet.models._networks import register_for
from sinet.models.snn import lecun_normal_, snn_widths

__all__ = ["KINDS", "TableNet"]


class HeLinear(nn.Linear):
    """`W x + b` that starts with weights N(0, 2 / fan_in) and biases zero.

    Shape: (B, in_features) -> (B, out_features)
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)


class WeighedLinear(HeLinear):
    """`g v x / |v| + b`: length and direction of each unit's weights are parameters of their own.

    PyTorch's `weight_norm` says the same with an operator that cannot be batched over networks.

    Shape: (B, in_features) -> (B, out_features)
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.length = nn.Parameter(self.weight.detach().norm(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.length / self.weight.norm(dim=1)
        return F.linear(x, self.weight * scale[:, None], self.bias)


class SelfNormalizing(nn.Sequential):
    """`drop(selu(W x + b))`, alpha dropout.

    Shape: (B, in_features) -> (B, out_features)
    """

    def __init__(self, in_features: int, out_features: int, drop_rate: float) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, out_features)
        lecun_normal_(self.fc)
        self.act = nn.SELU()
        self.drop = nn.AlphaDropout(drop_rate)


class Rectified(nn.Sequential):
    """`drop(relu(norm(W x + b)))`.

    Shape: (B, in_features) -> (B, out_features)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        drop_rate: float,
        norm: Callable[[int], nn.Module] = lambda width: nn.Identity(),
        linear: type[HeLinear] = HeLinear,
    ) -> None:
        super().__init__()
        self.fc = linear(in_features, out_features)
        self.norm = norm(out_features)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(drop_rate)


class Residual(nn.Module):
    """`x + W2 drop(relu(W1 relu(x)))`; counts as two layers.

    Shape: (B, width) -> (B, width)
    """

    def __init__(self, width: int, drop_rate: float) -> None:
        super().__init__()
        self.act, self.first = nn.ReLU(), Rectified(width, width, drop_rate)
        self.second = HeLinear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(self.act(x)))
        return out


class Highway(nn.Module):
    """`g relu(W x) + (1 - g) x`; the gate is mostly closed at first.

    Shape: (B, width) -> (B, width)
    """

    def __init__(self, width: int, drop_rate: float) -> None:
        super().__init__()
        self.fc, self.gate = HeLinear(width, width), nn.Linear(width, width)
        self.drop = nn.Dropout(drop_rate)
        lecun_normal_(self.gate)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        out: Tensor = self.drop(gate * torch.relu(self.fc(x)) + (1 - gate) * x)
        return out


Layer = Callable[[int, int, float], nn.Module]
"""(inputs, outputs, dropout) -> a hidden layer."""
_LAYERS: dict[str, Layer] = {
    "snn": SelfNormalizing,
    "relu": Rectified,
    "batchnorm": partial(Rectified, norm=nn.BatchNorm1d),
    "layernorm": partial(Rectified, norm=nn.LayerNorm),
    "weightnorm": partial(Rectified, linear=WeighedLinear),
}
_BLOCKS: dict[str, tuple[Callable[[int, float], nn.Module], int]] = {
    "highway": (Highway, 1),
    "resnet": (Residual, 2),
}
"""Kinds whose layers keep their width: their block, and how many layers it counts for."""
KINDS = (*_LAYERS, *_BLOCKS)


class TableNet(nn.Module):
    """Hidden layers of one kind, then a linear one.

    Shape: (B, in_chans) -> (B, num_classes)
    """

    def __init__(
        self,
        kind: str,
        num_classes: int,
        in_chans: int,
        depth: int = 8,
        width: int = 128,
        form: str = "rect",
        drop_rate: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            kind: of `KINDS`.
            num_classes: outputs.
            in_chans: numbers in a row.
            depth: hidden layers.
            width: of the first.
            form: `rect`, or `conic`: widths shrink geometrically towards the outputs.
            drop_rate: dropout behind every hidden layer, alpha dropout of SNNs.

        Raises:
            UsageError: another kind or form, or one that does not go with the kind.
        """
        super().__init__()
        if kind not in KINDS:
            raise unknown("kind of network", kind, KINDS)
        if depth < 1:
            raise UsageError(f"depth {depth} given; at least one hidden layer expected")
        self.num_classes, self.in_chans = num_classes, in_chans
        if kind in _LAYERS:
            widths = snn_widths(depth, width, form, num_classes)
            made = zip((in_chans, *widths), widths, strict=False)
            layers = [_LAYERS[kind](*pair, drop_rate) for pair in made]
        else:
            widths = (width,)
            layers = self._blocks(kind, depth, width, form, drop_rate)
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], num_classes)
        lecun_normal_(self.fc)

    def _blocks(
        self, kind: str, depth: int, width: int, form: str, drop_rate: float
    ) -> list[nn.Module]:
        """A layer that brings the row to the width, then blocks."""
        if form != "rect":
            raise UsageError(f"{kind} adds its input to its output, so widths are equal; use rect")
        block, counts = _BLOCKS[kind]
        blocks = [block(width, drop_rate) for _ in range((depth - 1) // counts)]
        return [Rectified(self.in_chans, width, drop_rate), *blocks]

    def forward(self, x: Tensor) -> Tensor:
        """Rows to logits."""
        logits: Tensor = self.fc(self.layers(x))
        return logits


@register_for("tabular")
def table_snn(**kwargs: Any) -> nn.Module:
    """Self-normalizing."""
    return TableNet("snn", **kwargs)


@register_for("tabular")
def table_relu(**kwargs: Any) -> nn.Module:
    """ReLU with He's weights."""
    return TableNet("relu", **kwargs)


@register_for("tabular")
def table_batchnorm(**kwargs: Any) -> nn.Module:
    """ReLU with batch normalisation."""
    return TableNet("batchnorm", **kwargs)


@register_for("tabular")
def table_layernorm(**kwargs: Any) -> nn.Module:
    """ReLU with layer normalisation."""
    return TableNet("layernorm", **kwargs)


@register_for("tabular")
def table_weightnorm(**kwargs: Any) -> nn.Module:
    """ReLU with weight normalisation."""
    return TableNet("weightnorm", **kwargs)


@register_for("tabular")
def table_highway(**kwargs: Any) -> nn.Module:
    """Gated layers."""
    return TableNet("highway", **kwargs)


@register_for("tabular")
def table_resnet(**kwargs: Any) -> nn.Module:
    """Residual blocks of two layers."""
    return TableNet("resnet", **kwargs)
