"""Semantic segmentation: logits of a grid -> the class of every pixel of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.dataset import Split
from sinet.data.masks import VOID, draw_mask
from sinet.data.regions import Region
from sinet.tasks.signatures._tiles import tiled
from sinet.tasks.signatures.base import Array, Facts, Result, Run, Scorer, Signature, bootstrap

STEP = 32
"""Pieces of a large image begin and end at multiples of this, pixels; they overlap by a quarter."""
_SIDES = {"logits": (2, 3), "classes": (1, 2)}
"""The axes of each output that are height and width."""
TOLERANCE = 0.0075
"""How far a boundary may be off and still be right, as a share of the image's diagonal."""


@dataclass(frozen=True)
class Segmentation(Result):
    """The class of every pixel of one image."""

    source: str
    """Path of the file, or its place in the input such as `#3`."""
    classes: npt.NDArray[np.uint8]
    """Class index of each pixel, (H, W); empty where the image could not be read."""
    facts: Facts
    """Of the model: its classes and ids."""
    error: str | None = None
    """Why the image could not be read."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image that each class covers."""
        counts = np.bincount(self.classes.ravel(), minlength=256)
        total = max(1, int(counts.sum()))
        return {name: counts[i] / total for i, name in enumerate(self.facts.classes)}

    def rows(self, top: int = 1) -> list[dict[str, Any]]:
        """One row: the share of each class."""
        failed = self.error is not None
        return [{k: "" if failed else round(float(v), 6) for k, v in self.shares.items()}]

    def to_json(self) -> dict[str, Any]:
        """Height, width, shares, and the mask as runs of (class index, length), row by row."""
        known = self.error is None
        flat = self.classes.ravel().astype(np.int64)
        ends = np.flatnonzero(np.diff(flat, append=-1))
        lengths = np.diff(ends, prepend=-1)
        return {
            "source": self.source,
            "size": list(self.classes.shape),
            "shares": {k: float(v) for k, v in self.shares.items()} if known else {},
            "runs": np.stack([flat[ends], lengths], 1).tolist(),
            "error": self.error,
        }

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of a COCO file of stuff results, one a class; category ids are the user's own."""
        return [
            {
                "image_id": image_id,
                "category_id": self.facts.class_ids[i],
                "segmentation": Region.of(self.classes == i).rle(self.classes.shape),
            }
            for i in np.unique(self.classes[self.classes < len(self.facts.classes)]).tolist()
        ]

    def draw(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        """The image with its classes as colours."""
        return draw_mask(image, self.classes, self.facts.classes)


class Segment(Signature):
    """`logits` (N, classes, h, w) on any grid -> `classes` uint8 (N, H, W).

    A model for large images (`Preprocess.window`) is run on pieces of the network's shape.
    """

    raw = ("logits",)
    names = ("classes",)
    metric = "val/miou"
    metric_name = "mean IoU"
    hub_tag = "image-segmentation"
    maps = True

    @property
    def described(self) -> str:
        """The map of classes."""
        return "`classes`, uint8 (N, height, width), the class of every pixel; and `logits`"

    def through(self, run: Run, samples: Any, names: Sequence[str]) -> dict[str, Array]:
        """Large images in pieces; small ones grow to a piece by repeating their edge."""
        if not self.facts.preprocess.window:
            return run(samples, names)
        shape, sides = self.facts.preprocess.shape, samples.shape[1:3]
        grown = [
            max(least, -(-side // STEP) * STEP) for least, side in zip(shape, sides, strict=True)
        ]
        more = [(0, after - side) for after, side in zip(grown, sides, strict=True)]
        whole = np.pad(samples, [(0, 0), *more, (0, 0)], mode="edge")
        found = tiled(run, whole, names, _SIDES, shape, min(shape) // 4, STEP)
        if "classes" in found:
            found["classes"] = found["classes"][:, : sides[0], : sides[1]]
        return found

    def tail(self) -> nn.Module:
        """Logits in the network's input size, the likeliest class, the image's own size."""
        return _Likeliest(self.facts.preprocess.shape)

    def scorer(self) -> Scorer:
        """Mean IoU, with Dice and boundary F by class."""
        return PixelScorer(self.facts)

    def result(self, source: str, outputs: Mapping[str, Array]) -> Segmentation:
        """The map as it is."""
        return Segmentation(source, outputs["classes"], self.facts)

    def failed(self, source: str, reason: str) -> Segmentation:
        """A map without pixels."""
        return Segmentation(source, np.zeros((0, 0), np.uint8), self.facts, reason)

    def truth(self, split: Split, i: int, order: Array | None = None) -> Any:
        """The mask, uint8 (H, W), in the model's order of classes."""
        mask: Array = split.targets[i].read()
        if order is None:
            return mask
        table = np.full(256, VOID, dtype=np.uint8)
        table[: len(order)] = np.where(order >= 0, order, VOID)
        return table[mask]

    def truth_result(self, source: str, truth: Any) -> Segmentation:
        """The mask as an answer."""
        return Segmentation(source, truth, self.facts)


class _Likeliest(nn.Module):
    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, images: Tensor, logits: Tensor) -> tuple[Tensor]:
        if logits.shape[-2:] != self.shape:
            logits = F.interpolate(logits, self.shape, mode="bilinear", align_corners=False)
        found = logits.argmax(1).to(torch.uint8)
        rows = _nearest(images.shape[1], self.shape[0])
        columns = _nearest(images.shape[2], self.shape[1])
        return (found[:, rows][:, :, columns],)


def _nearest(wanted: int, given: int) -> Tensor:
    """For each of `wanted` pixel centres, the pixel of `given` that it lies in."""
    centres = torch.arange(wanted, dtype=torch.float64) + 0.5
    return (centres * given / wanted).floor().long().clamp(max=given - 1)


class PixelScorer(Scorer):
    """Counts pixels by truth and answer, image by image.

    Args:
        facts: about the model.
    """

    name = "val/miou"

    def __init__(self, facts: Facts) -> None:
        self.classes = facts.classes
        self._counts: list[Array] = []
        self._boundary: list[Array] = []

    def update(self, outputs: Mapping[str, Array], truths: Sequence[Any]) -> None:
        """Take in maps (N, H, W) and their masks."""
        for found, truth in zip(outputs["classes"], truths, strict=True):
            self._counts.append(confusion(found, truth, len(self.classes)))
            self._boundary.append(boundary_scores(found, truth, len(self.classes)))

    @property
    def counts(self) -> Array:
        """(images, truth, answer) pixels so far."""
        return np.stack(self._counts)

    def value(self) -> float:
        """Mean IoU over the classes that occur."""
        return mean_iou(self.counts.sum(0))

    def interval(self) -> tuple[float, float]:
        """A bootstrap over images."""
        counts = self.counts
        return bootstrap(lambda drawn: mean_iou(counts[drawn].sum(0)), len(counts))

    def per_class(self) -> list[dict[str, Any]]:
        """Share of the pixels, IoU, Dice and boundary F; 0 where there is nothing to divide by."""
        total = self.counts.sum(0)
        both, truth, said = np.diag(total), total.sum(1), total.sum(0)
        edges = np.nanmean(_known(self._boundary), 0)
        return [
            {
                "name": name,
                "pixels": float(truth[i] / max(1, truth.sum())),
                "iou": float(both[i] / max(1, truth[i] + said[i] - both[i])),
                "dice": float(2 * both[i] / max(1, truth[i] + said[i])),
                "boundary f": float(edges[i]) if np.isfinite(edges[i]) else 0.0,
            }
            for i, name in enumerate(self.classes)
        ]

    def per_input(self) -> Array:
        """Mean IoU of each image."""
        return np.array([mean_iou(count) for count in self._counts])


def _known(rows: Sequence[Array]) -> Array:
    """Rows in one table; a class that no image has becomes zero, so that its mean is defined."""
    table = np.stack(rows)
    table[:, np.isnan(table).all(0)] = 0
    return table


def confusion(found: Array, truth: Array, classes: int) -> Array:
    """(truth, answer) counts of pixels, void left out."""
    known = truth != VOID
    flat = truth[known].astype(np.int64) * classes + found[known].astype(np.int64)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def mean_iou(counts: Array) -> float:
    """Mean of intersection / union over the classes that occur in the truth."""
    both, truth, said = np.diag(counts), counts.sum(1), counts.sum(0)
    there = truth > 0
    if not there.any():
        return 0.0
    return float((both[there] / (truth + said - both)[there]).mean())


def boundary_scores(found: Array, truth: Array, classes: int) -> Array:
    """F of the boundaries of each class (Csurka 2013), nan where the truth lacks it, (classes,).

    A boundary pixel is right if the other boundary passes within `TOLERANCE` of the diagonal.
    """
    scores = np.full(classes, np.nan)
    present = np.unique(truth[truth != VOID])
    if not len(present):
        return scores
    reach = max(1, round(TOLERANCE * float(np.hypot(*truth.shape))))
    index = torch.from_numpy(present.astype(np.int64))[:, None, None]
    known = torch.from_numpy(truth != VOID)
    said = _edges((torch.from_numpy(found.astype(np.int64)) == index) & known)
    true = _edges(torch.from_numpy(truth.astype(np.int64)) == index)
    precision = (said * _grown(true, reach)).sum((1, 2)) / said.sum((1, 2)).clamp(min=1)
    recall = (true * _grown(said, reach)).sum((1, 2)) / true.sum((1, 2)).clamp(min=1)
    scores[present] = (2 * precision * recall / (precision + recall).clamp(min=1e-9)).numpy()
    return scores


def _edges(region: Tensor) -> Tensor:
    """Pixels of a region with a neighbour outside of it, (C, H, W) of 0 and 1."""
    solid = region.float()
    inside = -F.max_pool2d(-solid[None], 3, 1, 1)[0]
    return solid - inside


def _grown(edges: Tensor, reach: int) -> Tensor:
    """The pixels within `reach` of an edge; a square, since two passes of lines are fast."""
    side = 2 * reach + 1
    rows = F.max_pool2d(edges[None], (side, 1), 1, (reach, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, reach))[0]


SIGNATURE = Segment
