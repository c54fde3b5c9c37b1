"""Instance segmentation: boxes as in detection, and the pixels of every object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sinet.data.boxes import Boxes
from sinet.data.dataset import ImageDataset
from sinet.data.instances import Instances as Objects
from sinet.heads.two_stage import Masked
from sinet.models.spec import ModelSpec
from sinet.tasks.detect import Detect, TrainScenes, as_rows, headed

SIZES = (384, 320, 512, 256, 192, 128)
"""Long sides, pixels, of the inputs that are tried by themselves, the most promising first."""
HEAD = "mask_rcnn"


def as_masked(objects: Sequence[Boxes]) -> Masked:
    """The objects of a batch, in the order of `as_rows`; crowds teach nothing."""
    parts = [part for part in objects if isinstance(part, Objects)]
    masks = [part.select(~part.crowd).masks() for part in parts]
    return Masked(as_rows(objects), torch.from_numpy(np.concatenate(masks).astype(np.uint8)))


class TrainInstances(TrainScenes):
    """Changed images and their objects; all randomness follows from seed and images."""

    targets = staticmethod(as_masked)


class Instances(Detect):
    """Learns a network that gives scores, corners and masks of many positions.

    The network knows its own loss, `losses(outputs, Masked)`; in evaluation it gives logits
    (B, A, classes), corners (B, A, 4) and logits of masks (B, A, 28, 28) in these.

    Metrics: mask mAP at IoU 0.5, COCO's mask mAP over IoU 0.5 ... 0.95.
    """

    name = "instances"
    source = TrainInstances

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """Mask R-CNN on each backbone, at several sizes in the images' own shape."""
        return headed(HEAD, SIZES, usual, data)

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """From scratch as boxes are learned; the own recipe keeps the norms of given weights."""
        return "instances" if spec.weights else "detect"

    def augment(self, batch: tuple[Tensor, Any], size: int) -> tuple[Tensor, Any]:
        """Normalise, erase; while sizes still grow, make images, boxes and masks smaller."""
        images, targets = batch
        seen, rows = super().augment((images, targets.rows), size)
        masks = targets.masks
        if seen.shape[2:] != masks.shape[1:]:
            masks = F.interpolate(masks[:, None], seen.shape[2:], mode="nearest")[:, 0]
        return seen, Masked(rows, masks)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Images, rows of boxes and masks move; what is only counted stays."""
        images, targets = batch
        if isinstance(targets, Masked):
            return images.to(device), Masked(*(part.to(device) for part in targets))
        return super().transfer_batch_to_device(batch, device, index)


LEARNER = Instances
