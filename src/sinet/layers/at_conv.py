"""Attentive convolution: a depthwise convolution whose kernel is made from its own input."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class ATConv(nn.Module):
    """Depthwise convolution with a kernel for each image and channel, its entries competing.

    A = Linear(GELU(pool(W_k x))), pool the mean over k^2 stretches of the map read row by row;
    K = A - sigmoid(d) mean(A), d learned for each channel; out = W_o (K * W_v x).

    The stretches are those of a one-dimensional adaptive pooling of the flattened map: they are
    horizontal bands that wrap at row ends, and overlap where k^2 does not divide H W.

    "Attentive Convolution: Unifying the Expressivity of Self-Attention with Convolutional
    Efficiency", arXiv 2510.20092; origin price112/Attentive-Convolution, MIT.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        """Build it.

        Args:
            dim: channels.
            kernel_size: odd, 3 in the paper.
        """
        super().__init__()
        taps = kernel_size * kernel_size
        self.kernel_size = kernel_size
        self.kernel_proj = nn.Conv2d(dim, dim, 1)
        self.act = nn.GELU()
        self.kernel_gen = nn.Linear(taps, taps)
        self.x_proj = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)
        self.difference_control = nn.Parameter(torch.zeros(dim))

    def kernels(self, x: torch.Tensor) -> torch.Tensor:
        """The kernel of every image and channel.

        Shape: (B, dim, H, W) -> (B, dim, k * k)
        """
        taps = self.kernel_size * self.kernel_size
        flat = self.kernel_proj(x).flatten(2)
        # adaptive pooling has no ONNX form where its windows overlap; the same as a product has
        traced = _is_traced()
        pooled = flat @ stretches(flat, taps) if traced else F.adaptive_avg_pool1d(flat, taps)
        kernels: torch.Tensor = self.kernel_gen(self.act(pooled))
        inhibition = torch.sigmoid(self.difference_control)[:, None]
        return kernels - inhibition * kernels.mean(dim=2, keepdim=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Make the kernels, apply them, mix the channels."""
        mix = _shifted if _is_traced() else _grouped
        out: torch.Tensor = self.proj(mix(self.x_proj(x), self.kernels(x), self.kernel_size))
        return out


def stretches(flat: torch.Tensor, count: int) -> torch.Tensor:
    """Adaptive average pooling of the last axis to `count` values, as a matrix to multiply with.

    Value i is the mean over places floor(i n / count) to ceil((i + 1) n / count) - 1.

    Shape: (..., n) -> (n, count)
    """
    n = flat.shape[-1]
    place = torch.arange(n, device=flat.device)[:, None]
    i = torch.arange(count, device=flat.device)
    start, stop = i * n // count, ((i + 1) * n + count - 1) // count
    inside = (place >= start) & (place < stop)
    return inside.to(flat.dtype) / (stop - start).to(flat.dtype)


def _is_traced() -> bool:
    """Whether a file is being written, for which some operators need another form."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def _grouped(x: torch.Tensor, kernels: torch.Tensor, size: int) -> torch.Tensor:
    """Every image's channels as groups of one convolution: fastest here, but of a fixed batch."""
    b, c, h, w = x.shape
    x = x.reshape(1, b * c, h, w)
    out = F.conv2d(x, kernels.reshape(b * c, 1, size, size), padding=size // 2, groups=b * c)
    return out.reshape(b, c, h, w)


def _shifted(x: torch.Tensor, kernels: torch.Tensor, size: int) -> torch.Tensor:
    """A sum of shifted maps, one for each tap, which an exported file can do for any batch."""
    h, w = x.shape[2:]
    padded = F.pad(x, (size // 2,) * 4)
    out = torch.zeros_like(x)
    for tap in range(size * size):
        row, col = divmod(tap, size)
        weight = kernels[:, :, tap, None, None]
        out = out + weight * padded[:, :, row : row + h, col : col + w]
    return out
