"""Convolutions followed by a norm, which turn into one plain convolution for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

NormLayer = Callable[[int], nn.Module]


class ConvNorm(nn.Sequential):
    """Convolution without bias, then a norm: `norm(conv(x))`.

    `timm.utils.reparameterize_model` calls `fuse()` and puts the plain convolution in its place.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride)), odd kernels.
    """

    conv: nn.Conv2d
    bn: nn.Module

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm_layer: NormLayer = nn.BatchNorm2d,
        zero_init: bool = False,
    ) -> None:
        """Build the pair.

        Args:
            in_chs: input channels.
            out_chs: output channels.
            kernel_size: odd, padded so that stride 1 keeps the size.
            stride: step of the convolution.
            groups: `in_chs` makes it depthwise.
            norm_layer: called with the number of channels; only BatchNorm can be folded.
            zero_init: start the norm's scale at zero, so that a residual branch starts as nothing.
        """
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(
            in_chs, out_chs, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.bn = norm_layer(out_chs)
        # fan-out init as in ResNet; a depthwise kernel sees only its own group
        fan_out = kernel_size * kernel_size * out_chs // groups
        nn.init.normal_(self.conv.weight, 0.0, (2.0 / fan_out) ** 0.5)
        if zero_init and isinstance(self.bn.weight, torch.Tensor):
            nn.init.zeros_(self.bn.weight)

    def fuse(self) -> nn.Module:
        """The same function as one convolution; itself where the norm is not a BatchNorm."""
        if not isinstance(self.bn, nn.BatchNorm2d):
            return self
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        conv = copy.deepcopy(self.conv)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            None,
            self.bn.running_mean,
            self.bn.running_var,
            self.bn.eps,
            self.bn.weight,
            self.bn.bias,
        )
        return conv
