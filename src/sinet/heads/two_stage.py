"""torchvision's two-stage detectors on any backbone with any neck: Faster R-CNN and Mask R-CNN.

`faster_rcnn` (arXiv:1506.01497) finds boxes, `mask_rcnn` (arXiv:1703.06870) their pixels as well;
`mask_rcnn_pp` is the latter on UNet++'s nested pyramid (see `sinet.heads.nested`). How a region is
cropped is their option `roi`: `align` from the level that suits its size, as in the papers; `hroie`
from all levels of the backbone (CATNet, see `sinet.heads.catnet`).

Layers, training and losses are torchvision's. In evaluation the same layers run on a fixed number
of regions, so that every tensor has one shape and the network becomes a file: a level's best
anchors, suppression of doubles, the best `PROPOSALS` of all levels, places left over empty; regions
are cropped level by level and put back into their order. A test holds this against torchvision's
own evaluation. Two simplifications: a region has one box, that of its likeliest class; and masks
are those of all regions, since the final suppression comes behind the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, nms, roi_align
from torchvision.ops.poolers import LevelMapper

from sinet.errors import unknown
from sinet.heads.catnet import HRoIE
from sinet.heads.detection import PyramidBackbone
from sinet.heads.torchvision_detect import anchor_sizes, level_anchors, pyramid
from sinet.models._networks import register_for

PROPOSALS = 100
"""Regions that the second stage looks at in evaluation."""
SAMPLED = 128
"""Regions an image that Mask R-CNN's second stage learns from."""
_EPS = 1e-12
_NOTHING = -20.0  # logit of a place that no proposal fills
_LEAST = 1e-3  # pixels; a narrower proposal is none
_BOX, _MASK = 7, 14  # positions of a crop
# Samples of a position on either side, as torchvision has them. As many as a region has pixels, as
# in CATNet, would jump where rounding moves a region over a whole number: no file could follow.
_SAMPLES = 2
_MOST_LEVELS = 8  # of a pyramid
Tensors = Sequence[torch.Tensor]


class Masked(NamedTuple):
    """The objects of a batch."""

    rows: torch.Tensor
    """(G, 6): image, class, x1, y1, x2, y2."""
    masks: torch.Tensor
    """uint8 (G, height, width) of 0 and 1."""


