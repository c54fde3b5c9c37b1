"""A timm backbone and a neck as the one `backbone` that torchvision's detectors take."""

from __future__ import annotations

from collections import OrderedDict

import torch
from timm.models import FeatureInfo
from torch import nn

from sinet.errors import UsageError


class PyramidBackbone(nn.Module):
    """Images to an ordered dictionary of maps, named "0" (finest), "1", ...

        body = timm.create_model("resnet50", features_only=True, out_indices=(2, 3, 4))
        neck = create_neck("rcnet", body.feature_info.channels())
        detector = torchvision.models.detection.RetinaNet(PyramidBackbone(body, neck), 91, ...)

    Shape: (B, 3, H, W) -> {"i": (B, out_channels, H_i, W_i)}

    Attributes:
        out_channels: channels of every map; torchvision reads it.
        reductions: image pixels per position of each map, for anchors and RoI extractors.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module) -> None:
        """Join the two.

        Args:
            backbone: made with `features_only=True`.
            neck: made by `create_neck` for this backbone's channels.

        Raises:
            UsageError: the backbone gives no maps, or others than the neck was built for.
        """
        super().__init__()
        info = getattr(backbone, "feature_info", None)
        if not isinstance(info, FeatureInfo):
            raise UsageError(
                f"{type(backbone).__name__} gives no list of maps; build it with "
                "timm.create_model(NAME, features_only=True)"
            )
        if info.channels() != neck.in_channels:
            raise UsageError(
                f"the backbone gives maps of {info.channels()} channels and the neck was built for "
                f"{neck.in_channels}; build it with backbone.feature_info.channels()"
            )
        self.backbone, self.neck = backbone, neck
        assert isinstance(neck.out_channels, int)
        assert isinstance(neck.num_outs, int)
        self.out_channels = neck.out_channels
        self.reductions: list[int] = info.reduction()
        while len(self.reductions) < neck.num_outs:
            self.reductions.append(2 * self.reductions[-1])
        # Swin and its kind give (B, H, W, C); SiNetPyramid may know that itself
        last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
        self.channels_last = last and not getattr(neck, "channels_last", False)

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """All maps of the pyramid, by name."""
        maps = self.backbone(images)
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return OrderedDict((str(i), x) for i, x in enumerate(self.neck(maps)))
