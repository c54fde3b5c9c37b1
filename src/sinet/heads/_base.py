"""What necks share: their description, convolutions with a norm, how maps change size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from timm.layers import get_norm_layer
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.layers import ConvNorm


class Neck(nn.Module):
    """From maps of a backbone to a pyramid of one width; extra levels halve the coarsest.

    Attributes:
        in_channels: channels of every map taken, finest first.
        out_channels: channels of every map given.
        num_outs: how many maps are given.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_outs: int) -> None:
        """Keep the description.

        Raises:
            UsageError: fewer outputs than inputs, or nothing to take.
        """
        super().__init__()
        self.in_channels, self.out_channels = list(in_channels), out_channels
        self.num_outs = num_outs
        if not 0 < len(self.in_channels) <= num_outs:
            raise UsageError(
                f"{type(self).__name__} with {num_outs} outputs takes 1 to {num_outs} maps, not "
                f"{len(self.in_channels)}; choose fewer by the backbone's out_indices or set "
                "num_outs"
            )

    def check(self, features: Sequence[torch.Tensor]) -> None:
        """Refuse maps that this neck was not built for.

        Raises:
            UsageError: another number of maps, or other channels.
        """
        given = [x.shape[1] for x in features]
        if given != self.in_channels:
            raise UsageError(
                f"{type(self).__name__} was built for maps of {self.in_channels} channels, finest "
                f"first, and got {given}; build it with backbone.feature_info.channels()"
            )


def conv_norm(
    in_chs: int,
    out_chs: int,
    kernel_size: int = 1,
    stride: int = 1,
    norm_layer: str | None = "batchnorm",
) -> nn.Sequential:
    """A convolution without bias and a norm of timm's; without a norm, a convolution with bias.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))

    Raises:
        UsageError: the channels do not divide into the norm's groups.
    """
    if norm_layer is None:
        conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, kernel_size // 2)
        return nn.Sequential(OrderedDict(conv=conv))
    norm = get_norm_layer(norm_layer)
    try:
        return ConvNorm(in_chs, out_chs, kernel_size, stride, norm_layer=norm)
    except ValueError as error:
        raise UsageError(
            f"{norm_layer} does not fit {out_chs} channels: {error}; set out_channels, which is "
            "halved inside DenseFPN"
        ) from error


class GlobalContext(nn.Module):
    """One vector an image: a learned weighted mean over all positions, then a linear map.

    y = W (sum_p softmax_p(k x_p) x_p) + b. Weights sum to one, so mapping the mean equals the
    mean of the mapped positions and costs one position instead of all.

    Shape: (B, C, H, W) -> (B, C, 1, 1)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(width, 1, 1)
        self.value = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool over both axes."""
        weight = self.key(x).flatten(2).softmax(-1)
        pooled: torch.Tensor = self.value((x.flatten(2) @ weight.transpose(1, 2))[..., None])
        return pooled


def resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bilinear, to the height and width of another map."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class MeanCells(nn.Module):
    """Adaptive average pooling that becomes two matrix products in an exported file.

    ONNX has the operator for whole ratios only, and the exporter that knows a way round needs half
    a minute for it, the other a second.

    Shape: (B, C, H, W) -> (B, C, cells, cells)
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool over both axes."""
        if not torch.onnx.is_in_onnx_export():
            return F.adaptive_avg_pool2d(x, self.cells)
        rows, columns = (
            torch.from_numpy(mean_cells(self.cells, int(side))).to(x) for side in x.shape[-2:]
        )
        return rows @ x @ columns.T


def mean_cells(cells: int, side: int) -> npt.NDArray[np.float64]:
    """(cells, side): cell i is the mean of [floor(i side / cells), ceil((i + 1) side / cells))."""
    weights = np.zeros((cells, side))
    for i, row in enumerate(weights):
        row[i * side // cells : -(-(i + 1) * side // cells)] = 1
    return np.asarray(weights / weights.sum(1, keepdims=True))


def max_pool_to(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Adaptive max pooling, to the height and width of another map.

    Output i of n takes the largest of [floor(i N / n), ceil((i + 1) N / n)) on either axis.
    """
    if x.shape[-2:] == like.shape[-2:]:
        return x
    if torch.onnx.is_in_onnx_export():
        # ONNX has this operator for whole ratios only; the windows by hand fit every ratio
        return _max_windows(_max_windows(x, -2, int(like.shape[-2])), -1, int(like.shape[-1]))
    return F.adaptive_max_pool2d(x, like.shape[-2:])


def _max_windows(x: torch.Tensor, dim: int, outputs: int) -> torch.Tensor:
    inputs = int(x.shape[dim])
    starts = [i * inputs // outputs for i in range(outputs)]
    ends = [-(-(i + 1) * inputs // outputs) for i in range(outputs)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    # a shorter window repeats its last position, which changes no maximum
    index = [
        min(start + k, end - 1)
        for start, end in zip(starts, ends, strict=True)
        for k in range(longest)
    ]
    windows = x.index_select(dim, torch.tensor(index, device=x.device))
    place = dim % x.ndim
    sizes = [-1, *(int(n) for n in x.shape[1:])]  # the batch stays open, unlike with `unflatten`
    sizes[place : place + 1] = [outputs, longest]
    largest: torch.Tensor = windows.reshape(sizes).amax(place + 1)
    return largest
