"""Boxes of one image: corners in pixels, class indices; what is wrong with them, and what is done.

Corners are (x1, y1, x2, y2) in continuous pixels: the whole image is (0, 0, width, height).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sinet.data.masks import palette
from sinet.data.remarks import Corners, Remark, Spot

SLACK = 1.0
"""Pixels by which a box may leave its image before that is worth a word: annotators round."""

_KINDS = {
    "unread": ("boxes are not four finite numbers and are left out", "box unreadable"),
    "inverted": ("boxes have their corners the wrong way round; these are swapped",
                 "corners swapped"),
    "outside": ("boxes lie outside of their image and are left out", "box outside"),
    "cut": ("boxes reach out of their image and are cut at its border", "box cut"),
    "empty": ("boxes have no area and are left out", "box empty"),
    "few": ("outlines have fewer than three points and are left out", "outline too short"),
    "bare": ("objects have no outline and are left out", "no outline"),
}  # fmt: skip
"""Kind of fault -> in words, and in two words."""

Floats = npt.NDArray[np.float32]
Carry = Callable[[Image.Image], tuple[Image.Image, tuple[int, int]]]
"""Brings what belongs to an image onto a canvas: the part that is seen, and its left and top."""
_B = TypeVar("_B", bound="Boxes")


@dataclass(frozen=True)
class Fault:
    """One thing that was wrong with one box."""

    kind: str
    """One of `unread`, `inverted`, `outside`, `cut`, `empty`, `few`, `bare`."""
    where: str
    """The file, and which box in it."""
    box: Corners = ()
    """As it was given, in pixels; empty where that is no box."""
    picture: str = ""
    """The name of the image."""


@dataclass(frozen=True, eq=False, repr=False)
class Boxes:
    """The boxes of one image."""

    name: str
    """Of the file that they come from."""
    corners: Floats
    """float32 (n, 4): x1, y1, x2, y2 in pixels."""
    labels: npt.NDArray[np.int64]
    """Class indices (n,)."""
    crowd: npt.NDArray[np.bool_]
    """(n,): a region of many objects, in which nothing that is found counts as wrong."""
    annotations: tuple[Mapping[str, Any], ...] = field(default=())
    """What else the file says of each box, such as COCO's polygons; empty, or one a box."""

    @classmethod
    def of(
        cls,
        name: str,
        corners: npt.ArrayLike,
        labels: npt.ArrayLike,
        crowd: npt.ArrayLike | None = None,
        annotations: Sequence[Mapping[str, Any]] = (),
    ) -> Boxes:
        """From anything like arrays; no crowds unless said."""
        numbers = np.asarray(labels, dtype=np.int64).reshape(-1)
        crowds = np.zeros(len(numbers), bool) if crowd is None else np.asarray(crowd, dtype=bool)
        places = np.asarray(corners, dtype=np.float32).reshape(-1, 4)
        return cls(name, places, numbers, crowds.reshape(-1), tuple(annotations))

    def read(self) -> Boxes:
        """Themselves; masks must be decoded, boxes are there already."""
        return self

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        """Says all there is in few letters: data sets are told apart by it."""
        content = b"".join(part.tobytes() for part in (self.corners, self.labels, self.crowd))
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        return f"Boxes({self.name!r}, {len(self)}, {digest})"

    def select(self: _B, chosen: npt.NDArray[Any]) -> _B:
        """Those at these places, or where a mask is true."""
        places = np.arange(len(self))[chosen]
        return replace(
            self,
            corners=self.corners[places],
            labels=self.labels[places],
            crowd=self.crowd[places],
            annotations=tuple(self.annotations[i] for i in places) if self.annotations else (),
        )

    def scaled(self, wide: float, high: float) -> Boxes:
        """In an image that is so many times wider and higher."""
        factors = np.array([wide, high, wide, high], np.float32)
        return replace(self, corners=self.corners * factors)

    def moved(self, corners: Floats, carry: Carry, size: tuple[int, int]) -> Boxes:
        """On a canvas of this height and width: at `corners`, and what else there is by `carry`."""
        return replace(self, corners=corners, annotations=())

    def together(self: _B, others: Sequence[Boxes]) -> _B:
        """These and others of the same canvas."""
        corners, labels, crowd = (
            np.concatenate([getattr(boxes, part) for boxes in (self, *others)])
            for part in ("corners", "labels", "crowd")
        )
        return replace(self, corners=corners, labels=labels, crowd=crowd, annotations=())


