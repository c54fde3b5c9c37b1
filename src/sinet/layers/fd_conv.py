"""Frequency dynamic convolution: a weight made for each image out of one weight's frequencies.

Paper: "Frequency Dynamic Convolution for Dense Image Prediction", arXiv 2503.18783 (CVPR 2025).
The authors' code is Linwei-Chen/FDConv (MIT). Written anew from the equations.

Differences: any width works, since the frequencies are cut into runs of nearly equal length (equal
where `kernel_num` divides their number, as theirs must); the half-spectrum is made Hermitian
before it is inverted, which processors do for themselves and accelerators may not; all four heads
start near zero, so that a new layer is the plain convolution to 1e-5 (an oversight leaves one of
theirs large). For ONNX, Fourier transforms are written as matrix products and the per-image
convolution as patches times weights: exact, but many times the work of the plain convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.layers.conv import ConvNorm

Act = Literal["sigmoid", "tanh"]
MASK_SIDE = 64
"""Frequency masks are made for maps of this side, and the nearest entry taken for others."""


def frequency_distance(height: int, width: int) -> torch.Tensor:
    """Distance of every bin of a half-spectrum (flat, row-major) from the constant one.

    In float32 on the CPU, as the authors had it when they trained: other precision tells apart, or
    makes equal, some distances that lie on the border of two groups.
    """
    cpu: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
    rows, cols = torch.fft.fftfreq(height, **cpu), torch.fft.rfftfreq(width, **cpu)
    places = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1)
    return torch.linalg.vector_norm(places, dim=-1).flatten()  # type: ignore[no-any-return]


def frequency_groups(order: torch.Tensor, count: int) -> torch.Tensor:
    """The group 0 .. count - 1 of every bin: the bins in `order`, cut into equal runs.

    Where `count` does not divide their number, runs differ by one bin.
    """
    bins = len(order)
    groups = torch.empty(bins, dtype=torch.uint8 if count <= 256 else torch.int32, device="cpu")
    groups[order] = (torch.arange(bins, device="cpu") * count // bins).to(groups.dtype)
    return groups


def amplify(logits: torch.Tensor, act: Act) -> torch.Tensor:
    """A factor between 0 and 2, 1 at zero."""
    return 2 * logits.sigmoid() if act == "sigmoid" else 1 + logits.tanh()


def hermitian(spectrum: torch.Tensor, width: int) -> torch.Tensor:
    """Make the columns of a half-spectrum that are their own mirrors conjugate-symmetric, in place.

    Those are the first, and the last where the width is even. Only their symmetric part belongs
    to a real signal; what an inverse transform does with the rest is not defined.

    Shape: (..., H, width // 2 + 1) -> the same
    """
    for column in {0, width // 2} if width % 2 == 0 else {0}:
        values = spectrum[..., column]
        mirrored = values.flip(-1).roll(1, -1).conj()
        spectrum[..., column] = (values + mirrored) / 2
    return spectrum


def half_to_real(real: torch.Tensor, imag: torch.Tensor, width: int) -> torch.Tensor:
    """Inverse transform along the last axis in real arithmetic, for export.

    Shape: (..., width // 2 + 1) twice -> (..., width)
    """
    units = np.eye(width // 2 + 1)
    cos, sin = np.fft.irfft(units, width), np.fft.irfft(1j * units, width)
    return real @ constant(cos, real) + imag @ constant(sin, real)


def constant(matrix: np.ndarray[Any, Any], like: torch.Tensor) -> torch.Tensor:
    """A matrix as a tensor of the same kind as another."""
    return torch.from_numpy(np.ascontiguousarray(matrix)).to(like)


def inverse(spectrum: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The real map of a half-spectrum whose real and imaginary parts lie in the last axis.

    Shape: (..., height, width // 2 + 1, 2) -> (..., height, width)
    """
    if torch.onnx.is_in_onnx_export():
        real, imag = spectrum.unbind(-1)
        rows = np.fft.ifft(np.eye(height))
        cos, sin = constant(rows.real, real), constant(rows.imag, real)
        return half_to_real(cos @ real - sin @ imag, cos @ imag + sin @ real, width)
    return real_map(torch.view_as_complex(spectrum), height, width)


def real_map(spectrum: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The real map of a complex half-spectrum, which is changed.

    Shape: (..., height, width // 2 + 1) -> (..., height, width)
    """
    return torch.fft.irfft2(hermitian(spectrum, width), s=(height, width))  # type: ignore[no-any-return]


class FrequencyBands(nn.Module):
    """Weigh the frequency bands of a map at every position (the paper's FBM).

    `y = sum_q A(conv3x3_q(x)) high_q + low`, `high_q` what the q-th low-pass takes from the one
    before it, `low` what is left. Cut-offs are 0.5 / q of the sampling rate, in both directions.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    rows: torch.Tensor
    cols: torch.Tensor

    def __init__(
        self,
        dim: int,
        levels: Sequence[int] = (2, 4, 8),
        groups: int = 1,
        low: bool = False,
        act: Act = "sigmoid",
    ) -> None:
        """Build the modulation.

        Args:
            dim: channels.
            levels: the q, ascending.
            groups: of channels, each with its own factors.
            low: weigh the lowest band too.
            act: "sigmoid" (doubled) or "tanh" (plus 1).
        """
        super().__init__()
        self.groups, self.low, self.act = groups, low, act
        self.convs = nn.ModuleList()
        for _ in range(len(levels) + low):
            conv = nn.Conv2d(dim, groups, 3, padding=1, groups=groups)
            nn.init.normal_(conv.weight, std=1e-6)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            self.convs.append(conv)
        # in float32 the small number is lost beside 1/4: that one frequency is not passed by q = 2
        narrow: dict[str, Any] = {"dtype": torch.float32}
        limits = torch.tensor([0.5 / level + 1e-8 for level in levels], **narrow)[:, None]
        rows, cols = torch.fft.fftfreq(MASK_SIDE, **narrow), torch.fft.rfftfreq(MASK_SIDE, **narrow)
        self.register_buffer("rows", rows.abs() < limits, persistent=False)
        self.register_buffer("cols", cols < limits, persistent=False)

    def masks(self, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which rows and columns of the half-spectrum each low-pass lets through.

        The nearest entries of the masks for 64 x 64, positions rounded in float32 as `interpolate`
        does. They are not exactly those of other sizes, but those that the authors trained with.

        Shape: () -> (levels, height), (levels, width // 2 + 1)
        """
        masks = []
        for mask, size in ((self.rows, height), (self.cols, width // 2 + 1)):
            places = torch.arange(size, dtype=torch.float32, device=mask.device)
            nearest = (places * (mask.shape[1] / size)).floor().long()
            masks.append(mask[:, nearest.clamp(max=mask.shape[1] - 1)])
        return masks[0], masks[1]

    def low_passes(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What each low-pass leaves of the map, in at least float32."""
        height, width = x.shape[-2:]
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if torch.onnx.is_in_onnx_export():
            return self._low_passes_as_products(x, int(height), int(width))
        spectrum = torch.fft.rfft2(x)
        rows, cols = self.masks(height, width)
        passed = [spectrum * (r[:, None] & c) for r, c in zip(rows, cols, strict=True)]
        return [real_map(z, height, width) for z in passed]

    def _low_passes_as_products(
        self, x: torch.Tensor, height: int, width: int
    ) -> list[torch.Tensor]:
        """The same in real arithmetic; the size is fixed, as it is in an exported graph."""
        rows, cols = (mask.cpu().numpy() for mask in self.masks(height, width))
        forward, down = np.fft.rfft(np.eye(width)), np.fft.fft(np.eye(height))
        real, imag = x @ constant(forward.real, x), x @ constant(forward.imag, x)
        outs = []
        for row, col in zip(rows, cols, strict=True):
            along = np.fft.ifft(row[:, None] * down, axis=0)
            cos, sin = constant(along.real * 1.0, x), constant(along.imag * 1.0, x)
            kept = constant(col * 1.0, x)
            re, im = (cos @ real - sin @ imag) * kept, (cos @ imag + sin @ real) * kept
            outs.append(half_to_real(re, im, width))
        return outs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weigh the bands."""
        rest = x
        bands = []
        for low in self.low_passes(x):
            low = low.to(x.dtype)
            bands.append(rest - low)
            rest = low
        bands.append(rest)
        for i, conv in enumerate(self.convs):
            factor = amplify(conv(x), self.act)[:, :, None]
            bands[i] = (bands[i].unflatten(1, (self.groups, -1)) * factor).flatten(1, 2)
        out = bands[0]
        for band in bands[1:]:
            out = out + band
        return out


class Modulation(nn.Module):
    """Factors for input channels, filters, taps and frequency groups from the mean of the image.

    `A(head(s relu(BN(W g))^2 + t))` for each of four heads (the paper's global KSM).

    Shape: (B, in_chs, 1, 1) -> (B, in_chs), (B, out_chs), (B, k, k), (B, kernel_num)
    """

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int, kernel_num: int, act: Act
    ) -> None:
        super().__init__()
        hidden = max(in_chs // 16, 16)
        self.act, self.kernel_size = act, kernel_size
        self.fc = ConvNorm(in_chs, hidden)
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))
        self.channel = nn.Conv2d(hidden, in_chs, 1)
        self.filter = nn.Conv2d(hidden, out_chs, 1)
        self.spatial = nn.Conv2d(hidden, kernel_size**2, 1) if kernel_size > 1 else None
        self.kernel = nn.Conv2d(hidden, kernel_num, 1) if kernel_num > 1 else None
        for head in (self.channel, self.filter, self.spatial, self.kernel):
            if head is not None:
                nn.init.normal_(head.weight, std=1e-6)
                nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(
        self, mean: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The four sets of factors; those of a missing head are 1."""
        z = self.scale * self.fc(mean).relu().square() + self.shift

        def factors(head: nn.Module | None) -> torch.Tensor:
            if head is None:
                return torch.ones_like(mean[:, :1, 0, 0])
            return amplify(head(z).flatten(1), self.act)

        spatial = factors(self.spatial).unflatten(1, (self.kernel_size, self.kernel_size))
        return factors(self.channel), factors(self.filter), spatial, factors(self.kernel)


class LocalModulation(nn.Module):
    """A factor for every entry of the weight, from each channel's mean and its neighbours'.

    `A(conv1d(LN(g)))` along the channels (the paper's local KSM).

    Shape: (B, in_chs, 1, 1) -> (B, out_chs, in_chs, k, k)
    """

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, act: Act) -> None:
        super().__init__()
        self.act = act
        self.shape = (out_chs, kernel_size, kernel_size)
        taps = round(math.log2(in_chs) / 2 + 0.5) // 2 * 2 + 1
        self.norm = nn.LayerNorm(in_chs)
        self.conv = nn.Conv1d(1, math.prod(self.shape), taps, padding=taps // 2, bias=False)
        nn.init.constant_(self.conv.weight, 1e-6)

    def forward(self, mean: torch.Tensor) -> torch.Tensor:
        """The factors."""
        logits = self.conv(self.norm(mean.flatten(1))[:, None])
        return amplify(logits, self.act).unflatten(1, self.shape).permute(0, 1, 4, 2, 3)  # type: ignore[no-any-return]


class FDConv2d(nn.Module):
    """Convolution with a weight of its own for each image: stands in for `nn.Conv2d`.

    The weight lives in the frequency domain, cut into `kernel_num` groups from low to high; each
    image weighs the groups, then channels, filters, taps and single entries, and its own bands:

        W = irfft2(sum_j a_j group_j) * taps * channels * filters * entries,  y = conv(bands(x), W)

    A new layer, and one that `from_conv` makes, is the plain convolution to 1e-5. In training, a
    batch of one image needs the inner BatchNorm in evaluation mode.

    Shape: (B, in_channels, H, W) -> (B, out_channels, H', W'), as for `nn.Conv2d`
    """

    group: torch.Tensor
    options: dict[str, Any]
    """For `from_conv`, to make another like it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        kernel_num: int = 64,
        act: Act = "sigmoid",
        local: bool = True,
        levels: Sequence[int] | None = (2, 4, 8),
        level_groups: int = 1,
        low_level: bool = False,
    ) -> None:
        """Build the layer.

        Args:
            in_channels: at least 2.
            out_channels: at least 2.
            kernel_size: height and width of the kernel.
            stride: as for `nn.Conv2d`.
            padding: as for `nn.Conv2d`, in numbers.
            dilation: as for `nn.Conv2d`.
            bias: add one after all.
            kernel_num: groups of frequencies; the paper's detectors have 64.
            act: of all factors, "sigmoid" or "tanh".
            local: have a factor for every entry.
            levels: cut-offs of the bands (kernels larger than 1 only), None for no bands.
            level_groups: groups of channels with factors of their own in each band.
            low_level: weigh the lowest band too.

        Raises:
            UsageError: too few channels, or more groups than there are frequencies.
        """
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, 1
        self.kernel_size = (kernel_size, kernel_size)
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.kernel_num = kernel_num
        self.options = {
            "kernel_num": kernel_num, "act": act, "local": local, "levels": levels,
            "level_groups": level_groups, "low_level": low_level,
        }  # fmt: skip
        if min(in_channels, out_channels) < 2:
            raise UsageError(
                f"FDConv2d has {in_channels} input and {out_channels} output channels; it needs at "
                "least 2 of each (the paper: more than 16); leave this convolution as it is"
            )
        self.rows, self.cols = out_channels * kernel_size, in_channels * kernel_size
        bins = self.rows * (self.cols // 2 + 1)
        if not 1 <= kernel_num <= bins:
            raise UsageError(f"kernel_num={kernel_num}; a weight of this size has {bins} groups")
        # ties keep their order, which torch's default sort leaves to the processor's instructions
        order = torch.sort(frequency_distance(self.rows, self.cols), stable=True).indices
        group = frequency_groups(order, kernel_num)
        shape = (self.rows, self.cols // 2 + 1, 2)
        self.dft_weight = nn.Parameter(torch.empty(shape))
        # in files too: were it made anew, rounding on another machine could move a bin
        self.register_buffer("group", group.to(self.dft_weight.device))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.modulation = Modulation(in_channels, out_channels, kernel_size, kernel_num, act)
        self.local = LocalModulation(in_channels, out_channels, kernel_size, act) if local else None
        self.bands = None
        if levels is not None and kernel_size > 1:
            self.bands = FrequencyBands(in_channels, levels, level_groups, low_level, act)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start the weight and bias as a fresh `nn.Conv2d` does."""
        k = self.kernel_size[0]
        weight = self.dft_weight.new_empty(self.out_channels, self.in_channels, k, k)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.set_weight(weight)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_channels * k * k)
            nn.init.uniform_(self.bias, -bound, bound)

    @torch.no_grad()
    def set_weight(self, weight: torch.Tensor) -> None:
        """Take an ordinary weight (out_channels, in_channels, k, k) as the starting point."""
        matrix = weight.permute(0, 2, 1, 3).reshape(self.rows, self.cols)
        wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        spectrum = torch.view_as_real(torch.fft.rfft2(wide))
        # the authors' scale of this parameter, which decides its learning rate
        self.dft_weight.copy_(spectrum / (min(self.in_channels, self.out_channels) // 2))

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: Any) -> FDConv2d:
        """The layer that stands in for a convolution and starts with its weight.

        Args:
            conv: not grouped, padded with zeros, of a square kernel.
            options: of this class, such as `kernel_num`.

        Raises:
            UsageError: the convolution is of another kind.
        """
        height, width = conv.kernel_size
        wrong = [
            f"{conv.groups} groups" if conv.groups != 1 else "",
            f"a {height}x{width} kernel" if height != width else "",
            f"padding of mode {conv.padding_mode!r}" if conv.padding_mode != "zeros" else "",
        ]
        if any(wrong):
            raise UsageError(
                f"FDConv2d cannot take the place of a convolution with "
                f"{' and '.join(filter(None, wrong))}"
                "; it needs one group, a square kernel and zeros around: leave it out by `where`"
            )
        padding = conv.padding
        if isinstance(padding, str):
            reach = [d * (height - 1) for d in conv.dilation]
            if padding == "same" and any(r % 2 for r in reach):
                raise UsageError("FDConv2d cannot pad an even kernel to 'same'; leave it out")
            padding = tuple(r // 2 if padding == "same" else 0 for r in reach)
        bias = conv.bias is not None
        geometry = (conv.stride, padding, conv.dilation, bias)
        layer = cls(conv.in_channels, conv.out_channels, height, *geometry, **options)  # type: ignore[arg-type]
        layer.to(conv.weight.device, conv.weight.dtype)
        layer.set_weight(conv.weight)
        if layer.bias is not None and conv.bias is not None:
            layer.bias.data.copy_(conv.bias)
        return layer

    def synthesize(self, factors: torch.Tensor) -> torch.Tensor:
        """Each image's weight from its factors of the frequency groups.

        Shape: (B, kernel_num) -> (B, out_channels, in_channels, k, k)
        """
        half = min(self.in_channels, self.out_channels) // 2
        spectrum = self.dft_weight.to(torch.promote_types(factors.dtype, torch.float32))
        gains = (factors.to(spectrum.dtype) * half).expand(-1, self.kernel_num)
        gains = gains.index_select(1, self.group.int()).unflatten(1, (self.rows, -1, 1))
        weight = inverse(gains * spectrum, self.rows, self.cols).to(factors.dtype)
        k = self.kernel_size[0]
        shape = (self.out_channels, k, self.in_channels, k)
        return weight.unflatten(2, shape[2:]).unflatten(1, shape[:2]).permute(0, 1, 3, 2, 4)  # type: ignore[no-any-return]

    def convolve(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Convolve each image with its own weight.

        Shape: (B, in_channels, H, W), (B, out_channels, in_channels, k, k) -> the output
        """
        b, _, h, w = x.shape
        geometry: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
        }
        if not torch.onnx.is_in_onnx_export():
            # one convolution in which each image is a group
            out = F.conv2d(x.reshape(1, -1, h, w), weight.flatten(0, 1), groups=b, **geometry)
            return out.reshape(b, self.out_channels, *out.shape[-2:])
        # the number of groups would be fixed in a graph, the size is
        sides = [
            (int(size) + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                (h, w), self.kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
        ]
        patches = F.unfold(x, self.kernel_size, **geometry)
        return (weight.flatten(2) @ patches).unflatten(2, sides)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Make the weight of each image, and convolve the image with it."""
        mean = x.mean((2, 3), keepdim=True)
        channels, filters, taps, kernels = self.modulation(mean)
        inner = channels[:, None, :, None, None] * taps[:, None, None]
        weight = self.synthesize(kernels) * inner * filters[:, :, None, None, None]
        if self.local is not None:
            weight = weight * self.local(mean)
        if self.bands is not None:
            x = self.bands(x)
        out = self.convolve(x, weight)
        return out if self.bias is None else out + self.bias[:, None, None]

    def extra_repr(self) -> str:
        """The arguments that differ between layers."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, kernel_num={self.kernel_num}"
        )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
