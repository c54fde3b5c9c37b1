"""Which positions of a one-stage detector learn which box, and what they learn: TOOD's way.

Task-aligned assignment (arXiv:2108.07755): how well a position answers for a box is t = s^a u^b, s
its score for the box's class and u its overlap with the box. The `TOP` best positions inside the
box learn it; a position wanted by several boxes goes to the one that it overlaps most. The score to
be learned is t, scaled so that its maximum over a box's positions is the box's best overlap.

Boxes of a batch are rows (image, class, x1, y1, x2, y2), so that nothing is padded and no loop runs
over images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss

TOP, ALPHA, BETA = 10, 1.0, 6.0
BOX, CLASS, SPREAD = 7.5, 1.0, 1.5
"""Weights of the losses of boxes, of classes and of the distributions of distances."""


class Assigned(NamedTuple):
    """Pairs of a position and the box that it learns."""

    image: Tensor
    """(P,) which image of the batch."""
    place: Tensor
    """(P,) which position."""
    box: Tensor
    """(P,) which row of the targets."""
    quality: Tensor
    """(P,) the score to be learned, 0..1."""


@torch.no_grad()
def assign(
    scores: Tensor,
    corners: Tensor,
    points: Tensor,
    strides: Tensor,
    targets: Tensor,
    top: int = TOP,
) -> Assigned:
    """Give every box its positions.

    Args:
        scores: (B, A, classes), 0..1.
        corners: (B, A, 4) predicted boxes, pixels.
        points: (A, 2) x and y of the positions.
        strides: (A,) of their levels.
        targets: (G, 6) image, class, x1, y1, x2, y2.
        top: positions a box.
    """
    image, label, truth = targets[:, 0].long(), targets[:, 1].long(), targets[:, 2:]
    # A box that is smaller than the finest step would contain no position: it is given room.
    least = strides.min()
    centre = (truth[:, :2] + truth[:, 2:]) / 2
    half = ((truth[:, 2:] - truth[:, :2]) / 2).clamp(min=least / 2)
    inside = ((points[None] - centre[:, None]).abs() <= half[:, None]).all(-1)
    box, place = inside.nonzero(as_tuple=True)
    overlap = _overlap(corners[image[box], place], truth[box])
    score = scores[image[box], place, label[box]]
    fit = torch.zeros(inside.shape, dtype=scores.dtype, device=scores.device)
    fit[box, place] = score**ALPHA * overlap**BETA
    # Before anything is learned all fits are about zero: the nearest positions shall come first.
    near = 1 / (1 + (points[None] - centre[:, None]).square().sum(-1) / least**2)
    rank = torch.where(inside, fit + 1e-9 * near, fit.new_full((), -1))
    best, chosen = rank.topk(min(top, rank.shape[1]), dim=1)
    row, column = (best >= 0).nonzero(as_tuple=True)
    return _undisputed(image, chosen[row, column], row, fit, corners, truth, points)


def _undisputed(
    image: Tensor,
    place: Tensor,
    box: Tensor,
    fit: Tensor,
    corners: Tensor,
    truth: Tensor,
    points: Tensor,
) -> Assigned:
    """One box a position, the one that it overlaps most; then the scores to be learned."""
    overlap = _overlap(corners[image[box], place], truth[box])
    key = image[box] * len(points) + place
    # among equal overlaps the smaller box wins, then the first: an order makes it one sort
    area = (truth[box, 2:] - truth[box, :2]).prod(-1)
    order = torch.argsort(area, stable=True)
    order = order[torch.argsort(overlap[order], descending=True, stable=True)]
    order = order[torch.argsort(key[order], stable=True)]
    sorted_key = key[order]
    first = torch.ones_like(sorted_key, dtype=torch.bool)
    first[1:] = sorted_key[1:] != sorted_key[:-1]
    kept = order[first]
    place, box, overlap = place[kept], box[kept], overlap[kept]
    own = fit[box, place]
    most_fit, most_overlap = (
        torch.zeros(len(truth), dtype=own.dtype, device=own.device).scatter_reduce(
            0, box, values, "amax"
        )
        for values in (own, overlap)
    )
    quality = own / most_fit[box].clamp(min=1e-12) * most_overlap[box]
    return Assigned(image[box], place, box, quality)


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """IoU row by row, (n, 4) and (n, 4) -> (n,)."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = sum((part[:, 2:] - part[:, :2]).clamp(min=0).prod(-1) for part in (one, other))
    return both / (areas - both).clamp(min=1e-9)


def distance_loss(bins: Tensor, distances: Tensor) -> Tensor:
    """Distribution focal loss (arXiv:2006.04388): cross-entropy to the two whole numbers around.

    Args:
        bins: logits (P, 4, bins).
        distances: (P, 4) in strides.

    Returns:
        (P,), the mean of the four sides.
    """
    last = bins.shape[-1] - 1
    wanted = distances.clamp(0, last - 0.01)
    low = wanted.floor().long()
    share = wanted - low
    likely = bins.log_softmax(-1)
    below = likely.gather(-1, low[..., None])[..., 0]
    above = likely.gather(-1, low[..., None] + 1)[..., 0]
    return -((1 - share) * below + share * above).mean(-1)


def detection_loss(
    logits: Tensor,
    bins: Tensor,
    corners: Tensor,
    points: Tensor,
    strides: Tensor,
    targets: Tensor,
) -> Tensor:
    """Loss of one batch: scores, boxes, distributions; the sum by the assigned quality.

    Args:
        logits: (B, A, classes).
        bins: (B, A, 4, bins).
        corners: (B, A, 4), decoded from `bins`.
        points: (A, 2).
        strides: (A,).
        targets: (G, 6) image, class, x1, y1, x2, y2.
    """
    found = assign(logits.detach().sigmoid(), corners.detach(), points, strides, targets)
    wanted = torch.zeros_like(logits)
    labels = targets[found.box, 1].long()
    wanted[found.image, found.place, labels] = found.quality
    total = found.quality.sum().clamp(min=1.0)
    loss = CLASS * F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / total
    truth, place = targets[found.box, 2:], found.place
    shape = complete_box_iou_loss(corners[found.image, place], truth)
    sides = torch.cat([points[place] - truth[:, :2], truth[:, 2:] - points[place]], 1)
    spread = distance_loss(bins[found.image, place], sides / strides[place, None])
    each = BOX * shape + SPREAD * spread
    total_loss: Tensor = loss + (each * found.quality).sum() / total
    return total_loss
