"""Instances: boxes as in detection, and which pixels of each belong to the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from sinet.data.instances import Instances as Objects
from sinet.data.instances import draw_instances
from sinet.data.regions import Region, Size
from sinet.tasks._coco import Answers
from sinet.tasks.signatures.base import Array, Outputs, Scorer
from sinet.tasks.signatures.detect import (
    MOST,
    THRESHOLD,
    BoxScorer,
    Detect,
    Detections,
    Surest,
    filled,
    sides_of,
)

SIDE = 28
"""Positions of a mask in its box, on either axis."""
LEAST = 0.01
"""Answers with a lower score are nothing."""


@dataclass(frozen=True)
class Instances(Detections):
    """The objects in one image, the surest first; those from `THRESHOLD` on."""

    regions: tuple[Region, ...] = ()
    """Their pixels."""
    size: Size = (0, 0)
    """Height and width of the image, pixels."""

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """The pixels of each in the whole image, (n, height, width)."""
        whole = [region.full(self.size) for region in self.regions]
        return np.stack(whole) if whole else np.zeros((0, *self.size), bool)

    def rows(self, top: int = 1) -> list[dict[str, Any]]:
        """A row an object: label, id, score, corners and pixels; one empty row for nothing."""
        areas: list[int | str] = [region.area for region in self.regions] or [""]
        return [{**row, "pixels": area} for row, area in zip(super().rows(top), areas, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """As of boxes, with COCO's run lengths as `mask`."""
        found = super().to_json()
        for box, region in zip(found["boxes"], self.regions, strict=True):
            box["mask"] = region.rle(self.size)
        return {**found, "size": list(self.size)}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of a COCO file of results; its category ids are the user's own."""
        return [
            {**entry, "segmentation": region.rle(self.size)}
            for entry, region in zip(super().to_coco(image_id), self.regions, strict=True)
        ]

    def draw(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        """The image with its objects, boxes, labels and scores."""
        scores = None if (self.scores == 1).all() else self.scores  # a truth needs no numbers
        return draw_instances(
            image, self.boxes, self.labels, self.regions, self.facts.classes, scores
        )


class Masks(Detect):
    """`logits` (1, A, classes), `corners` (1, A, 4) and in these `mask_logits` (1, A, 28, 28).

    They become `boxes`, `scores` and `labels` as of detection, `masks` (1, 100, 28, 28) from 0 to 1
    and the `size` (1, 2) of the image, so that whoever reads the file's answer can paste them. A
    box may reach out of the image to the right and below; its mask lies in the whole of it.

    The metric is mAP at a mask's IoU of 0.5, for the reasons that `detect` gives for its own.
    """

    raw = ("logits", "corners", "mask_logits")
    names = ("boxes", "scores", "labels", "masks", "size")
    metric = "val/mask_map50"
    metric_name = "mask mAP at IoU 0.5"
    hub_tag = "image-segmentation"

    @property
    def described(self) -> str:
        """The five arrays."""
        return (
            f"{super().described}; `masks` float32 (1, {MOST}, {SIDE}, {SIDE}), how likely each "
            "part of a box belongs to its object; `size` int64 (1, 2), height and width of the "
            "image"
        )

    def together(self, plain: Outputs, turned: Outputs, width: int) -> Outputs:
        """All regions of both; boxes and masks of the mirrored turned back."""
        masks = torch.cat([plain[2], turned[2].flip(-1)], 1)
        return *super().together(plain, turned, width), masks

    def tail(self) -> nn.Module:
        """The surest, doubles left out, with their masks."""
        return SurestMasks(self.facts.preprocess)

    def scorer(self) -> Scorer:
        """Mean average precision of masks."""
        return MaskScorer(self.facts)

    def result(self, source: str, outputs: Mapping[str, Array]) -> Instances:
        """Those that are sure enough, their masks pasted into the image."""
        sure = outputs["scores"] >= THRESHOLD
        boxes, scores, labels, masks = (outputs[name][sure] for name in self.names[:4])
        high, wide = (int(side) for side in outputs["size"])
        regions = tuple(pasted(*pair, (high, wide)) for pair in zip(masks, boxes, strict=True))
        boxes = np.minimum(boxes, np.array([wide, high, wide, high], np.float32))
        return Instances(source, boxes, scores, labels, self.facts, None, regions, (high, wide))

    def failed(self, source: str, reason: str) -> Instances:
        """No objects."""
        none = super().failed(source, reason)
        return Instances(source, none.boxes, none.scores, none.labels, self.facts, reason)

    def truth_result(self, source: str, truth: Any) -> Instances:
        """The objects as an answer."""
        assert isinstance(truth, Objects)
        scores = np.ones(len(truth), np.float32)
        return Instances(
            source, truth.corners, scores, truth.labels, self.facts, None, truth.regions, truth.size
        )


class SurestMasks(Surest):
    """The tail: as for boxes, and the masks of those that stay."""

    def forward(  # type: ignore[override]
        self, images: Tensor, logits: Tensor, corners: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One image: uint8 (1, H, W, C), (1, A, classes), (1, A, 4), (1, A, 28, 28)."""
        places, scores, labels = self.chosen(logits, corners)
        scores = scores * (scores >= LEAST).to(scores.dtype)
        boxes = self.back(corners[0][places], images)
        likely = masks[0][places].sigmoid()
        size = sides_of(images).round().long()[None]
        return filled(boxes), filled(scores), filled(labels), filled(likely), size


def pasted(mask: Array, box: Array, size: Size) -> Region:
    """A mask (28, 28) of 0..1 in its box, as those pixels of the image that it says are likely.

    Pixel by pixel: bilinear between the centres of the mask's positions, one half or more is in.
    """
    spans = [
        _weights(float(box[axis]), float(box[axis + 2]), mask.shape[1 - axis], size[1 - axis])
        for axis in (0, 1)
    ]
    (left, columns), (top, rows) = spans
    return Region.of(rows @ mask.astype(np.float64) @ columns.T >= 0.5, top, left)


def _weights(low: float, high: float, count: int, side: int) -> tuple[int, Array]:
    """First pixel whose centre lies between, and what each takes of `count` positions, (n, count).

    Args:
        low: where the positions begin, pixels.
        high: where they end.
        count: of positions.
        side: of the image, pixels.
    """
    first, last = max(0, int(np.ceil(low - 0.5))), min(side, int(np.ceil(high - 0.5)))
    centres = np.arange(first, max(first, last)) + 0.5
    places = ((centres - low) / max(high - low, 1e-9) * count - 0.5).clip(0, count - 1)
    return first, np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count)))


class MaskScorer(BoxScorer):
    """Keeps the pixels of all answers; counts as COCO does.

    Args:
        facts: about the model.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """

    name = "val/mask_map50"
    kind = "segm"

    def update(self, outputs: Mapping[str, Array], truths: Sequence[Any]) -> None:
        """Take in boxes (N, 100, 4), scores, labels, masks, sizes (N, 2), and the true objects."""
        rows = (outputs[name] for name in Masks.names)
        for boxes, scores, labels, masks, size, truth in zip(*rows, truths, strict=True):
            there = scores > 0
            high, wide = (int(side) for side in size)
            pairs = zip(masks[there], boxes[there], strict=True)
            regions = [pasted(*pair, (high, wide)) for pair in pairs]
            self.answers.append(Answers.of(boxes[there], scores[there], labels[there], regions))
            self.truths.append(truth)


SIGNATURE = Masks
