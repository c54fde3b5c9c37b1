"""A deep convolutional network without shortcuts: a target of guidance.

"Training the Untrainable: Introducing Inductive Bias via Representational Alignment", arXiv
2410.20035, NeurIPS 2025. Origin: vsubramaniam851/untrainable-networks, no licence stated; nothing
of it is used here, this is timm's ResNet with blocks of our own, written from the description:

    x -> relu(norm(conv1x1(relu(norm(conv3x3(relu(norm(conv1x1(x)))))))))

50 layers of it lose much of what ResNet-50 learns. Reported on ImageNet, said to be top-5: 70.02 %,
guided by a trained ResNet-50 78.91 %. `sinet.training.guidance` guides. `plain_convnet50` has
22,780,456 parameters: those of ResNet-50 without its shortcuts.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from sinet.models._base import build, default_cfg

__all__ = ["PlainBottleneck", "PlainConvNet"]


class PlainBottleneck(Bottleneck):  # type: ignore[misc]
    """ResNet's three convolutions, each with its norm and ReLU, and no way around them.

    Shape: (B, in_chs, H, W) -> (B, 4 planes, H / stride, W / stride)
    """

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the block; `downsample`, which timm makes for the shortcut, is left out."""
        super().__init__(inplanes, planes, stride, None, **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Three convolutions in a row."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.act3(self.bn3(self.conv3(x)))
        return x


class PlainConvNet(ResNet):  # type: ignore[misc]
    """ResNet's stem, stages and classifier around plain blocks.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        channels: tuple[int, ...] = (64, 128, 256, 512),
        drop_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            depths: blocks of each stage.
            channels: of the blocks' 3 x 3 convolutions, stage by stage; four times as many leave.
            drop_rate: dropout before the classifier.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(
            PlainBottleneck,
            depths,
            num_classes,
            in_chans,
            global_pool=global_pool,
            channels=channels,
            drop_rate=drop_rate,
            zero_init_last=False,  # without a shortcut nothing would come through
        )

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must skip besides norms and biases: none."""
        return set()


_VARIANTS: dict[str, dict[str, Any]] = {
    "plain_convnet_test": {"depths": (1, 1, 1, 1), "channels": (8, 16, 32, 64)},
    "plain_convnet50": {"depths": (3, 4, 6, 3)},
}

default_cfgs = generate_default_cfgs({
    name: default_cfg(first_conv="conv1", classifier="fc") for name in _VARIANTS
})  # fmt: skip


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    levels = {"out_indices": tuple(range(5))}
    options = {**_VARIANTS[variant], **kwargs}
    return build(PlainConvNet, variant, pretrained, feature_cfg=levels, **options)


@register_model  # type: ignore[untyped-decorator]
def plain_convnet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: one narrow block a stage."""
    return _create("plain_convnet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def plain_convnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 without shortcuts."""
    return _create("plain_convnet50", pretrained, **kwargs)
