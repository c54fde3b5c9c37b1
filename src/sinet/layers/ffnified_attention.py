"""FFNified attention: query, key and value of attention, but keys and values are kernels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sinet.layers.conv import ConvNorm, NormLayer


class RepDepthwise(nn.Module):
    """Two depthwise convolutions of different size, each with a BatchNorm, added.

    `BN(DW_k(x)) + BN(DW_{k // 2}(x))`; 7 x 7 and 3 x 3 in the paper. `fuse()` gives one kernel.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int = 7, stride: int = 1) -> None:
        """Build it.

        Args:
            in_chs: input channels.
            out_chs: a multiple of them: so many outputs read the same input.
            kernel_size: odd, its half odd too, so that both kernels share a centre.
            stride: step of both.
        """
        super().__init__()
        self.large = ConvNorm(in_chs, out_chs, kernel_size, stride, groups=in_chs)
        self.small = ConvNorm(in_chs, out_chs, kernel_size // 2, stride, groups=in_chs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of both."""
        out: torch.Tensor = self.large(x) + self.small(x)
        return out

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The same function as one convolution with bias."""
        large, small = self.large.fuse(), self.small.fuse()
        assert isinstance(large, nn.Conv2d)
        assert isinstance(small, nn.Conv2d)
        assert large.bias is not None
        assert small.bias is not None
        margin = (large.kernel_size[0] - small.kernel_size[0]) // 2
        large.weight += F.pad(small.weight, (margin,) * 4)
        large.bias += small.bias
        return large


class FFNifiedAttention(nn.Module):
    """Attention whose keys and values are fixed depthwise kernels and whose softmax is GELU.

    `values(GELU(keys(query(x))))`: query a pointwise convolution, keys and values depthwise ones.
    With kernels of 7 these are `RepDepthwise`, with others plain convolutions with bias.

    "MetaMixer Is All You Need", arXiv 2406.02021; origin ysj9909/FFNet, Apache-2.0.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self, dim: int, kernel_size: int = 7, norm_layer: NormLayer | None = nn.BatchNorm2d
    ) -> None:
        """Build it.

        Args:
            dim: channels.
            kernel_size: of keys and values; odd.
            norm_layer: after the query; None for none, as in super-resolution.
        """
        super().__init__()
        self.query: nn.Module
        if norm_layer is None:
            self.query = nn.Conv2d(dim, dim, 1)
        else:
            self.query = ConvNorm(dim, dim, norm_layer=norm_layer)
        self.keys = self._memory(dim, kernel_size)
        self.act = nn.GELU()
        self.values = self._memory(dim, kernel_size)

    @staticmethod
    def _memory(dim: int, kernel_size: int) -> nn.Module:
        if kernel_size == 7:
            return RepDepthwise(dim, dim, kernel_size)
        return nn.Conv2d(dim, dim, kernel_size, 1, kernel_size // 2, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ask, compare with the keys, gather the values."""
        out: torch.Tensor = self.values(self.act(self.keys(self.query(x))))
        return out