def repaired(boxes: Boxes, height: int, width: int) -> tuple[Boxes, list[Fault]]:
    """Boxes that an image of this size can have, and what was wrong with the given ones.

    Corners the wrong way round are swapped, what reaches out is cut; what is no box, lies outside
    or has no area is left out.
    """
    corners = boxes.corners.astype(np.float64)
    unread = np.asarray(~np.isfinite(corners).all(1))
    corners[unread] = 0
    low, high = (
        np.minimum(corners[:, :2], corners[:, 2:]),
        np.maximum(corners[:, :2], corners[:, 2:]),
    )
    inverted = (low != corners[:, :2]).any(1)
    empty = ~unread & (high <= low).any(1)
    limit = np.array([width, height])
    outside = ~unread & ~empty & ((high <= 0) | (low >= limit)).any(1)
    inside_low, inside_high = low.clip(0, limit), high.clip(0, limit)
    moved = np.maximum(np.abs(inside_low - low), np.abs(inside_high - high)).max(1, initial=0)
    gone = unread | empty | outside
    found = {
        "unread": unread,
        "inverted": inverted & ~gone,
        "outside": outside,
        "cut": (moved > SLACK) & ~gone,
        "empty": empty,
    }
    faults = [
        Fault(
            kind,
            f"{boxes.name}, box {i + 1}{_shown(boxes.corners[i])}",
            () if unread[i] else tuple(boxes.corners[i].tolist()),
        )
        for kind, which in found.items()
        for i in np.flatnonzero(which)
    ]
    fitted = np.concatenate([inside_low, inside_high], 1).astype(np.float32)
    return replace(boxes, corners=fitted).select(np.flatnonzero(~gone)), faults


def _shown(corners: Floats) -> str:
    return " (" + " ".join(f"{value:g}" for value in corners) + ")"


def summary(faults: Sequence[Fault], first: int = 3) -> list[Remark]:
    """One remark a kind: how many, and the first of them with their files."""
    remarks = []
    for kind, (text, short) in _KINDS.items():
        if some := [fault for fault in faults if fault.kind == kind]:
            where = "; ".join(fault.where for fault in some[:first])
            more = " ..." if len(some) > first else ""
            spots = tuple(Spot(fault.picture, box=fault.box) for fault in some)
            remarks.append(Remark(f"{len(some)} {text}: {where}{more}", True, short, spots))
    return remarks


def presence(boxes: Sequence[Boxes], classes: int) -> Floats:
    """Which classes occur in each image, (N, classes) of 0 and 1."""
    found = np.zeros((len(boxes), classes), dtype=np.float32)
    for row, given in zip(found, boxes, strict=True):
        row[given.labels] = 1
    return found


def box_iou(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Intersection over union of all pairs: (n, 4) and (m, 4) -> (n, m)."""
    one, other = one.astype(np.float64)[:, None], other.astype(np.float64)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    both = sides.clip(min=0).prod(-1)
    areas = [(part[..., 2:] - part[..., :2]).prod(-1) for part in (one, other)]
    return np.asarray(both / np.maximum(areas[0] + areas[1] - both, 1e-12))


def draw_boxes(
    image: npt.NDArray[np.uint8],
    corners: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    classes: Sequence[str],
    scores: npt.NDArray[Any] | None = None,
) -> Image.Image:
    """The image, uint8 (H, W, 1 or 3), with its boxes in the colours of their classes."""
    picture = Image.fromarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
    pen, colours = ImageDraw.Draw(picture), palette(len(classes))
    thick = max(1, round(min(picture.size) / 120))
    font = ImageFont.load_default(max(9, min(picture.size) // 28))
    for i, (box, label) in enumerate(zip(corners.tolist(), labels.tolist(), strict=True)):
        colour = tuple(int(part) for part in colours[label])
        pen.rectangle(box, outline=colour, width=thick)
        text = classes[label] if scores is None else f"{classes[label]} {scores[i]:.2f}"
        left, top = box[0], max(0.0, box[1])
        pen.rectangle(pen.textbbox((left, top), text, font), fill=colour)
        pen.text((left, top), text, "black", font)
    return picture
