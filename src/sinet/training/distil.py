"""Distillation: a network learns from the labels and from what a teacher makes of the same images.

    loss = (1 - w) own loss + w teacher's loss,   w = `distil_weight`

    logits      T^2 KL(softmax(z_t / T) || softmax(z_s / T))      Hinton et al., arXiv:1503.02531
    hard        cross-entropy with argmax z_t                     DeiT, arXiv:2012.12877
    features    |P(f_s) / |P(f_s)| - f_t / |f_t||^2, at each place     FitNets, arXiv:1412.6550
    attention   |q_s / |q_s| - q_t / |q_t||^2,  q = sum_c f_c^2        arXiv:1612.03928
    relation    huber(d_s / mean d_s, d_t / mean d_t), d = distances   RKD, arXiv:1904.05068

z are logits, f last feature maps, P a 1x1 convolution that learns along, d the distances between
pooled maps of the images of a batch. With several labels an image, softmax and cross-entropy are
sigmoid and binary cross-entropy. A network with a second head for its teacher (DeiT's, LeViT's,
LSNet's `distilled`) learns the teacher's logits with that one.

The teacher sees the very images that the network sees, brought to its own size and normalisation.
It draws no random numbers. Where a recipe alters no image, it looks at each of them once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.preprocess import Preprocess
from sinet.training.loader import Source, eval_batches
from sinet.training.recipe import Recipe
from sinet.training.teacher import Teacher, feature_maps


class Numbered:
    """A source whose batches come with the positions of their images: (batch, int64 (B,))."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, indices: list[int]) -> tuple[Any, Tensor]:
        """The batch of these images, and their positions."""
        return self.source.__getitems__(indices), torch.tensor(indices)


class Distiller(nn.Module):
    """The loss of a network that learns from a teacher too.

    Args:
        teacher: as `open_teacher` gives it.
        network: what learns; its second head, if it has one, is switched on.
        recipe: how.
        preprocess: of the network's images.
        multilabel: several labels an image.

    Raises:
        UsageError: feature maps are to be compared, and one of both has none.
    """

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module,
        recipe: Recipe,
        preprocess: Preprocess,
        multilabel: bool,
    ) -> None:
        super().__init__()
        self.teacher, self.preprocess = teacher, preprocess
        self.kind, self.weight = recipe.distil, recipe.distil_weight
        self.temperature, self.multilabel = recipe.temperature, multilabel
        self.once = self.kind not in MAPS and unaltered(recipe)
        """Whether the teacher looks at each image once, not at each batch."""
        self.answers: Tensor | None = None
        self.projector: nn.Module | None = None
        if self.kind not in MAPS:
            if hasattr(network, "set_distilled_training"):
                network.set_distilled_training(True)  # type: ignore[operator]
            return
        ours, theirs = self._widths(network)
        if self.kind == "features":
            self.projector = nn.Conv2d(ours, theirs, 1, bias=False)

    @torch.no_grad()
    def _widths(self, network: nn.Module) -> tuple[int, int]:
        """Channels of both networks' last maps."""
        example = torch.zeros(1, self.preprocess.channels, *self.preprocess.shape)
        training = network.training
        ours = feature_maps(network.eval(), example).shape[1]
        network.train(training)
        return ours, self.teacher(example, self.preprocess, maps=True).shape[1]

    def prepare(self, task: Any) -> None:
        """Ask the teacher about every training image, if no step shows another version of it.

        The images come in order, so that each answer is the same whenever a run is resumed.

        Args:
            task: as `sinet.tasks.base` describes, on its device.
        """
        if not self.once:
            return
        said = []
        for batch in eval_batches(task.train_source(), 64):
            moved = task.transfer_batch_to_device(batch, task.device, 0)
            images, _ = task.augment(moved, self.preprocess.size)
            said.append(self.teacher(images, self.preprocess))
        self.answers = torch.cat(said)

    def forward(self, task: Any, images: Tensor, targets: Any, at: Tensor | None) -> Tensor:
        """The loss of a batch.

        Args:
            task: has the network and its own loss.
            images: network input, float32 (B, C, H, W).
            targets: what the own loss takes.
            at: the images' positions in the training data, where `once`.
        """
        network = task.network
        if self.kind in MAPS:
            found = feature_maps(network, images)
            own = network.forward_head(found)
            told = self._compared(found, self.teacher(images, self.preprocess, maps=True))
        else:
            outputs = network(images)
            own, second = outputs if isinstance(outputs, tuple) else (outputs, outputs)
            told = self._answered(second, self._said(images, at))
        return (1 - self.weight) * task.loss(own, targets) + self.weight * told  # type: ignore[no-any-return]

    def _said(self, images: Tensor, at: Tensor | None) -> Tensor:
        if at is None or self.answers is None:
            return self.teacher(images, self.preprocess)
        return self.answers[at]

    def _answered(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Loss of our logits (B, classes) against the teacher's."""
        if self.kind == "hard":
            if self.multilabel:
                return F.binary_cross_entropy_with_logits(ours, (theirs > 0).to(ours.dtype))
            return F.cross_entropy(ours, theirs.argmax(1))
        heat = self.temperature
        ours, theirs = ours.float() / heat, theirs / heat
        if self.multilabel:
            return heat**2 * F.binary_cross_entropy_with_logits(ours, theirs.sigmoid())
        likely = theirs.log_softmax(1)
        return heat**2 * F.kl_div(
            ours.log_softmax(1), likely, log_target=True, reduction="batchmean"
        )

    def _compared(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Loss of our maps against the teacher's, at the coarser resolution of the two."""
        if self.projector is not None:
            ours = self.projector(ours)
        common = min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3])
        ours, theirs = (F.adaptive_avg_pool2d(maps.float(), common) for maps in (ours, theirs))
        return MAPS[self.kind](ours, theirs)


def unaltered(recipe: Recipe) -> bool:
    """Whether every step shows an image as it is."""
    altered = (
        recipe.randaugment, recipe.color_jitter, recipe.random_erasing, recipe.mixup, recipe.cutmix
    )  # fmt: skip
    plain = recipe.flip == recipe.crop == "none" and recipe.progressive == 1
    return plain and not any(altered)


def features(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared distance of the unit vectors at each place, (B, C, h, w) both."""
    return (F.normalize(ours, dim=1) - F.normalize(theirs, dim=1)).square().sum(1).mean()


def attention(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared distance of the normalised maps of strength, (B, any channels, h, w) both."""
    mine, other = (F.normalize(f.square().sum(1).flatten(1), dim=1) for f in (ours, theirs))
    return (mine - other).square().sum(1).mean()


def relation(ours: Tensor, theirs: Tensor) -> Tensor:
    """Huber loss of the distances between images, in units of their mean; 0 for a single image."""
    if len(ours) < 2:
        return ours.sum() * 0
    mine, other = (torch.pdist(f.mean((2, 3))) for f in (ours, theirs))
    mine, other = (d / d.mean().clamp(min=1e-6) for d in (mine, other))
    return F.smooth_l1_loss(mine, other)


MAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "features": features,
    "attention": attention,
    "relation": relation,
}
"""The kinds that compare feature maps; `logits` and `hard` compare what is said of the classes."""
