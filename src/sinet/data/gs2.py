"""GS2: global stochastic stratified sampling of the labelled pixels of one scene.

A network that sees the whole scene at once has all its training pixels in one batch, always the
same; GS2 makes many batches of them. Every epoch shuffles the training pixels of each class; the
stratum t is the slice [t * n, (t + 1) * n) of every class, and one stratum is one step, with the
loss on its pixels only. From "FPGA: Fast Patch-Free Global Learning Framework for Fully End-to-End
Hyperspectral Image Classification", arXiv 2011.05670.

Label 0 means unlabelled everywhere here; pixels are flat indices, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from sinet.errors import DataError, UsageError

Labels = npt.NDArray[np.integer]
Pixels = npt.NDArray[np.intp]

IGNORED = -1
"""What a target holds outside of the stratum: the `ignore_index` of the loss."""


def draw_training(labels: Labels, per_class: int, seed: int = 2333) -> tuple[Pixels, Pixels]:
    """Draw the training pixels once; every other labelled pixel is for testing.

    Args:
        labels: (H, W), 0 where unlabelled.
        per_class: training pixels of each class.
        seed: the origin's is 2333.

    Returns:
        Training and test pixels, both ascending.

    Raises:
        DataError: a class has too few labelled pixels to leave any for testing.
    """
    random = np.random.RandomState(seed)  # not a Generator: the published split comes of this one
    chosen = []
    for label in np.unique(labels[labels > 0]):
        pixels = np.flatnonzero(labels == label)
        if len(pixels) <= per_class:
            raise DataError(
                f"class {label} has {len(pixels)} labelled pixels, {per_class} for training leave "
                "none to test on; ask for less per class"
            )
        random.shuffle(pixels)
        chosen.append(pixels[:per_class])
    training = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.intp)
    return training, np.setdiff1d(np.flatnonzero(labels > 0), training)


def strata(labels: Labels, training: Pixels, per_stratum: int, seed: int) -> list[Pixels]:
    """The training pixels, shuffled class by class and cut into strata.

    Args:
        labels: (H, W), 0 where unlabelled.
        training: pixels that may be used; each is in exactly one stratum.
        per_stratum: pixels of each class in one stratum, less where the class runs out.
        seed: of the shuffling.

    Returns:
        As many strata as the largest class fills, each with its pixels ascending.
    """
    random = np.random.RandomState(seed)
    usable = np.sort(training)
    label_of = labels.ravel()[usable]
    classes = []
    for label in np.unique(label_of):
        pixels = usable[label_of == label]
        random.shuffle(pixels)
        classes.append(pixels)
    longest = max((len(pixels) for pixels in classes), default=0)
    starts = range(0, longest, per_stratum)
    return [np.sort(np.concatenate([p[s : s + per_stratum] for p in classes])) for s in starts]


class GS2:
    """Targets for a scene, stratum by stratum; every epoch sees every training pixel once.

        sampler = GS2(labels, training)
        for epoch in range(100):
            for target in sampler.epoch(epoch):  # (H, W)
                logits = network(scene)  # (1, classes, H, W)
                F.cross_entropy(logits, target[None], ignore_index=sinet.data.gs2.IGNORED)

    The mean of that loss is over the stratum: sum(w * CE) / sum(w) for its weight map w.
    An epoch depends on its number and the seed alone, so a run can be resumed at any epoch.
    """

    def __init__(
        self, labels: Labels, training: Pixels, per_stratum: int = 20, seed: int = 2333
    ) -> None:
        """Prepare the sampler.

        Args:
            labels: (H, W), 0 where unlabelled, classes from 1.
            training: flat indices of the training pixels, as `draw_training` gives them.
            per_stratum: pixels of each class in one step.
            seed: of all epochs.

        Raises:
            UsageError: `per_stratum` is below 1.
            DataError: there is no training pixel, or one is unlabelled or outside of the scene.
        """
        if per_stratum < 1:
            raise UsageError(f"per_stratum is {per_stratum}; give 1 pixel of each class or more")
        training = np.unique(np.asarray(training, np.intp))
        if not len(training):
            raise DataError("no training pixels; draw some with sinet.data.gs2.draw_training")
        if training[0] < 0 or training[-1] >= labels.size:
            raise DataError(
                f"training pixels run from {training[0]} to {training[-1]}, the scene has "
                f"{labels.size}; give flat indices of this scene, row by row"
            )
        unlabelled = int((labels.ravel()[training] <= 0).sum())
        if unlabelled:
            raise DataError(
                f"{unlabelled} of {len(training)} training pixels are unlabelled (label 0); "
                "leave them out"
            )
        self.labels, self.training = labels, training
        self.per_stratum, self.seed = per_stratum, seed
        largest = np.unique(labels.ravel()[training], return_counts=True)[1].max()
        self.steps = -(-int(largest) // per_stratum)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.steps

    def order(self, epoch: int) -> list[Pixels]:
        """The strata of an epoch, in the order of its steps."""
        shuffle, order = np.random.SeedSequence((self.seed, epoch)).generate_state(2).tolist()
        cut = strata(self.labels, self.training, self.per_stratum, shuffle)
        places = torch.randperm(len(cut), generator=torch.Generator().manual_seed(order))
        return [cut[place] for place in places.tolist()]

    def epoch(self, number: int) -> Iterator[torch.Tensor]:
        """The target of each step: (H, W), class from 0 in the stratum, `IGNORED` elsewhere."""
        for pixels in self.order(number):
            target = np.full(self.labels.size, IGNORED, np.int64)
            target[pixels] = self.labels.ravel()[pixels] - 1
            yield torch.from_numpy(target.reshape(self.labels.shape))
