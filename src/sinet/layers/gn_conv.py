"""Recursive gated convolution (gnConv) and the global filter, the two mixers of HorNet.

HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions,
arXiv 2207.14284; origin https://github.com/raoyongming/HorNet (MIT).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


class GlobalFilter(nn.Module):
    """A learned filter in the frequency domain: `irfft2(rfft2(x) * filter)`, orthonormal.

    The filter holds one complex number for each channel and frequency of the size it was made
    for; other sizes resize it bilinearly, corners on corners, real and imaginary part alike.
    The transform is an FFT; when the network is exported to ONNX, it is the same transform as
    products with cosine and sine matrices, as ONNX Runtime's own is far slower on maps this small
    (benchmarks/operator_forms.py times both).

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, filter_size: tuple[int, int]) -> None:
        """Build the filter.

        Args:
            dim: channels.
            filter_size: rows and columns of the spectrum, (H, W // 2 + 1) of the usual map.
        """
        super().__init__()
        self.complex_weight = nn.Parameter(torch.empty(dim, *filter_size, 2))
        nn.init.trunc_normal_(self.complex_weight, std=0.02)

    def filter_for(self, height: int, width: int) -> torch.Tensor:
        """The filter for the spectrum of a map of this size.

        Shape: -> (2, dim, height, width // 2 + 1), the real part first
        """
        weight: torch.Tensor = self.complex_weight.permute(3, 0, 1, 2)
        size = (height, width // 2 + 1)
        if weight.shape[2:] != size:
            weight = F.interpolate(weight, size=size, mode="bilinear", align_corners=True)
        return weight

    def by_fft(self, x: torch.Tensor) -> torch.Tensor:
        """The definition. FFTs need single precision at least."""
        h, w = x.shape[-2:]
        precise = torch.promote_types(x.dtype, torch.float32)
        weight = self.filter_for(h, w).to(precise)
        spectrum = torch.fft.rfft2(x.to(precise), norm="ortho")
        spectrum = spectrum * torch.complex(weight[0], weight[1])
        filtered: torch.Tensor = torch.fft.irfft2(spectrum, s=(h, w), norm="ortho")
        return filtered.to(x.dtype)

    def by_products(self, x: torch.Tensor) -> torch.Tensor:
        """The same as products with matrices, in real numbers.

        With C, S the cosines and sines of all (place, frequency) of an axis, the transform of the
        columns is `x C` and `-x S`, that of the rows mixes both parts, and the way back repeats it
        with the sign of S turned; all but the first and the middle frequency stand for two.
        """
        h, w = (int(size) for size in x.shape[-2:])
        weight = self.filter_for(h, w)
        cos_h, sin_h = _waves(h, h, x)
        cos_w, sin_w = _waves(w, w // 2 + 1, x)
        twice = x.new_full((w // 2 + 1, 1), 2.0)
        twice[0] = 1.0
        if w % 2 == 0:
            twice[-1] = 1.0
        re, im = x @ cos_w, -(x @ sin_w)
        re, im = cos_h @ re + sin_h @ im, cos_h @ im - sin_h @ re
        re, im = re * weight[0] - im * weight[1], re * weight[1] + im * weight[0]
        re, im = cos_h @ re - sin_h @ im, cos_h @ im + sin_h @ re
        y: torch.Tensor = re @ (twice * cos_w.T) - im @ (twice * sin_w.T)
        return y / (h * w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Filter every channel over the whole map."""
        return self.by_products(x) if torch.onnx.is_in_onnx_export() else self.by_fft(x)


def _waves(places: int, frequencies: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of 2 pi place frequency / places, each (places, frequencies)."""
    place = torch.arange(places, device=like.device)
    turns = place[:, None] * place[:frequencies] % places  # exact: whole numbers
    # in double precision, because these are constants of the exported file
    angle = turns.double() * (2 * math.pi / places)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


class GlobalLocalFilter(nn.Module):
    """A 3x3 depthwise convolution on one half of the channels, a global filter on the other.

        a, b = split(norm(x));  y = norm(interleave(depthwise(a), global_filter(b)))

    Shape: (B, dim, H, W) -> (B, dim, H, W), `dim` even
    """

    def __init__(self, dim: int, filter_size: tuple[int, int]) -> None:
        super().__init__()
        half = dim // 2
        self.pre_norm = nn.LayerNorm(dim, eps=1e-6)
        self.dw = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.filter = GlobalFilter(half, filter_size)
        self.post_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions near and far."""
        x = self.pre_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        local, far = x.chunk(2, dim=1)
        x = torch.stack([self.dw(local), self.filter(far)], dim=2).flatten(1, 2)
        x = self.post_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x


class GnConv(nn.Module):
    """Recursive gated convolution: products of up to `order + 1` places, at convolution's cost.

    With widths d_k = dim / 2^(order - 1 - k), k = 0 .. order - 1,

        p, q = split(proj_in(x), d_0);  q_0, ..., q_{order-1} = split(scale * spatial(q), d_k)
        y = p * q_0;  y = pws_k(y) * q_{k+1} for each k;  proj_out(y)

    There is no activation: without biases it is homogeneous of degree `order + 1`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self,
        dim: int,
        order: int,
        filter_size: tuple[int, int] | None = None,
        scale: float = 1 / 3,
    ) -> None:
        """Build the operator.

        Args:
            dim: channels, divisible by 2 ** (order - 1).
            order: number of gates, 1 or more.
            filter_size: of the global filter that mixes positions; None = 7x7 depthwise.
            scale: factor on what the spatial operator gives.
        """
        super().__init__()
        self.scale = scale
        self.dims = [dim // 2**k for k in reversed(range(order))]
        width = sum(self.dims)
        self.proj_in = nn.Conv2d(dim, self.dims[0] + width, 1)
        self.dwconv: nn.Module
        if filter_size is None:
            self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        else:
            self.dwconv = GlobalLocalFilter(width, filter_size)
        self.pws = nn.ModuleList(
            nn.Conv2d(narrow, wide, 1)
            for narrow, wide in zip(self.dims[:-1], self.dims[1:], strict=True)
        )
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate the widening branch by one slice of the neighbourhood after another."""
        x, neighbours = torch.split(self.proj_in(x), [self.dims[0], sum(self.dims)], dim=1)
        first, *gates = torch.split(self.dwconv(neighbours) * self.scale, self.dims, dim=1)
        x = x * first
        for widen, gate in zip(self.pws, gates, strict=True):
            x = widen(x) * gate
        return self.proj_out(x)  # type: ignore[no-any-return]


def gn_conv_macs(dim: int, order: int, kernel_size: int = 7) -> float:
    """Multiply-adds a pixel of `GnConv`, in closed form.

    C^2 (3 + 2/3 (1 - 4^(1 - n))) + K^2 C (2 - 2^(1 - n)), below 11/3 C^2 + 2 K^2 C for every order;
    the elementwise gates, another C (2 - 2^(1 - n)), are not counted.
    """
    pointwise = dim**2 * (3 + 2 / 3 * (1 - 4.0 ** (1 - order)))
    return pointwise + kernel_size**2 * dim * (2 - 2.0 ** (1 - order))
