"""ConvNeXt and ResNet-50 whose convolutions have few weights at learned positions.

"Dilated Convolution with Learnable Spacings", ICLR 2023, arXiv 2112.03740. Origin:
K-H-Ismail/ConvNeXt-dcls, MIT; written anew here, on timm's ConvNeXt and ResNet.

ConvNeXt's 7 x 7 depthwise kernels become windows of 17 x 17 with 34 (tiny) or 40 elements, all
blocks of a stage sharing their positions: the same number of parameters. ResNet-50's sixteen 3 x 3
kernels become windows of 7 x 7 with 5 elements, shared likewise.

Reported, ImageNet-1K at 224 px (parameters, MACs, top-1; the ordinary net's top-1): tiny 28 M, 5.0
G, 82.5; 82.1. small 50 M, 9.5 G, 83.7; 83.1. base 89 M, 16.5 G, 84.1; 83.8. ResNet-50
24.0 M (the paper's figure, which fixes window and count; its accuracy was not looked up).

The origin gives positions five times the learning rate and no weight decay. For inference
`timm.utils.reparameterize_model` makes the dense kernels once. What differs: shared positions are
in a state dict once; positions are brought back into their window by the next forward pass, not by
a call after each step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from sinet.layers.dcls import DCLS2d
from sinet.models._base import build, default_cfg

__all__ = ["ConvNeXtDCLS", "ResNetDCLS"]

WINDOW = 17


def _positions(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.endswith(".P")}


def _share(layers: Sequence[DCLS2d]) -> None:
    """The layers of one stage move their elements alike."""
    for layer in layers[1:]:
        layer.share_positions(layers[0])


class ConvNeXtDCLS(ConvNeXt):  # type: ignore[misc]
    """timm's ConvNeXt with depthwise `DCLS2d` of 17 x 17 in place of 7 x 7.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(self, kernel_count: int, **kwargs: Any) -> None:
        """Build the network.

        Args:
            kernel_count: weights of a kernel.
            kwargs: of timm's ConvNeXt.
        """
        super().__init__(**kwargs)
        for stage in self.stages:
            layers = []
            for block in stage.blocks:
                dim = block.conv_dw.in_channels
                layer = DCLS2d(
                    dim, dim, kernel_count, WINDOW, padding=WINDOW // 2, groups=dim, version="v0"
                )
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
                block.conv_dw = layer
                layers.append(layer)
            _share(layers)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Positions: decay would draw elements to the centre."""
        return _positions(self)


class ResNetDCLS(ResNet):  # type: ignore[misc]
    """timm's ResNet of bottlenecks with `DCLS2d` of 7 x 7 in place of 3 x 3.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(self, kernel_count: int, **kwargs: Any) -> None:
        """Build the network.

        Args:
            kernel_count: weights of a kernel.
            kwargs: of timm's ResNet.
        """
        super().__init__(block=Bottleneck, **kwargs)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            layers = []
            for block in stage:
                old = block.conv2
                width, stride = old.in_channels, old.stride
                block.conv2 = DCLS2d(
                    width, width, kernel_count, 7, stride, padding=3, bias=False, version="v0"
                )
                layers.append(block.conv2)
            _share(layers)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Positions: decay would draw elements to the centre."""
        return _positions(self)


_RENAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of ConvNeXt-dcls in the authors' naming -> ours.

    Their file lists a stage's positions once for each block. The last one counts, as it is the
    last one that loading their file writes.
    """
    if "downsample_layers.0.0.weight" not in state_dict:
        return state_dict
    out: dict[str, torch.Tensor] = {}
    depths: dict[str, int] = {}
    for name, value in state_dict.items():
        if found := re.fullmatch(r"stages\.(\d)\.(\d+)\.dwconv\.P", name):
            stage, block = found[1], int(found[2])
            if block >= depths.get(stage, 0):
                depths[stage] = block
                out[f"stages.{stage}.blocks.0.conv_dw.P"] = value
            continue
        for pattern, new in _RENAMES:
            name = re.sub(pattern, new, name)
        out[name] = value
    return out


_VARIANTS: dict[str, dict[str, Any]] = {
    "dcls_test": {"dims": (16, 24, 32, 48), "depths": (1, 2, 1, 1), "kernel_count": 12},
    "convnext_dcls_tiny": {
        "dims": (96, 192, 384, 768), "depths": (3, 3, 9, 3), "kernel_count": 34,
    },
    "convnext_dcls_small": {
        "dims": (96, 192, 384, 768), "depths": (3, 3, 27, 3), "kernel_count": 40,
    },
    "convnext_dcls_base": {
        "dims": (128, 256, 512, 1024), "depths": (3, 3, 27, 3), "kernel_count": 40,
    },
    "resnet50_dcls": {"layers": (3, 4, 6, 3), "kernel_count": 5},
}  # fmt: skip
default_cfgs = generate_default_cfgs(
    {
        name: default_cfg(first_conv="stem.0", min_input_size=(3, 32, 32), crop_pct=0.875)
        for name in _VARIANTS
    }
    | {"resnet50_dcls": default_cfg(first_conv="conv1", classifier="fc")}
)


def _convnext(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(ConvNeXtDCLS, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def dcls_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.1 M parameters."""
    return _convnext("dcls_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convnext_dcls_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """28.6 M parameters, 5.0 GMACs."""
    return _convnext("convnext_dcls_tiny", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convnext_dcls_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """50.2 M parameters, 9.5 GMACs."""
    return _convnext("convnext_dcls_small", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convnext_dcls_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """88.6 M parameters, 16.5 GMACs."""
    return _convnext("convnext_dcls_base", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet50_dcls(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """24.0 M parameters."""
    options = {**_VARIANTS["resnet50_dcls"], **kwargs}
    levels = {"out_indices": tuple(range(5))}
    return build(ResNetDCLS, "resnet50_dcls", pretrained, feature_cfg=levels, **options)
