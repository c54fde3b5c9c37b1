"""torchvision's one-stage detectors on any backbone with any neck.

`retinanet` (arXiv:1708.02002) and `fcos` (arXiv:1904.01355) give scores and corners of all
positions, as `light_detect` does, and become files like it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator

from sinet.heads._necks import create_neck
from sinet.heads.detection import PyramidBackbone
from sinet.models._backbone import create_backbone
from sinet.models._networks import register_for

_EPS = 1e-6
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
        levels = level_anchors(self._model[0].anchor_generator, x, maps)
        # torchvision counts the positions of a level, which for FCOS are its anchors
        anchors, counts = torch.cat(levels), [len(level) for level in levels]
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


def level_anchors(generator: Any, x: torch.Tensor, maps: Maps) -> Maps:
    """Boxes (A, 4) that corners are told from, level by level: positions x shapes.

    What torchvision's `generator` makes for images `x`, as constants of an exported file.
    """
    height, width = int(x.shape[-2]), int(x.shape[-1])
    anchors = []
    for shapes, level in zip(generator.cell_anchors, maps, strict=True):
        high, wide = int(level.shape[-2]), int(level.shape[-1])
        steps = width // wide, height // high
        columns, rows = (
            torch.arange(n, device=x.device, dtype=torch.float32) * step
            for n, step in zip((wide, high), steps, strict=True)
        )
        y, x_ = torch.meshgrid(rows, columns, indexing="ij")
        shifts = torch.stack([x_, y, x_, y], -1).reshape(-1, 1, 4)
        anchors.append((shifts + shapes.to(x.device)).reshape(-1, 4))
    return anchors


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


def _by_image(targets: torch.Tensor, batch: int) -> list[dict[str, torch.Tensor]]:
    """Rows (image, class, x1, y1, x2, y2) as torchvision takes them, image by image."""
    own = [targets[targets[:, 0] == i] for i in range(batch)]
    return [{"boxes": rows[:, 2:], "labels": rows[:, 1].long()} for rows in own]


def pyramid(
    backbone: str,
    neck: str,
    in_chans: int,
    width: int,
    weights: str | None,
    strides: Sequence[int],
    options: Mapping[str, Any],
) -> PyramidBackbone:
    """A backbone with a neck; `options` are the neck's."""
    body = create_backbone(backbone, in_chans, weights, strides)
    info: Any = body.feature_info
    return PyramidBackbone(body, create_neck(neck, info.channels(), width, **options))


def anchor_sizes(
    steps: Sequence[int], scales: Sequence[float], unit: int
) -> tuple[tuple[int, ...], ...]:
    """Sides of anchor boxes in pixels, for the step of every level."""
    return tuple(tuple(round(unit * step * scale) for scale in scales) for step in steps)


@register_for("detect")
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
    body = pyramid(backbone, neck, in_chans, width, weights, strides, options)
    sizes = anchor_sizes(body.reductions, (1, 2 ** (1 / 3), 2 ** (2 / 3)), 4)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    return OneStage(detection.RetinaNet(body, num_classes, anchor_generator=anchors))


@register_for("detect")
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
    body = pyramid(backbone, neck, in_chans, width, weights, strides, options)
    sizes = anchor_sizes(body.reductions, (1,), 1)
    anchors = AnchorGenerator(sizes, ((1.0,),) * len(sizes))
    return OneStage(detection.FCOS(body, num_classes, anchor_generator=anchors))
