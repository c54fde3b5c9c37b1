"""The theory of self-normalizing networks in numbers (arXiv 1706.02515).

A layer maps the mean and the variance of its inputs to those of its outputs; the constants of SELU
make (0, 1) a fixed point of that map. Other constants make another point one, and alpha dropout
keeps whichever it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sinet.errors import UsageError

ALPHA, SCALE = 1.6732632423543772848, 1.0507009873554804934
"""SELU's constants; `closed_form` computes them."""


def closed_form() -> tuple[float, float]:
    """SELU's (alpha, scale) from the article's formulas (its equation 14)."""
    one, two, e = math.erfc(math.sqrt(0.5)), math.erfc(math.sqrt(2)), math.e
    root = math.sqrt(e)
    alpha = -math.sqrt(2 / math.pi) / (one * root - 1)
    inner = 2 + math.pi - 2 * root * (2 + math.pi) * one + e * math.pi * one**2 + 2 * e**2 * two
    return alpha, (1 - root * one) * math.sqrt(2 * math.pi / inner)


def moment_map(
    mean: Tensor,
    variance: Tensor,
    total: Tensor,
    squares: Tensor,
    alpha: Tensor | float = ALPHA,
    scale: Tensor | float = SCALE,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of SELU units whose inputs have `mean` and `variance`.

    The units' net inputs are taken as normal: N(mean x total, variance x squares).

    Args:
        mean: of the layer's inputs.
        variance: of the layer's inputs.
        total: sum of a unit's weights.
        squares: sum of a unit's squared weights.
        alpha: of `scale x (x for x > 0, alpha (e^x - 1) otherwise)`.
        scale: of the same.
    """
    m, v = mean * total, variance * squares
    s = v.sqrt()
    root = math.sqrt(2)
    low = torch.erfc(m / (root * s))
    once = torch.exp(m + v / 2) * torch.erfc((m + v) / (root * s))
    twice = torch.exp(2 * (m + v)) * torch.erfc((m + 2 * v) / (root * s))
    bell = math.sqrt(2 / math.pi) * s * torch.exp(-(m**2) / (2 * v))
    first = scale / 2 * (m * (2 - low) + alpha * (once - low) + bell)
    second = (m**2 + v) * (2 - low) + alpha**2 * (twice - 2 * once + low) + m * bell
    return first, scale**2 / 2 * second - first**2


def constants_for(mean: float, variance: float, steps: int = 50) -> tuple[float, float]:
    """(alpha, scale) with which units whose net inputs are N(mean, variance) keep both.

    Newton's method from (1.67, 1.05), in double precision.

    Args:
        mean: of the fixed point.
        variance: of the fixed point.
        steps: at most so many.

    Raises:
        UsageError: no constants are found.
    """
    point = torch.tensor([mean, variance], dtype=torch.float64)
    one = torch.ones_like(point[0])

    def missed(constants: Tensor) -> Tensor:
        alpha, scale = constants
        return torch.stack(moment_map(point[0], point[1], one, one, alpha, scale)) - point

    found = torch.tensor([1.67, 1.05], dtype=torch.float64)
    for _ in range(steps):
        step, failed = torch.linalg.solve_ex(torch.func.jacrev(missed)(found), missed(found))
        found = found - step
        if failed or not found.isfinite().all():
            break
        if missed(found).abs().max() < 1e-13:
            return float(found[0]), float(found[1])
    raise UsageError(
        f"no constants of SELU keep mean {mean:g} and variance {variance:g}; give a point nearer "
        "to (0, 1), such as (-0.1, 2)"
    )


class FixedPointDropout(nn.Module):
    """Alpha dropout for any fixed point: units that are dropped become SELU's lower limit.

    `a (x m + limit (1 - m)) + b`, m ~ Bernoulli(1 - p), with a and b that keep mean and variance;
    for (0, 1) it is `torch.nn.AlphaDropout`. It does nothing in evaluation mode.

    Shape: any -> the same
    """

    def __init__(
        self, p: float, mean: float = 0.0, variance: float = 1.0, limit: float = -ALPHA * SCALE
    ) -> None:
        """Set the affine map.

        Args:
            p: share of the units that are dropped.
            mean: of the fixed point.
            variance: of the fixed point.
            limit: -alpha x scale of the activation.
        """
        super().__init__()
        if not 0 <= p < 1:
            raise UsageError(f"dropout {p:g} given; a share from 0 to below 1 expected")
        keep = 1 - p
        self.p, self.limit = p, limit
        self.a = math.sqrt(variance / (keep * (p * (limit - mean) ** 2 + variance)))
        self.b = mean - self.a * (keep * mean + p * limit)

    def forward(self, x: Tensor) -> Tensor:
        """Drop."""
        if not self.training or self.p == 0:
            return x
        dropped = torch.rand_like(x) < self.p
        return self.a * x.masked_fill(dropped, self.limit) + self.b