class TwoStage(nn.Module):
    """Faster or Mask R-CNN of torchvision with the interface of this library's detectors.

    Shapes: (B, C, H, W) -> logits (B, R, classes), corners (B, R, 4) in pixels and, with masks,
    logits (B, R, 28, 28) of the likeliest class in the frame of the corners; R proposals. In
    training what `losses` takes.
    """

    def __init__(self, model: Any, proposals: int) -> None:
        super().__init__()
        self.body: nn.Module = model.backbone
        self.rpn: nn.Module = model.rpn
        self.roi_heads: nn.Module = model.roi_heads
        self.proposals = proposals

    def forward(self, x: torch.Tensor) -> Any:
        """The maps in training; else the proposals with their best class."""
        maps: Mapping[str, torch.Tensor] = self.body(x)
        if self.training:
            return ImageList(x, [(int(x.shape[-2]), int(x.shape[-1]))] * len(x)), maps
        return self._found(x, [part.float() for part in maps.values()])

    def losses(self, outputs: Any, targets: torch.Tensor | Masked) -> torch.Tensor:
        """The sum of the losses of both stages; targets are rows of boxes, or these and masks."""
        images, maps = outputs
        rows, masks = targets if isinstance(targets, tuple) else (targets, None)
        wanted = []
        for i in range(len(images.image_sizes)):
            own = rows[:, 0] == i
            entry = {"boxes": rows[own, 2:], "labels": rows[own, 1].long() + 1}  # 0 is background
            wanted.append(entry if masks is None else {**entry, "masks": masks[own]})
        maps = {key: value.float() for key, value in maps.items()}
        proposals, first = self.rpn(images, maps, wanted)
        _, second = self.roi_heads(maps, proposals, images.image_sizes, wanted)
        total: torch.Tensor = sum({**first, **second}.values())
        return total

    def _found(self, x: torch.Tensor, maps: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        heads: Any = self.roi_heads
        sides = int(x.shape[-2]), int(x.shape[-1])
        regions, there = self._proposals(x, maps, sides)
        pooled = heads.box_head(self._crops(heads.box_roi_pool, maps, regions))
        scores, deltas = heads.box_predictor(pooled)
        best = scores[:, 1:].argmax(1)[:, None, None]
        boxes = heads.box_coder.decode_single(deltas, regions.flatten(0, 1))
        boxes = boxes.reshape(-1, scores.shape[1], 4).gather(1, best.expand(-1, 1, 4) + 1)
        corners = self._shaped(_inside(boxes[:, 0], sides))
        corners = torch.where(there[..., None], corners, 0)
        logits = torch.where(there[..., None], self._shaped(_against_all(scores)), _NOTHING)
        if not heads.has_mask():
            return logits, corners
        crops = self._crops(heads.mask_roi_pool, maps, corners)
        masks = heads.mask_predictor(heads.mask_head(crops))
        high, wide = int(masks.shape[-2]), int(masks.shape[-1])
        masks = masks.gather(1, best[..., None].expand(-1, 1, high, wide) + 1)[:, 0]
        return logits, corners, torch.where(there[..., None, None], self._shaped(masks), _NOTHING)

    def _shaped(self, x: torch.Tensor) -> torch.Tensor:
        """(B R, ...) -> (B, R, ...), the batch open."""
        return x.reshape(-1, self.proposals, *(int(side) for side in x.shape[1:]))

    def _proposals(
        self, x: torch.Tensor, maps: list[torch.Tensor], sides: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Regions (B, R, 4) in pixels, and which of them are some, (B, R)."""
        rpn: Any = self.rpn
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        anchors = level_anchors(rpn.anchor_generator, x, maps)
        for scores, deltas, boxes in zip(*rpn.head(maps), anchors, strict=True):
            shapes, high, wide = (int(side) for side in scores.shape[1:])
            flat = scores.permute(0, 2, 3, 1).reshape(-1, high * wide * shapes)
            deltas = deltas.reshape(-1, shapes, 4, high, wide).permute(0, 3, 4, 1, 2)
            deltas = deltas.reshape(-1, high * wide * shapes, 4)
            count = min(2 * self.proposals, high * wide * shapes)
            best, order = flat.topk(count, 1)
            deltas = deltas.gather(1, order[..., None].expand(-1, -1, 4))
            near = rpn.box_coder.decode_single(deltas.flatten(0, 1), boxes[order].flatten(0, 1))
            found.append((best.sigmoid(), _inside(near, sides).reshape(-1, count, 4)))
        scores = torch.cat([part for part, _ in found], 1)
        boxes = torch.cat([part for _, part in found], 1)
        levels = torch.cat([torch.full_like(part[0], i) for i, (part, _) in enumerate(found)])
        if torch.onnx.is_in_onnx_export():
            return self._chosen(scores, boxes, levels, max(sides))
        # image by image, so that no box is moved far and none depends on the batch
        each = [
            self._chosen(s[None], b[None], levels, max(sides))
            for s, b in zip(scores, boxes, strict=True)
        ]
        return torch.cat([part for part, _ in each]), torch.cat([part for _, part in each])

    def _chosen(
        self, scores: torch.Tensor, boxes: torch.Tensor, levels: torch.Tensor, reach: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best of (B, K), doubles of a level left out, as `_proposals` gives them."""
        rpn: Any = self.rpn
        count = int(scores.shape[1])
        images = torch.arange(scores.shape[0], device=boxes.device)[:, None]
        # boxes of different levels and images are moved so far apart that they cannot overlap
        groups = images * _MOST_LEVELS + levels
        apart = (boxes + groups[..., None] * (reach + 1)).flatten(0, 1)
        flat = scores.flatten()
        kept = _single(apart, flat, rpn.nms_thresh)
        free = torch.full_like(flat, -1.0).scatter(0, kept, flat[kept]).reshape(-1, count)
        best, order = free.topk(min(self.proposals, count), 1)
        chosen = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        spare = (0, self.proposals - min(self.proposals, count))
        chosen, best = F.pad(chosen, (0, 0, *spare)), F.pad(best, spare, value=-1.0)
        there = (best >= 0) & ((chosen[..., 2:] - chosen[..., :2]).amin(-1) >= _LEAST)
        return torch.where(there[..., None], chosen, 0), there

    def _crops(self, pool: Any, maps: list[torch.Tensor], regions: torch.Tensor) -> torch.Tensor:
        """What `pool` gives in training, for regions (B, R, 4): (B R, C, side, side)."""
        reductions: list[int] = self.body.reductions  # type: ignore[assignment]
        count = int(regions.shape[1])
        images = torch.arange(regions.shape[0], device=regions.device)[:, None, None]
        rois = torch.cat([images.expand(-1, count, 1).to(regions.dtype), regions], -1).flatten(0, 1)
        if isinstance(pool, HRoIE):  # has no levels to choose from
            every: torch.Tensor = pool(maps, rois)
            return every
        used = maps[: len(pool.featmap_names)]
        ends = (int(math.log2(reductions[i])) for i in (0, len(used) - 1))
        levels = LevelMapper(*ends)([rois[:, 1:]])
        places = [_members(levels, i) for i in range(len(used))]
        parts = [
            roi_align(part, rois[place], pool.output_size, 1 / step, pool.sampling_ratio)
            for part, place, step in zip(used, places, reductions, strict=False)
        ]
        return torch.cat(parts)[torch.cat(places).argsort()]


def _against_all(scores: torch.Tensor) -> torch.Tensor:
    """Logits (n, classes) whose sigmoids are the softmax of scores (n, 1 + classes).

    The others are summed up one by one: 1 - p would have no digit left where p is nearly 1.
    """
    shares = (scores - scores.amax(-1, keepdim=True)).exp().clamp(min=_EPS)
    others = 1 - torch.eye(int(scores.shape[1]), dtype=shares.dtype, device=shares.device)[1:]
    return shares[:, 1:].log() - (shares[:, None] * others).sum(-1).log()


def _inside(boxes: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    """Boxes (n, 4) cut at the border of an image of this height and width."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    high, wide = sides
    limits = ((x1, wide), (y1, high), (x2, wide), (y2, high))
    return torch.stack([value.clamp(0, limit) for value, limit in limits], -1)


# Sizes alone are known on the meta device, where networks are counted; what depends on numbers is
# then as large as it can be.


def _single(boxes: torch.Tensor, scores: torch.Tensor, overlap: float) -> torch.Tensor:
    """Where the boxes are that remain when doubles are left out."""
    if boxes.is_meta:
        return torch.arange(len(scores), device="meta")
    kept: torch.Tensor = nms(boxes, scores, overlap)
    return kept


def _members(levels: torch.Tensor, level: int) -> torch.Tensor:
    """Where the regions of a level are."""
    if levels.is_meta:
        return torch.arange(0 if level else len(levels), device="meta")
    return (levels == level).nonzero()[:, 0]


def _align(body: PyramidBackbone, side: int) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign([str(i) for i in range(len(body.reductions))], side, _SAMPLES)


def _hroie(body: PyramidBackbone, side: int) -> HRoIE:
    own = len(body.neck.in_channels)  # type: ignore[arg-type]
    direction = "bottom_up" if side == _BOX else "top_down"
    return HRoIE(body.out_channels, side, body.reductions[:own], direction, _SAMPLES)


EXTRACTORS: dict[str, Callable[[PyramidBackbone, int], MultiScaleRoIAlign]] = {
    "align": _align,
    "hroie": _hroie,
}
"""How a region is cropped, by the name that `roi` gives."""


def _extractor(roi: str, body: PyramidBackbone, side: int) -> MultiScaleRoIAlign:
    if roi not in EXTRACTORS:
        raise unknown("roi", roi, EXTRACTORS)
    return EXTRACTORS[roi](body, side)


def _anchors(reductions: Sequence[int]) -> AnchorGenerator:
    sizes = anchor_sizes(reductions, (1,), 8)
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))


@register_for("detect")
def faster_rcnn(
    backbone: str = "resnet18",
    num_classes: int = 80,
    in_chans: int = 3,
    neck: str = "fpn",
    width: int = 128,
    proposals: int = 300,
    weights: str | None = None,
    strides: Sequence[int] = (4, 8, 16, 32),
    roi: str = "align",
    **options: Any,
) -> TwoStage:
    """Faster R-CNN: proposals first, then their classes and corners; `options` are the neck's."""
    body = pyramid(backbone, neck, in_chans, width, weights, strides, options)
    model = detection.FasterRCNN(
        body,
        num_classes + 1,
        rpn_anchor_generator=_anchors(body.reductions),
        box_roi_pool=_extractor(roi, body, _BOX),
    )
    return TwoStage(model, proposals)


@register_for("instances")
def mask_rcnn(
    backbone: str = "resnet18",
    num_classes: int = 80,
    in_chans: int = 3,
    neck: str = "fpn",
    width: int = 128,
    proposals: int = PROPOSALS,
    weights: str | None = None,
    strides: Sequence[int] = (4, 8, 16, 32),
    roi: str = "align",
    **options: Any,
) -> TwoStage:
    """Mask R-CNN: Faster R-CNN and a mask in each box; `options` are the neck's.

    Half the paper's width and a quarter of its regions, for CPUs.
    """
    body = pyramid(backbone, neck, in_chans, width, weights, strides, options)
    model = detection.MaskRCNN(
        body,
        num_classes + 1,
        rpn_anchor_generator=_anchors(body.reductions),
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=500,
        box_batch_size_per_image=SAMPLED,
        box_roi_pool=_extractor(roi, body, _BOX),
        mask_roi_pool=_extractor(roi, body, _MASK),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
    )
    model.roi_heads.mask_predictor = MaskRCNNPredictor(width, width, num_classes + 1)
    return TwoStage(model, proposals)


@register_for("instances")
def mask_rcnn_pp(
    backbone: str = "resnet18",
    num_classes: int = 80,
    in_chans: int = 3,
    width: int = 64,
    proposals: int = PROPOSALS,
    weights: str | None = None,
    strides: Sequence[int] = (4, 8, 16, 32),
    roi: str = "align",
    **options: Any,
) -> TwoStage:
    """Mask R-CNN++: Mask R-CNN on UNet++'s nested pyramid, half as wide since it has more nodes."""
    return mask_rcnn(
        backbone, num_classes, in_chans, "unetpp", width, proposals, weights, strides, roi,
        **options,
    )  # fmt: skip
