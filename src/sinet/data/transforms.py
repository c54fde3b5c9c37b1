"""Augmentation of whole batches, cheap enough for two cores, random from torch's state alone.

Crops, mirroring and erasing differ from image to image and are computed for the batch at once.
RandAugment and colour jitter come from torchvision; they are applied to a few images at a time,
since one call draws one set of random numbers and costs little more for sixteen small images than
for one. Measured on one core, per image of 32 x 32: crop and mirroring 17 us, RandAugment 40 us.
What blends images and targets (MixUp, CutMix) is the task's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from sinet.data.crops import cut, random_areas, random_boxes
from sinet.data.preprocess import Preprocess, PreprocessModule

CHUNK = 16  # images that share RandAugment's and the colour jitter's random numbers
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 3.3)  # Zhong et al. 2017, arXiv 1708.04896


class Augmentations(Protocol):
    """The fields of a recipe that matter here; `Recipe` documents them."""

    @property
    def crop(self) -> str: ...  # noqa: D102
    @property
    def crop_scale(self) -> float: ...  # noqa: D102
    @property
    def flip(self) -> str: ...  # noqa: D102
    @property
    def randaugment(self) -> float: ...  # noqa: D102
    @property
    def color_jitter(self) -> float: ...  # noqa: D102
    @property
    def random_erasing(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class BatchAugment:
    """Batches of `ImageCache` -> augmented, normalised network inputs."""

    recipe: Augmentations
    preprocess: Preprocess

    def __call__(self, images: Tensor, size: int | None = None) -> Tensor:
        """Augment one batch.

        Args:
            images: uint8 (N, C, H, W), whole images, cropped here; or float32 (N, C, S, S) on the
                0..255 scale, which were cropped when they were fetched. Clips are (N, T, C, H, W).
            size: of the result, for progressive resolution; None = the preprocessing's.

        Returns:
            float32 (N, C, size, size), of clips (N, C, T, size, size), on the device of `images`.
        """
        if images.ndim == 5:
            return self._clips(images, size or self.preprocess.size)
        x = self._spatial(images, size or self.preprocess.size)
        if self._operations:
            x = self._in_chunks(x.round().to(torch.uint8))
        return self.erase(self._module.to(x.device).normalise(x))

    def _clips(self, clips: Tensor, size: int) -> Tensor:
        """The same for all frames of a clip, which are its channels where the place is drawn."""
        n, t = clips.shape[:2]
        x = self._spatial(clips.flatten(1, 2), size).unflatten(1, (t, -1))
        if self._operations:
            x = torch.stack([self._chain(clip) for clip in x.round().to(torch.uint8)])
        x = self._module.to(x.device).normalise(x.flatten(0, 1)).unflatten(0, (n, t))
        return self.erase(x.flatten(1, 2)).view_as(x).transpose(1, 2)

    def _spatial(self, images: Tensor, size: int) -> Tensor:
        """Crop, mirror, resize: float32 (N, C, size, size) on the 0..255 scale."""
        n, _, h, w = images.shape
        mirrored = torch.rand(n) < (0.5 if self.recipe.flip == "horizontal" else 0.0)
        kind = "none" if images.is_floating_point() else self.recipe.crop
        if kind == "none" and h == w == size:
            planes = images.float()
            mask = mirrored.to(planes.device).view(-1, 1, 1, 1)
            return torch.where(mask, planes.flip(-1), planes)
        sizes = torch.tensor([h, w], dtype=torch.float32).expand(n, 2)
        boxes = random_boxes(kind, sizes[:, 0], sizes[:, 1], self.recipe.crop_scale)
        return cut(images, boxes, mirrored, size)

    def _in_chunks(self, planes: Tensor) -> Tensor:
        """Each few images through torchvision's operations, which share one random draw."""
        starts = range(0, len(planes), CHUNK)
        return torch.cat([self._chain(planes[start : start + CHUNK]) for start in starts])

    def _chain(self, part: Tensor) -> Tensor:
        for operation in self._operations:
            part = operation(part)
        return part

    def erase(self, x: Tensor) -> Tensor:
        """Fill a rectangle of some network inputs (N, C, H, W) with the mean colour."""
        if self.recipe.random_erasing == 0:
            return x
        n, _, h, w = x.shape
        sizes = torch.tensor([h, w], dtype=torch.float32).expand(n, 2)
        boxes = random_areas(sizes[:, 0], sizes[:, 1], ERASED_AREA, ERASED_ASPECT)
        boxes[torch.rand(n) >= self.recipe.random_erasing, 2:] = 0
        top, left, height, width = boxes.round().to(x.device).unbind(1)
        rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
        in_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])
        in_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])
        return x.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)

    @cached_property
    def _module(self) -> PreprocessModule:
        return PreprocessModule(self.preprocess)

    @cached_property
    def _operations(self) -> list[nn.Module]:
        found: list[nn.Module] = []
        if self.recipe.randaugment:
            fill = [round(255 * mean) for mean in self.preprocess.mean]
            magnitude = round(3 * self.recipe.randaugment)  # 0..10 on torchvision's 0..30
            bilinear = v2.InterpolationMode.BILINEAR
            found.append(v2.RandAugment(2, magnitude, 31, bilinear, fill=fill))
        if self.recipe.color_jitter:
            strength = self.recipe.color_jitter
            saturation = strength if self.preprocess.channels == 3 else None
            found.append(v2.ColorJitter(strength, strength, saturation))
        return found
