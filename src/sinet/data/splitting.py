"""A stratified, seeded cut into training and validation samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def stratified(labels: npt.NDArray[Any], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which samples to hold out: the same share of each class, at least one, never the last one.

    Args:
        labels: int (N,) class indices, or (N, classes) of 0 and 1. With several labels a sample
            belongs to the rarest of them, so that rare labels are spread too.
        share: share to hold out, 0..1.
        seed: of the choice within each class.

    Returns:
        bool (N,): true where a sample is held out. A class with one sample keeps it in training.
    """
    group = labels if labels.ndim == 1 else _rarest(labels)
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for value in np.unique(group):
        members = random.permutation(np.flatnonzero(group == value))
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held_out[members[:count]] = True
    if labels.ndim == 2:
        _keep_every_label(labels, held_out)
    return held_out


def _rarest(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The rarest label of each sample; -1 for a sample without any."""
    rarity = np.where(labels > 0, labels.sum(0), np.inf)
    return np.where(labels.any(1), rarity.argmin(1), -1)


def _keep_every_label(labels: npt.NDArray[Any], held_out: npt.NDArray[np.bool_]) -> None:
    """Give back the first sample of each label that would be missing in training, in place."""
    for column in labels.T:
        if column.any() and not column[~held_out].any():
            held_out[np.flatnonzero(column)[0]] = False
