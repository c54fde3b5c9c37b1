"""Feature Pyramid Networks for Object Detection, arXiv:1612.03144: the plain neck to compare with.

torchvision's own implementation behind the interface of this library's necks. At 256 channels on
ResNet-50's C2..C5 it has 3,344,384 parameters; RetinaNet's form on C3..C5, 7,997,440.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from sinet.errors import UsageError
from sinet.heads._base import Neck
from sinet.heads._necks import register_neck


class FPN(Neck):
    """Lateral 1 x 1 convolutions, a top-down sum, a 3 x 3 convolution a level; no norms.

    Shapes: [(B, C_i, H_i, W_i)] finest first -> [(B, out_channels, H_i, W_i)] and extra levels
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int = 256, num_outs: int | None = None
    ) -> None:
        """Build the neck.

        Args:
            in_channels: channels of each map, finest first.
            out_channels: channels of every output.
            num_outs: as many as inputs (the default), one more (each second position of the
                coarsest, as in Faster R-CNN) or two more (3 x 3 convolutions of stride 2 on the
                coarsest input, as in RetinaNet).

        Raises:
            UsageError: another number of outputs.
        """
        super().__init__(in_channels, out_channels, num_outs or len(in_channels))
        coarsest = self.in_channels[-1]
        extra = {
            0: lambda: None,
            1: LastLevelMaxPool,
            2: lambda: LastLevelP6P7(coarsest, out_channels),
        }
        added = self.num_outs - len(self.in_channels)
        if added not in extra:
            raise UsageError(
                f"FPN adds at most 2 levels to its {len(self.in_channels)}, not {added}; set "
                "num_outs accordingly"
            )
        self.fpn = FeaturePyramidNetwork(self.in_channels, out_channels, extra[added]())

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Merge the maps; finest first, in and out."""
        self.check(features)
        merged = self.fpn(OrderedDict((str(i), x) for i, x in enumerate(features)))
        return list(merged.values())


@register_neck
def fpn(in_channels: Sequence[int], out_channels: int = 256, num_outs: int | None = None) -> FPN:
    """The plain feature pyramid."""
    return FPN(in_channels, out_channels, num_outs)
