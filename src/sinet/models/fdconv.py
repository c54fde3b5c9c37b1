"""FDConv ResNets: timm's ResNet with frequency dynamic convolutions in its blocks.

Paper: "Frequency Dynamic Convolution for Dense Image Prediction", arXiv 2503.18783 (CVPR 2025).
The authors' code is Linwei-Chen/FDConv (MIT), backbones of detectors. The operator is
`sinet.layers.FDConv2d`; `sinet.layers.replace` puts it into other networks.

Every 1x1 and 3x3 convolution of a block with more than 16 channels is replaced; the stem and the
shortcuts' convolutions are not. Differences: a classifier (theirs are backbones only).

Reported with Faster R-CNN on COCO: ResNet-50 37.2 AP, with FDConv 39.4 AP for 3.6 M more params.
Dynamic weights cannot be folded: expect several times the latency of a ResNet, in ONNX far more.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from sinet.layers.fd_conv import FDConv2d
from sinet.models._base import build, default_cfg

__all__ = ["FDResNet"]

MORE_THAN = 16
"""Convolutions of at most so many input or output channels stay as they are."""


class FDResNet(ResNet):  # type: ignore[misc]
    """timm's ResNet, the convolutions of its blocks made dynamic.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self, block: type[nn.Module], layers: tuple[int, ...], kernel_num: int = 64, **kwargs: Any
    ) -> None:
        """Build the network.

        Args:
            block: timm's BasicBlock or Bottleneck.
            layers: blocks of each stage.
            kernel_num: groups of frequencies of each weight.
            kwargs: of timm's ResNet.
        """
        super().__init__(block, layers, **kwargs)
        for name, module in list(self.named_modules()):
            if re.fullmatch(r"layer\d\.\d+\.conv\d", name) and (
                min(module.in_channels, module.out_channels) > MORE_THAN
            ):
                self.set_submodule(name, FDConv2d.from_conv(module, kernel_num=kernel_num))

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must skip besides norms and biases: none."""
        return set()


_RENAMES = (
    (r"(^|\.)KSM_Global\.fc\.", r"\1modulation.fc.conv."),
    (r"(^|\.)KSM_Global\.bn\.", r"\1modulation.fc.bn."),
    (r"(^|\.)KSM_Global\.relu\.scale$", r"\1modulation.scale"),
    (r"(^|\.)KSM_Global\.relu\.bias$", r"\1modulation.shift"),
    (r"(^|\.)KSM_Global\.(channel|filter|spatial|kernel)_fc\.", r"\1modulation.\2."),
    (r"(^|\.)KSM_Local\.", r"\1local."),
    (r"(^|\.)FBM\.freq_weight_conv_list\.", r"\1bands.convs."),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming -> ours; ours are left as they are."""
    converted = {}
    for key, value in state_dict.items():
        for pattern, new in _RENAMES:
            key = re.sub(pattern, new, key)
        # theirs could hold several spectra; the published ones hold one
        if key.endswith("dft_weight") and value.ndim == 4:
            value = value[0]
        converted[key] = value
    return converted


_VARIANTS: dict[str, dict[str, Any]] = {
    "fdconv_test": {
        "block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (24, 24, 32, 48), "kernel_num": 16,
    },
    "fdconv_resnet18": {"block": BasicBlock, "layers": (2, 2, 2, 2)},
    "fdconv_resnet50": {"block": Bottleneck, "layers": (3, 4, 6, 3)},
    "fdconv_resnet101": {"block": Bottleneck, "layers": (3, 4, 23, 3)},
}  # fmt: skip
default_cfgs = generate_default_cfgs(
    {
        name: default_cfg(first_conv="conv1", classifier="fc", crop_pct=0.875, license="mit")
        for name in _VARIANTS
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    levels = {"out_indices": tuple(range(5))}
    options = {**_VARIANTS[variant], **kwargs}
    return build(FDResNet, variant, pretrained, feature_cfg=levels, **options)


@register_model  # type: ignore[untyped-decorator]
def fdconv_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.2 M parameters."""
    return _create("fdconv_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fdconv_resnet18(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with FDConv; not in the paper."""
    return _create("fdconv_resnet18", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fdconv_resnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with FDConv, the paper's backbone."""
    return _create("fdconv_resnet50", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fdconv_resnet101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101 with FDConv."""
    return _create("fdconv_resnet101", pretrained, **kwargs)
