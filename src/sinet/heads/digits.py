"""House numbers on any backbone: the heads of arXiv 1312.6082 on a modern network.

One softmax for how many digits there are, one for each digit; where a digit stands matters, so the
map is not pooled but read as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sinet.errors import UsageError
from sinet.layers import ConvNorm
from sinet.models._backbone import create_backbone
from sinet.models._networks import register_for
from sinet.models.svhn_multidigit import NumberLogits

STRIDE = 16
"""Image pixels per position of the map that is read, or the coarsest that is finer."""


class DigitsHead(nn.Module):
    """Backbone, fewer channels, one dense layer, the heads.

    Shape: (B, in_chans, *img_size) -> `NumberLogits`, in training and evaluation.
    """

    def __init__(
        self,
        backbone: nn.Module,
        img_size: tuple[int, int],
        in_chans: int = 3,
        num_classes: int = 10,
        places: int = 5,
        width: int = 128,
        hidden: int = 512,
        drop_rate: float = 0.0,
    ) -> None:
        """Build the head on a backbone.

        Args:
            backbone: of `create_backbone`, with one map.
            img_size: height and width of the images.
            in_chans: their channels.
            num_classes: digits to tell apart.
            places: digits that can be read.
            width: channels of the map that is read.
            hidden: units of the dense layer.
            drop_rate: dropout before and after it.
        """
        super().__init__()
        self.backbone, self.img_size, self.places = backbone, img_size, places
        with torch.no_grad():
            training = backbone.training
            map_ = backbone.eval()(torch.zeros(1, in_chans, *img_size))[-1]
            backbone.train(training)
        info: Any = backbone.feature_info
        self.last = map_.shape[-1] == info.channels()[-1] != map_.shape[1]
        channels, sides = info.channels()[-1], map_.shape[1:3] if self.last else map_.shape[2:]
        self.reduce = nn.Sequential(ConvNorm(channels, width, 1), nn.ReLU(inplace=True))
        self.dense = nn.Sequential(
            nn.Dropout(drop_rate),
            nn.Linear(width * sides[0] * sides[1], hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
        )
        self.num_classes = num_classes
        self.length = nn.Linear(hidden, places + 2)
        self.digits = nn.Linear(hidden, places * num_classes)

    def forward(self, x: torch.Tensor) -> NumberLogits:
        """Logits of the length and of each digit."""
        if tuple(x.shape[-2:]) != self.img_size:
            given, wanted = tuple(x.shape[-2:]), self.img_size
            raise UsageError(
                f"images of {given[0]} x {given[1]} do not fit this network, built for "
                f"{wanted[0]} x {wanted[1]}; resize them, or build it with img_size={given}"
            )
        x = self.backbone(x)[-1]
        if self.last:
            x = x.permute(0, 3, 1, 2)
        x = self.dense(self.reduce(x).flatten(1))
        digits = self.digits(x).unflatten(1, (self.places, self.num_classes))
        return NumberLogits(self.length(x), digits)


@register_for("digits")
def digits_head(
    backbone: str = "sinet_small",
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: int | Sequence[int] = 64,
    width: int = 128,
    hidden: int = 512,
    drop_rate: float = 0.0,
    weights: str | None = None,
    **options: Any,
) -> DigitsHead:
    """Length and digits of a number, on any backbone."""
    size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
    body = create_backbone(backbone, in_chans, weights, (4, 8, STRIDE), **options)
    return DigitsHead(
        body, size, in_chans, num_classes, width=width, hidden=hidden, drop_rate=drop_rate
    )
