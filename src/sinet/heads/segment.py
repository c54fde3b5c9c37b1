"""Semantic segmentation on any backbone: our light pyramid, and the decoders of smp.

`pyramid_seg` sums the levels of a `SiNetPyramid` at the finest one (as in Panoptic FPN,
arXiv:1901.02446, without its ladders of convolutions) and classifies there; the logits are those of
every fourth pixel, and whoever wants all of them interpolates. The decoders named `smp_*` are those
of segmentation-models-pytorch (extra `segmentation`).
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError, missing_extra
from sinet.heads._base import MeanCells
from sinet.heads.pyramid import SiNetPyramid
from sinet.layers import ConvNorm
from sinet.models._backbone import copy_weights, create_backbone, load_classifier
from sinet.models._networks import register_for


class PyramidSegmenter(nn.Module):
    """Backbone, neck, sum of the levels, one convolution, classifier.

    Shape: (B, in_chans, H, W) -> (B, num_classes, ceil(H / 4), ceil(W / 4))
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, width: int = 128, drop_rate: float = 0.0
    ) -> None:
        """Build the head on a backbone.

        Args:
            backbone: of `create_backbone`.
            num_classes: channels of the logits.
            width: channels of the neck.
            drop_rate: dropout before the classifier.
        """
        super().__init__()
        self.backbone = backbone
        self.neck = SiNetPyramid(backbone, width)
        self.mix = nn.Sequential(ConvNorm(width, width, 3), nn.ReLU(inplace=True))
        self.drop = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of every fourth pixel."""
        finest, *rest = self.neck(self.backbone(x))
        for level in rest:
            finest = finest + F.interpolate(level, finest.shape[-2:], mode="bilinear")
        logits: torch.Tensor = self.classifier(self.drop(self.mix(finest)))
        return logits


@register_for("segment")
def pyramid_seg(
    backbone: str = "sinet_small",
    num_classes: int = 21,
    in_chans: int = 3,
    width: int = 128,
    drop_rate: float = 0.0,
    weights: str | None = None,
    **options: Any,
) -> PyramidSegmenter:
    """Our light decoder."""
    body = create_backbone(backbone, in_chans, weights, **options)
    return PyramidSegmenter(body, num_classes, width, drop_rate)


def _smp(
    decoder: str,
    backbone: str,
    num_classes: int,
    in_chans: int,
    weights: str | None,
    **options: Any,
) -> nn.Module:
    """A decoder of segmentation-models-pytorch; logits of every pixel.

    Raises:
        UsageError: the extra is missing, or the decoder cannot take this backbone.
    """
    try:
        smp: Any = importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise missing_extra("segmentation_models_pytorch", "segmentation") from error
    try:
        network: nn.Module = smp.create_model(
            decoder,
            encoder_name=f"tu-{backbone}",
            encoder_weights=None,
            in_channels=in_chans,
            classes=num_classes,
            **options,
        )
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise UsageError(
            f"smp's {decoder} cannot be built on {backbone}: {str(error)[:200]}; choose another "
            "backbone, or pyramid_seg, which takes any"
        ) from error
    if weights is not None:
        encoder: Any = network.encoder
        copy_weights(load_classifier(backbone, in_chans, weights), encoder.model)
    _poolable(network)
    return network


def _poolable(network: nn.Module) -> None:
    """Put pooling that files have at any size where pooling to several cells is."""
    for module in list(network.modules()):
        for name, pool in module.named_children():
            size: Any = getattr(pool, "output_size", 1)  # of a square, as all decoders pool to
            cells = size if isinstance(size, int) else size[0]
            if isinstance(pool, nn.AdaptiveAvgPool2d) and cells > 1:
                setattr(module, name, MeanCells(cells))


# Two of smp 0.6's twelve are left out: deeplabv3, whose successor deeplabv3plus costs less (4.6
# against 16.7 G multiply-adds with ResNet-18 at 256 px), and dpt, made for vision transformers,
# which take images of one size and so serve no head here. pspnet pools to cells in a way of its own
# that only the dynamo exporter takes, in about 20 s.
_DECODERS = {
    "unet": "U-Net's decoder, arXiv:1505.04597.",
    "unetplusplus": "UNet++'s nested decoder, arXiv:1807.10165.",
    "manet": "MA-Net: attention over positions and over channels, IEEE Access 8 (2020).",
    "linknet": "LinkNet's decoder, which adds the skips, arXiv:1707.03718.",
    "fpn": "Panoptic FPN's decoder, arXiv:1901.02446.",
    "pspnet": "PSPNet's pooling pyramid on the map of stride 8, arXiv:1612.01105.",
    "deeplabv3plus": "DeepLabv3+, arXiv:1802.02611; the backbone must be able to dilate.",
    "pan": "Pyramid attention, arXiv:1805.10180; the backbone must dilate, sides from 128 px.",
    "upernet": "UPerNet's decoder, arXiv:1807.10221.",
    "segformer": "SegFormer's decoder of linear layers, arXiv:2105.15203.",
}


def _register(decoder: str, about: str) -> None:
    """Register a decoder of smp as `smp_NAME`."""

    def build(
        backbone: str = "resnet18",
        num_classes: int = 21,
        in_chans: int = 3,
        weights: str | None = None,
        **options: Any,
    ) -> nn.Module:
        return _smp(decoder, backbone, num_classes, in_chans, weights, **options)

    build.__name__, build.__doc__ = f"smp_{decoder}", about
    register_for("segment")(build)


for _decoder, _about in _DECODERS.items():
    _register(_decoder, _about)
