"""The shallowest depth that is good enough, of a network that has learned several at once.

UNet++ with deep supervision (Zhou et al., arXiv:1912.05074, "pruning"): nodes behind a shallower
head are left out, without training again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def shallowest(
    network: nn.Module, score: Callable[[nn.Module], float], max_drop: float
) -> tuple[nn.Module, list[float]]:
    """Cut a network to the first depth that is good enough.

    Args:
        network: with `deep_supervision`, `depth` and `prune(depth)` as of `UNetPP`; any other is
            given back as it is.
        score: the metric of a network, larger is better.
        max_drop: what may be lost against the full depth, in units of `score`.

    Returns:
        The network that is left, and the metrics of depth 1, 2, ...; none where there is no choice.
    """
    deep: Any = network
    if not getattr(deep, "deep_supervision", False):
        return network, []
    depths = [deep.prune(depth) for depth in range(1, deep.depth + 1)]
    metrics = [score(shallow) for shallow in depths]
    chosen = next(i for i, metric in enumerate(metrics) if metric >= metrics[-1] - max_drop)
    return depths[chosen], metrics
