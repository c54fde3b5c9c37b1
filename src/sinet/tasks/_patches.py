"""What volumes and hyperspectral scenes share: networks learn patches, samples are judged whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sinet.data.dataset import ImageDataset
from sinet.data.patches import Patches, PatchInput
from sinet.data.preprocess import Preprocess
from sinet.tasks.base import ImageTask
from sinet.tasks.signatures.base import Result
from sinet.training.losses import pixel_loss
from sinet.training.recipe import Recipe

Case = dict[str, Any]
JUDGED = 2**22
"""Voxels of a sample on which the validation loss is computed; every n-th of larger ones."""


class PatchTask(ImageTask):
    """Learns a network that gives logits of a patch.

    `val_source` gives cases: `image` (C, *S), ready for windows, and `label` (*S).
    """

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__(network, data, recipe, preprocess)
        assert isinstance(preprocess, Patches)
        self.patches = preprocess

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The recipe's loss; a network with several outputs in training has the mean of theirs."""
        several = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        names, smoothing = self.recipe.loss, self.recipe.label_smoothing
        losses = [
            pixel_loss(names, part.float(), _shrunk(targets, part.shape[2:]), smoothing)
            for part in several
        ]
        return torch.stack(losses).mean()

    def ordered(self, images: Tensor) -> Tensor:
        """In three dimensions as they are: on a CPU nothing else is faster."""
        return images if images.ndim == 5 else super().ordered(images)

    def whole(self, image: Tensor) -> Tensor:
        """Logits of a whole sample, (classes, *S), on the CPU."""

        def run(patches: npt.NDArray[Any]) -> npt.NDArray[Any]:
            with torch.no_grad():
                found: Tensor = self.outputs(torch.from_numpy(patches).to(self.device))
            return found.cpu().numpy()

        reader = self.signature.input
        assert isinstance(reader, PatchInput)
        return torch.from_numpy(reader.slide(run, image.cpu().numpy()))

    def whole_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """The recipe's loss on a whole sample, or on every n-th voxel of a large one."""
        step = max(1, -(-label.numel() // JUDGED))
        flat, seen = logits.flatten(1)[None, :, ::step], label.flatten()[None, ::step]
        return pixel_loss(self.recipe.loss, flat, seen).to(self.device)

    @torch.inference_mode()
    def predict(self, images: Any) -> list[Result]:
        """Typed results, one a case of `val_source`, on the grid that the network sees."""
        cases: Sequence[Case] = images
        found = [self.whole(c["image"]).argmax(0).numpy().astype(np.uint8) for c in cases]
        return [self.signature.result(f"#{i}", {"classes": m}) for i, m in enumerate(found)]


def _shrunk(targets: Tensor, sides: Sequence[int]) -> Tensor:
    """Targets for an output of another size: the nearest voxel."""
    if tuple(targets.shape[1:]) == tuple(sides):
        return targets
    small = nn.functional.interpolate(targets[:, None].float(), tuple(sides), mode="nearest-exact")
    return small[:, 0].long()
