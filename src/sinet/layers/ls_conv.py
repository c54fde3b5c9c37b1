"""LS convolution: a large depthwise kernel looks, a small kernel made for each pixel gathers.

From "LSNet: See Large, Focus Small" (arXiv 2503.23135); written from the paper's equations, the
authors' code states no licence.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.layers.conv import ConvNorm

TAPS, SIDE = 9, 3


def aggregate(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gather each pixel's 3 x 3 neighbourhood with that pixel's own kernels ("focus small").

    With G kernels a pixel, zero padding and t = 3u + v:

        y[c, i, j] = sum over u, v of x[c, i + u - 1, j + v - 1] * weight[c mod G, t, i, j]

    Channels c, c + G, c + 2G, ... share a kernel. Nine shifted multiply-adds rather than an
    unfolded copy of `x`, which is nine times as large: benchmarks/operator_forms.py times both in
    ONNX Runtime.

    Shapes: (B, C, H, W), (B, G * 9, H, W) -> (B, C, H, W)
    """
    batch, channels, height, width = x.shape
    kernels = weight.shape[1] // TAPS
    blocks = (batch, channels // kernels, kernels)
    weight = weight.reshape(batch, 1, kernels, TAPS, height, width)
    padded = F.pad(x, (1, 1, 1, 1)).reshape(*blocks, height + 2, width + 2)
    out = torch.zeros_like(x).reshape(*blocks, height, width)
    for tap in range(TAPS):
        u, v = divmod(tap, SIDE)
        out = out + padded[..., u : u + height, v : v + width] * weight[:, :, :, tap]
    return out.flatten(1, 2)


class LargePerception(nn.Module):
    """Makes `kernels` 3 x 3 kernels for each pixel from its wide surroundings ("see large").

        w = GroupNorm(conv1x1(relu(pw(dw(relu(pw(x)))))))

    in half the channels, pw and dw with BatchNorm; a group of the norm is one kernel's nine taps
    over the whole map. There is no softmax: kernels may sum to anything and be negative.

    Shape: (B, dim, H, W) -> (B, kernels * 9, H, W)
    """

    def __init__(self, dim: int, kernels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.cv1 = ConvNorm(dim, dim // 2)
        self.act = nn.ReLU()
        self.cv2 = ConvNorm(dim // 2, dim // 2, kernel_size, groups=dim // 2)
        self.cv3 = ConvNorm(dim // 2, dim // 2)
        self.cv4 = nn.Conv2d(dim // 2, kernels * TAPS, 1)
        self.norm = nn.GroupNorm(kernels, kernels * TAPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look at `kernel_size` x `kernel_size` pixels around each."""
        x = self.act(self.cv3(self.cv2(self.act(self.cv1(x)))))
        return self.norm(self.cv4(x))  # type: ignore[no-any-return]


class LSConv(nn.Module):
    """Large-small convolution: `x + BN(aggregate(x, perceive(x)))`.

    A stand-in for any stride-1 convolution or attention that keeps the width. One pixel has
    `dim / share` kernels, and `share` channels use the same one (see `aggregate`).

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, kernel_size: int = 7, share: int = 8) -> None:
        """Build the operator.

        Args:
            dim: channels, a multiple of `share`.
            kernel_size: odd, of the perception.
            share: channels that use the same kernel.

        Raises:
            UsageError: `dim` cannot be shared out.
        """
        super().__init__()
        if dim % share:
            near = -(-dim // share) * share
            raise UsageError(
                f"LSConv shares each kernel among {share} channels, which {dim} is no multiple of; "
                f"give {near} channels, or a divisor of {dim} as share"
            )
        self.lkp = LargePerception(dim, dim // share, kernel_size)
        # cannot fold into a convolution: what comes before it is not one
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look far, gather near, add."""
        return x + self.bn(aggregate(x, self.lkp(x)))  # type: ignore[no-any-return]
