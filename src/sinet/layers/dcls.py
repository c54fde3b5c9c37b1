"""Dilated convolution with learnable spacings: few weights at learned, real-valued positions.

"Dilated Convolution with Learnable Spacings", ICLR 2023, arXiv 2112.03740, and "...: beyond
bilinear interpolation", arXiv 2306.00817. Origin: K-H-Ismail/Dilated-Convolution-with-Learnable-
Spacings-PyTorch, MIT; written anew here.

At each forward the dense kernel is made from K elements and used in an ordinary convolution:

    kernel = sum_e weight_e G_e / (sum over the window of G_e + 1e-7)
    G_e = product over the axes of h(place - centre - P_e, SIG_e)

| version | h(d, s)                            | normalised |
| v0      | the two nearest places, linearly   | no         |
| v1      | relu(1 - |d|)                      | yes        |
| max     | relu(1 + |s| - |d|)                | yes        |
| gauss   | exp(-0.5 (d / (0.27 + |s|))^2)     | yes        |

As h is a product over axes, so is the sum over the window, and the kernel is a product of small
matrices; the origin builds every element's dense map instead.

What differs: windows of unequal sides have their centre where it belongs on each axis (the origin
mixes the axes up in v1, max and gauss).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError, unknown

Version = Literal["v0", "v1", "max", "gauss"]
VERSIONS = ("v0", "v1", "max", "gauss")
_V0_AXES = {1: (0,), 2: (0, 1), 3: (0, 2, 1)}
"""Row of P that belongs to each axis of the kernel in v0; in the others, P is in reverse order."""


class _DCLS(nn.Module):
    """What the layers share; `dims` is the number of spatial axes of the kernel."""

    dims: ClassVar[int]
    conv: ClassVar[type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]]

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_count: int,
        dilated_kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        version: Version = "gauss",
    ) -> None:
        """Build the layer.

        Args:
            in_chs: input channels.
            out_chs: output channels.
            kernel_count: weights of a kernel, K.
            dilated_kernel_size: side of the window that they move in, or one for each axis.
            stride: as of a convolution.
            padding: as of a convolution; half the window keeps the size.
            groups: as of a convolution.
            bias: add one for each output channel.
            version: interpolation, see above.

        Raises:
            UsageError: channels that the groups do not divide, or an unknown version.
        """
        super().__init__()
        if version not in VERSIONS:
            raise unknown("version of DCLS", version, VERSIONS)
        if in_chs % groups or out_chs % groups:
            raise UsageError(
                f"{groups} groups do not divide {in_chs} input and {out_chs} output channels; "
                f"{math.gcd(in_chs, out_chs)} groups would"
            )
        self.in_chs, self.out_chs, self.groups = in_chs, out_chs, groups
        self.version, self.stride, self.padding = version, stride, padding
        size = dilated_kernel_size
        self.window = (size,) * self.dims if isinstance(size, int) else tuple(size)
        shape = (out_chs, in_chs // groups, kernel_count)
        self.weight = nn.Parameter(torch.empty(shape))
        self.P: nn.Parameter | None = nn.Parameter(torch.empty(self.dims, *shape))
        widens = version in ("max", "gauss")
        self.SIG = nn.Parameter(torch.empty(self.dims, *shape)) if widens else None
        self.bias = nn.Parameter(torch.empty(out_chs)) if bias else None
        self._owner: tuple[_DCLS, ...] = ()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights as of a convolution; positions near the centre, widths of half a place."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        if self.P is not None:
            nn.init.normal_(self.P, 0, 0.5)
            self.clamp_parameters()
        if self.SIG is not None:
            nn.init.constant_(self.SIG, 0.23 if self.version == "gauss" else 0.0)

    def share_positions(self, owner: _DCLS) -> None:
        """Use the positions of another layer of equal shape from now on.

        They stay that layer's parameter: a state dict holds them once.
        """
        assert owner.P is not None
        assert self.P is not None
        assert owner.P.shape == self.P.shape
        self.P = None
        self._owner = (owner,)  # in a tuple, so that it is not a submodule of this one

    @property
    def positions(self) -> torch.Tensor:
        """Positions from the centre, (dims, out_chs, in_chs / groups, K)."""
        positions = self._owner[0].P if self._owner else self.P
        assert positions is not None
        return positions

    def _row(self, axis: int) -> int:
        """The row of P, and of SIG, that belongs to an axis of the kernel."""
        return _V0_AXES[self.dims][axis] if self.version == "v0" else self.dims - 1 - axis

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        """Bring back into the window what a step of the optimizer moved out of it."""
        if self.P is not None:
            for axis, size in enumerate(self.window):
                self.P[self._row(axis)].clamp_(-(size // 2), size // 2)

    def _along(self, axis: int) -> torch.Tensor:
        """Shares of every element along one axis: (out_chs, in_chs / groups, K, window[axis])."""
        size, row = self.window[axis], self._row(axis)
        center = (self.positions[row] + size // 2)[..., None]
        place = torch.arange(size, device=center.device, dtype=center.dtype)
        if self.version == "v0":
            # not relu(1 - |d|), though equal: its slope at whole positions, such as the window's
            # ends where clamping puts elements, is the one towards the next place
            low = center.floor()
            share = center - low
            return torch.where(place == low, 1 - share, 0) + torch.where(place == low + 1, share, 0)
        distance = place - center
        if self.version == "v1":
            return (1 - distance.abs()).relu()
        assert self.SIG is not None
        width = self.SIG[row].abs()[..., None]
        if self.version == "max":
            return (1 + width - distance.abs()).relu()
        return (-0.5 * (distance / (0.27 + width)).square()).exp()

    def kernel(self) -> torch.Tensor:
        """The dense kernel, (out_chs, in_chs / groups, *window)."""
        if self.training:
            self.clamp_parameters()
        shares = [self._along(axis) for axis in range(self.dims)]
        weight: torch.Tensor = self.weight
        if self.version != "v0":
            total = shares[0].sum(-1)
            for share in shares[1:]:
                total = total * share.sum(-1)
            weight = weight / (total + 1e-7)
        left = weight[..., None]
        for share in shares[:-1]:
            left = (left[..., None] * share[..., None, :]).flatten(-2)
        dense = left.transpose(-2, -1) @ shares[-1]
        return dense.reshape(*self.weight.shape[:2], *self.window)

    def fuse(self) -> nn.Module:
        """The same function as an ordinary convolution."""
        kernel = self.kernel().detach()
        conv = self.conv(
            self.in_chs,
            self.out_chs,
            tuple(kernel.shape[2:]),  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            groups=self.groups,
            bias=self.bias is not None,
        ).to(kernel)
        conv.weight.data.copy_(kernel)
        if conv.bias is not None and self.bias is not None:
            conv.bias.data.copy_(self.bias)
        return conv

    def extra_repr(self) -> str:
        """For print(model)."""
        count = self.weight.shape[2]
        return (
            f"{self.in_chs}, {self.out_chs}, {count} elements in {self.window}, "
            f"stride={self.stride}, padding={self.padding}, groups={self.groups}, {self.version}"
        )


class DCLS1d(_DCLS):
    """Over sequences.

    Shape: (B, in_chs, L) -> (B, out_chs, (L + 2 padding - window) // stride + 1)
    """

    dims, conv = 1, nn.Conv1d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Build the kernel and convolve."""
        kernel = self.kernel()
        return F.conv1d(x, kernel, self.bias, self.stride, self.padding, groups=self.groups)


class DCLS2d(_DCLS):
    """Over maps.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H', W'), as of a convolution of the window's size
    """

    dims, conv = 2, nn.Conv2d

    @property
    def options(self) -> dict[str, Any]:
        """For `from_conv`, to make another like it."""
        return {"dilated_kernel_size": self.window, "version": self.version}

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        dilated_kernel_size: int | tuple[int, int] = 17,
        version: Version = "v0",
    ) -> DCLS2d:
        """A layer that starts as the convolution: an element for each of its taps, in its place.

        With version "gauss" the taps start blurred. In v1 and max an element exactly in a place
        has no gradient and would stay there.

        Raises:
            UsageError: such a version, a window that cannot be centred on the kernel, or padding of
                another kind.
        """
        if version not in ("v0", "gauss"):
            raise UsageError(f"elements in whole places never move in {version}; take v0 or gauss")
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            raise UsageError("only a convolution padded by a number of zeros can be taken over")
        size = dilated_kernel_size
        window = (size, size) if isinstance(size, int) else tuple(size)
        reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        more = [w - r for w, r in zip(window, reach, strict=True)]
        if min(more) < 0 or any(m % 2 for m in more):
            raise UsageError(
                f"a window of {window[0]} x {window[1]} cannot be centred on a kernel that reaches "
                f"over {reach[0]} x {reach[1]}; take one that is larger by an even number"
            )
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            math.prod(conv.kernel_size),
            window,
            conv.stride,
            [p + m // 2 for p, m in zip(conv.padding, more, strict=True)],
            conv.groups,
            conv.bias is not None,
            version,
        ).to(conv.weight)
        assert layer.P is not None
        with torch.no_grad():
            taps = [
                d * torch.arange(k).to(layer.P) - r // 2
                for d, k, r in zip(conv.dilation, conv.kernel_size, reach, strict=True)
            ]
            places = torch.cartesian_prod(*taps).T
            for axis in range(2):
                layer.P[layer._row(axis)] = places[axis]
            layer.weight.copy_(conv.weight.flatten(2))
            if conv.bias is not None and layer.bias is not None:
                layer.bias.copy_(conv.bias)
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Build the kernel and convolve."""
        kernel = self.kernel()
        return F.conv2d(x, kernel, self.bias, self.stride, self.padding, groups=self.groups)


class DCLS3d(_DCLS):
    """Over volumes.

    Shape: (B, in_chs, D, H, W) -> (B, out_chs, D', H', W'), as of a convolution
    """

    dims, conv = 3, nn.Conv3d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Build the kernel and convolve."""
        kernel = self.kernel()
        return F.conv3d(x, kernel, self.bias, self.stride, self.padding, groups=self.groups)


class DCLS2dFlat(_DCLS):
    """Over maps with a one-dimensional kernel: a column (window x 1) or a row (1 x window).

    Shape: (B, in_chs, H, W) -> (B, out_chs, H', W'), as of a convolution
    """

    dims, conv = 1, nn.Conv2d

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_count: int,
        dilated_kernel_size: int,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        version: Version = "v1",
        row: bool = False,
    ) -> None:
        """Build the layer; as the others, and `row` says whether the kernel lies along the width.

        Raises:
            UsageError: channels that the groups do not divide, or an unknown version.
        """
        size = dilated_kernel_size
        super().__init__(
            in_chs, out_chs, kernel_count, size, stride, padding, groups, bias, version
        )
        self.row = row

    def kernel(self) -> torch.Tensor:
        """The dense kernel, (out_chs, in_chs / groups, window, 1) or (..., 1, window)."""
        return super().kernel().unsqueeze(-2 if self.row else -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Build the kernel and convolve."""
        kernel = self.kernel()
        return F.conv2d(x, kernel, self.bias, self.stride, self.padding, groups=self.groups)
