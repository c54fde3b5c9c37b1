"""torchvision's detectors on any backbone with any neck, for training and prediction in torch.

`retinanet` (arXiv:1708.02002) and `fcos` (arXiv:1904.01355) give scores and corners of all
positions, as `light_detect` does, and become files like it. `faster_rcnn` (arXiv:1506.01497) has
two stages, whose proposals differ in number from image to image: it cannot become a file here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from sinet.errors import UsageError
from sinet.heads._necks import create_neck
from sinet.heads.detection import PyramidBackbone
from sinet.models._backbone import create_backbone
from sinet.models._networks import register_network

PROPOSALS = 300
_EPS = 1e-6
_NOTHING = -20.0  # logit of a place that no proposal fills
Maps = list[torch.Tensor]


class OneStage(nn.Module):
    """RetinaNet or FCOS of torchvision with the interface of this library's detectors.

    Shapes: (B, C, H, W) -> logits (B, A, classes), corners (B, A, 4) in pixels; in training what
    `losses` takes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body: nn.Module = model.backbone
        self.head: nn.Module = model.head
        # kept out of the list of modules: it shares the two above and has a transform of its own
        self._model = [model]

    def forward(self, x: torch.Tensor) -> Any:
        """Run backbone, neck and head."""
        maps = list(self.body(x).values())
        outputs: dict[str, torch.Tensor] = self.head(maps)
        anchors, counts = self._anchors(x, maps)
        if self.training:
            return outputs, anchors, counts
        logits, deltas = outputs["cls_logits"].float(), outputs["bbox_regression"].float()
        if "bbox_ctrness" in outputs:  # FCOS: the score is the root of both probabilities' product
            certain = logits.sigmoid() * outputs["bbox_ctrness"].float().sigmoid()
            likely = certain.clamp(_EPS**2, (1 - _EPS) ** 2).sqrt()
            logits = torch.log(likely / (1 - likely))
            return logits, _from_sides(deltas, anchors)
        return logits, _from_deltas(deltas, anchors, self._model[0].box_coder)

    def losses(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """The sum of the detector's own losses; targets (G, 6) image, class, x1, y1, x2, y2."""
        found, anchors, counts = outputs
        batch = len(found["cls_logits"])
        found = {key: value.float() for key, value in found.items()}
        wanted, every = _by_image(targets, batch), [anchors] * batch
        model = self._model[0]
        if isinstance(model, detection.FCOS):
            parts = model.compute_loss(wanted, found, every, counts)
        else:
            parts = model.compute_loss(wanted, found, every)
        total: torch.Tensor = sum(parts.values())
        return total

    def _anchors(self, x: torch.Tensor, maps: Maps) -> tuple[torch.Tensor, list[int]]:
        """Boxes (A, 4) that corners are told from, and how many a level has, positions x shapes."""
        cells = self._model[0].anchor_generator.cell_anchors
        height, width = int(x.shape[-2]), int(x.shape[-1])
        anchors = []
        for shapes, level in zip(cells, maps, strict=True):
            high, wide = int(level.shape[-2]), int(level.shape[-1])
            steps = width // wide, height // high
            columns, rows = (
                torch.arange(n, device=x.device, dtype=torch.float32) * step
                for n, step in zip((wide, high), steps, strict=True)
            )
            y, x_ = torch.meshgrid(rows, columns, indexing="ij")
            shifts = torch.stack([x_, y, x_, y], -1).reshape(-1, 1, 4)
            anchors.append((shifts + shapes.to(x.device)).reshape(-1, 4))
        # torchvision counts the positions of a level, which for FCOS are its anchors
        return torch.cat(anchors), [len(level) for level in anchors]


def _from_sides(sides: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """FCOS: distances to the sides in units of the anchor."""
    low, high = anchors.split(2, -1)
    centre, size = (low + high) / 2, high - low
    before, after = sides.split(2, -1)
    return torch.cat([centre - before * size, centre + after * size], -1)


def _from_deltas(deltas: torch.Tensor, anchors: torch.Tensor, coder: Any) -> torch.Tensor:
    """RetinaNet: shift and growth of the anchor."""
    low, high = anchors.split(2, -1)
    centre, size = (low + high) / 2, high - low
    weights = torch.tensor(coder.weights, device=deltas.device, dtype=deltas.dtype)
    shift, growth = (deltas / weights).split(2, -1)
    centre = centre + shift * size
    half = growth.clamp(max=coder.bbox_xform_clip).exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


class TwoStage(nn.Module):
    """Faster R-CNN of torchvision with the interface of this library's detectors.

    Shapes: (B, C, H, W) -> logits (B, R, classes), corners (B, R, 4) in pixels, R proposals; in
    training what `losses` takes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body: nn.Module = model.backbone
        self.rpn: nn.Module = model.rpn
        self.roi_heads: nn.Module = model.roi_heads

    def forward(self, x: torch.Tensor) -> Any:
        """The maps in training; else the proposals with their best class."""
        if torch.onnx.is_in_onnx_export():
            raise UsageError(
                "faster_rcnn is for training and prediction in torch; for a file choose "
                "light_detect, retinanet or fcos"
            )
        maps: Mapping[str, torch.Tensor] = self.body(x)
        images = ImageList(x, [(int(x.shape[-2]), int(x.shape[-1]))] * len(x))
        return (images, maps) if self.training else self._found(images, maps)

    def losses(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """The sum of the losses of both stages; targets (G, 6) image, class, x1, y1, x2, y2."""
        images, maps = outputs
        wanted = _by_image(targets, len(images.image_sizes))
        for entry in wanted:
            entry["labels"] = entry["labels"] + 1  # 0 is the background
        maps = {key: value.float() for key, value in maps.items()}
        proposals, first = self.rpn(images, maps, wanted)
        _, second = self.roi_heads(maps, proposals, images.image_sizes, wanted)
        total: torch.Tensor = sum({**first, **second}.values())
        return total

    def _found(
        self, images: ImageList, maps: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        heads: Any = self.roi_heads
        proposals, _ = self.rpn(images, maps)
        pooled = heads.box_head(heads.box_roi_pool(maps, proposals, images.image_sizes))
        scores, deltas = heads.box_predictor(pooled)
        boxes = heads.box_coder.decode(deltas, proposals)[:, 1:]  # (proposals, classes, 4)
        likely = scores.float().softmax(-1)[:, 1:].clamp(_EPS, 1 - _EPS)
        best = likely.argmax(1)
        corners = boxes[torch.arange(len(best), device=best.device), best]
        logits = torch.log(likely / (1 - likely))
        counts = [len(part) for part in proposals]
        padded = [
            (F.pad(a, (0, 0, 0, PROPOSALS - n), value=_NOTHING), F.pad(b, (0, 0, 0, PROPOSALS - n)))
            for a, b, n in zip(logits.split(counts), corners.split(counts), counts, strict=True)
        ]
        return torch.stack([a for a, _ in padded]), torch.stack([b for _, b in padded])


def _by_image(targets: torch.Tensor, batch: int) -> list[dict[str, torch.Tensor]]:
    """Rows (image, class, x1, y1, x2, y2) as torchvision takes them, image by image."""
    own = [targets[targets[:, 0] == i] for i in range(batch)]
    return [{"boxes": rows[:, 2:], "labels": rows[:, 1].long()} for rows in own]


def _pyramid(
    backbone: str,
    neck: str,
    in_chans: int,
    width: int,
    weights: str | None,
    strides: Sequence[int],
    options: Mapping[str, Any],
) -> PyramidBackbone:
    body = create_backbone(backbone, in_chans, weights, strides)
    info: Any = body.feature_info
    return PyramidBackbone(body, create_neck(neck, info.channels(), width, **options))


def _sizes(steps: Sequence[int], scales: Sequence[float], unit: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(round(unit * step * scale) for scale in scales) for step in steps)


@register_network
def retinanet(
    backbone: str = "resnet18",
    num_classes: int = 80,
    in_chans: int = 3,
    neck: str = "fpn",
    width: int = 128,
    weights: str | None = None,
    strides: Sequence[int] = (8, 16, 32),
    **options: Any,
) -> OneStage:
    """RetinaNet: nine anchor boxes a position, focal loss; `options` are the neck's."""
    pyramid = _pyramid(backbone, neck, in_chans, width, weights, strides, options)
    sizes = _sizes(pyramid.reductions, (1, 2 ** (1 / 3), 2 ** (2 / 3)), 4)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    return OneStage(detection.RetinaNet(pyramid, num_classes, anchor_generator=anchors))


@register_network
def fcos(
    backbone: str = "resnet18",
    num_classes: int = 80,
    in_chans: int = 3,
    neck: str = "fpn",
    width: int = 128,
    weights: str | None = None,
    strides: Sequence[int] = (8, 16, 32),
    **options: Any,
) -> OneStage:
    """FCOS: distances to the sides, and how central a position is; `options` are the neck's."""
    pyramid = _pyramid(backbone, neck, in_chans, width, weights, strides, options)
    sizes = _sizes(pyramid.reductions, (1,), 1)
    anchors = AnchorGenerator(sizes, ((1.0,),) * len(sizes))
    return OneStage(detection.FCOS(pyramid, num_classes, anchor_generator=anchors))


@register_network
def faster_rcnn(
    backbone: str = "resnet18",
    num_classes: int = 80,
    in_chans: int = 3,
    neck: str = "fpn",
    width: int = 128,
    weights: str | None = None,
    strides: Sequence[int] = (4, 8, 16, 32),
    **options: Any,
) -> TwoStage:
    """Faster R-CNN: proposals first, then their classes and corners; `options` are the neck's."""
    pyramid = _pyramid(backbone, neck, in_chans, width, weights, strides, options)
    sizes = _sizes(pyramid.reductions, (1,), 8)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    names = [str(i) for i in range(len(sizes))]
    model = detection.FasterRCNN(
        pyramid,
        num_classes + 1,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_test=PROPOSALS * 2,
        rpn_post_nms_top_n_test=PROPOSALS,
        box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
    )
    return TwoStage(model)
