"""Losses for pixels: cross-entropy, Dice, focal, Lovasz; void pixels count for nothing.

Logits (B, C, ...), targets int64 (B, ...) with `VOID` where nothing is to be learned. A recipe
names one, or several that are added: `ce+dice`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sinet.data.masks import VOID

Loss = Callable[[Tensor, Tensor, float], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the pixels that count; zero where none does."""
    total = F.cross_entropy(
        logits, targets, ignore_index=VOID, reduction="sum", label_smoothing=smoothing
    )
    return total / (targets != VOID).sum().clamp(min=1)


def dice(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """1 - mean over the classes of 2 |A B| / (|A| + |B|), soft, over the batch (arXiv:1606.04797).

    Classes that neither occur nor are expected give 1 - 1.
    """
    likely, hot, counts = _pixels(logits, targets)
    both = (likely * hot).sum(0)
    # squares in the denominator, as in V-Net, let the loss reach zero for soft answers
    sizes = (likely.square() * counts).sum(0) + hot.sum(0)
    return 1 - ((2 * both + 1) / (sizes + 1)).mean()


def focal(logits: Tensor, targets: Tensor, smoothing: float = 0.0, gamma: float = 2.0) -> Tensor:
    """Cross-entropy times (1 - p) ^ gamma, so that easy pixels count little (arXiv:1708.02002)."""
    each = F.cross_entropy(
        logits, targets, ignore_index=VOID, reduction="none", label_smoothing=smoothing
    )
    weighted = (1 - torch.exp(-each)) ** gamma * each
    return weighted.sum() / (targets != VOID).sum().clamp(min=1)


def lovasz(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Lovasz-Softmax, the convex surrogate of 1 - IoU (arXiv:1705.08790), over the classes present.

    With errors m sorted downwards, the loss of a class is sum m_i (J_i - J_(i-1)), where J_i is the
    Jaccard loss of calling the first i pixels wrong.
    """
    likely, hot, counts = _pixels(logits, targets)
    kept = counts[:, 0] > 0
    likely, hot = likely[kept], hot[kept]
    losses = []
    for index in hot.sum(0).nonzero().flatten():
        errors, order = (hot[:, index] - likely[:, index]).abs().sort(descending=True)
        truth = hot[order, index]
        union = truth.sum() + (1 - truth).cumsum(0)
        jaccard = 1 - (truth.sum() - truth.cumsum(0)) / union
        steps = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
        losses.append(errors @ steps)
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def _pixels(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and one-hot truth (pixels, C), and 1 or 0 for pixels that count (pixels, 1)."""
    classes = logits.shape[1]
    likely = logits.float().softmax(1).movedim(1, -1).reshape(-1, classes)
    flat = targets.reshape(-1)
    counts = (flat != VOID).unsqueeze(1).to(likely.dtype)
    hot = F.one_hot(flat.where(flat != VOID, 0), classes).to(likely.dtype)
    return likely, hot * counts, counts


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "dice": dice,
    "focal": focal,
    "lovasz": lovasz,
}


def pixel_loss(names: str, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The sum of the losses named in `names`, such as `ce+dice`."""
    parts = [LOSSES[name](logits, targets, smoothing) for name in names.split("+")]
    return torch.stack(parts).sum()
