"""RCNet: Reverse Feature Pyramid and Cross-scale Shift Network for Object Detection.

arXiv:2110.12130, ACM Multimedia 2021. Origin: github.com/TempleX98/RCNet (Apache-2.0); this is an
independent implementation. Reported: RetinaNet with ResNet-50 40.2 AP on COCO val (36.5 with a
plain FPN). At 256 channels on C3..C5: 7,665,346 parameters, 6,669,586 with plain convolutions;
about 25.8 GMACs at 800 x 1280.

What differs from the paper: the 3 x 3 convolutions of the equations are modulated deformable ones
in the authors' code, hence here; `rcnet_plain` and `revfp_plain` have ordinary ones. Differs from
that code in training at odd sizes only: the repeated last row and column of its extra levels count
in the statistics of their norms there and not here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from timm.layers import get_norm_layer
from torch import nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from sinet.errors import UsageError
from sinet.heads._base import GlobalContext, Neck, conv_norm, max_pool_to, resize
from sinet.heads._necks import register_neck
from sinet.layers import ConvNorm

SHIFT = 16
"""One of so many channels moves in each of the four shifts of CSN."""


class ModulatedDeformConv(DeformConv2d):  # type: ignore[misc]
    """Deformable convolution whose offsets and masks come from the input (DCNv2).

    Starts with no offsets and masks of one half.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H, W)
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 3,
        offset_groups: int = 2,
        bias: bool = False,
    ) -> None:
        super().__init__(in_chs, out_chs, kernel_size, padding=kernel_size // 2, bias=bias)
        self.offset_groups = offset_groups
        taps = kernel_size * kernel_size
        self.conv_offset = nn.Conv2d(
            in_chs, 3 * offset_groups * taps, kernel_size, padding=kernel_size // 2
        )
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve at the places that the input asks for."""
        moved = self.conv_offset(x)
        taps = moved.shape[1] // 3
        offset, mask = moved[:, : 2 * taps], moved[:, 2 * taps :].sigmoid()
        if torch.onnx.is_in_onnx_export():  # the exporter knows no deformable convolution
            return self.sampled(x, offset, mask)
        out: torch.Tensor = super().forward(x, offset, mask)
        return out

    def sampled(self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The same function by `grid_sample` and a matrix product; needs more memory.

        Every reshape leaves the batch open: `unflatten` is exported with the batch it was traced
        with, which ONNX Runtime then takes for the only one.
        """
        side, groups = self.kernel_size[0], self.offset_groups
        taps, (height, width) = side * side, (int(n) for n in x.shape[-2:])
        rows, columns = (torch.arange(n, dtype=x.dtype, device=x.device) for n in (height, width))
        tap = torch.arange(side, dtype=x.dtype, device=x.device) - side // 2
        shift = offset.reshape(-1, taps, 2, height, width)  # an offset group as an image
        down = shift[:, :, 0] + tap.repeat_interleave(side)[:, None, None] + rows[:, None]
        right = shift[:, :, 1] + tap.repeat(side)[:, None, None] + columns
        grid = torch.stack([(2 * right + 1) / width - 1, (2 * down + 1) / height - 1], -1)
        image = x.reshape(-1, x.shape[1] // groups, height, width)
        grid = grid.reshape(-1, taps * height, width, 2)
        values = F.grid_sample(image, grid, align_corners=False)
        values = values.reshape(-1, x.shape[1] // groups, taps, height, width)
        values = values * mask.reshape(-1, 1, taps, height, width)
        values = values.reshape(-1, x.shape[1] * taps, height * width)
        out: torch.Tensor = self.weight.flatten(1) @ values
        out = out.reshape(-1, self.out_channels, height, width)
        return out if self.bias is None else out + self.bias[:, None, None]


class DeformConvNorm(ConvNorm):
    """Modulated deformable convolution, then a norm; `fuse()` folds a BatchNorm into it.

    Shape: (B, width, H, W) -> (B, width, H, W)
    """

    def __init__(self, width: int, norm_layer: str) -> None:
        nn.Sequential.__init__(self)
        self.conv = ModulatedDeformConv(width, width)
        self.bn = get_norm_layer(norm_layer)(width)


class Fusion(nn.Sequential):
    """ReLU, 3 x 3 convolution, norm, in this order.

    Shape: (B, width, H, W) -> (B, width, H, W)
    """

    def __init__(self, width: int, norm_layer: str | None, deformable: bool) -> None:
        if not deformable:
            conv: nn.Module = conv_norm(width, width, 3, norm_layer=norm_layer)
            _init(conv)
        elif norm_layer is None:
            conv = nn.Sequential()
            conv.conv = ModulatedDeformConv(width, width, bias=True)
        else:
            conv = DeformConvNorm(width, norm_layer)
        super().__init__(nn.ReLU(), conv)


class Gate(nn.Module):
    """How much of two maps an image takes: sigmoid(W [mean(x), mean(y)]), one half at the start.

    Shapes: two (B, width, H, W) -> (B, 1, 1, 1)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _silent(nn.Conv2d(2 * width, 1, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The share of the first."""
        means = torch.cat([x, y], 1).mean((2, 3), keepdim=True)
        share: torch.Tensor = self.conv(means).sigmoid()
        return share


class Guide(nn.Module):
    """Re-weight the positions of an upsampled map by its own level.

    y -> H W softmax_positions(T C^-1/2 conv([x, y])) y; weights of mean one, all one at the start.

    Shapes: two (B, width, H, W) -> (B, width, H, W)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _silent(nn.Conv2d(2 * width, 1, 3, padding=1))
        self.temperature = nn.Parameter(torch.ones(1))
        self.scale = width**-0.5

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The second map, re-weighted."""
        logits = self.temperature * self.scale * self.conv(torch.cat([x, y], 1))
        height, width = x.shape[-2:]
        weight: torch.Tensor = logits.flatten(2).softmax(-1).reshape(-1, 1, height, width)
        return weight * (height * width) * y


class FusionNode(nn.Module):
    """One level of RevFP: itself, the level above (coarser) and the finished level below.

    Shapes: (B, width, H, W), above (B, width, h, w), below (B, width, H', W') with
    H = ceil(H' / 2) -> (B, width, H, W)
    """

    def __init__(
        self, width: int, above: bool, below: bool, norm_layer: str | None, deformable: bool
    ) -> None:
        super().__init__()
        self.guide = Guide(width) if above else None
        self.gate_above = Gate(width) if above else None
        self.gate_below = Gate(width) if below else None
        self.pre = Fusion(width, norm_layer, deformable) if above and below else None
        self.post = Fusion(width, norm_layer, deformable)

    def forward(
        self, x: torch.Tensor, above: torch.Tensor | None, below: torch.Tensor | None
    ) -> torch.Tensor:
        """Fuse what there is."""
        if above is not None and self.gate_above is not None and self.guide is not None:
            above = resize(above, x)
            share = self.gate_above(x, above)  # of the map before it is guided
            x = share * x + (1 - share) * self.guide(x, above)
        if self.pre is not None:
            x = self.pre(x)
        if below is not None and self.gate_below is not None:
            below = _halved(below, x)
            share = self.gate_below(x, below)
            x = share * x + (1 - share) * below
        fused: torch.Tensor = self.post(x)
        return fused


def _halved(below: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """2 x 2 max pooling; an odd last row or column stands alone."""
    pooled = F.max_pool2d(below, 2, ceil_mode=True)
    if pooled.shape[-2:] != x.shape[-2:]:
        (high, wide), (up, across) = below.shape[-2:], x.shape[-2:]
        raise UsageError(
            f"RevFP needs levels that halve, rounded up: {high} x {wide} leads to "
            f"{(high + 1) // 2} x {(wide + 1) // 2}, the next map has {up} x {across}; "
            "give images whose height and width are multiples of the backbone's largest reduction"
        )
    return pooled


class RevFP(Neck):
    """Reverse feature pyramid: one bottom-up pass in which every level also hears the next above.

    Levels beyond the inputs are 1 x 1 convolutions and max pooling of the coarsest.

    Shapes: [(B, C_i, H_i, W_i)], H_i = ceil(H_{i-1} / 2) -> [(B, out_channels, H_i, W_i)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        norm_layer: str | None = "batchnorm",
        deformable: bool = True,
    ) -> None:
        """Build the neck.

        Args:
            in_channels: channels of each map, finest first.
            out_channels: channels of every output.
            num_outs: levels; those beyond the inputs halve the coarsest.
            norm_layer: any norm of timm's ("groupnorm" in the paper's long schedules), or None.
            deformable: fuse by deformable convolutions, else by ordinary ones.
        """
        super().__init__(in_channels, out_channels, num_outs)
        self.lateral = nn.ModuleList(
            conv_norm(c, out_channels, norm_layer=norm_layer) for c in self.in_channels
        )
        self.extra = nn.ModuleList(
            conv_norm(out_channels, out_channels, norm_layer=norm_layer)
            for _ in range(num_outs - len(self.in_channels))
        )
        _init(self)
        last = num_outs - 1
        self.nodes = nn.ModuleList(
            FusionNode(out_channels, i < last, i > 0, norm_layer, deformable)
            for i in range(num_outs)
        )

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Merge the maps; finest first, in and out."""
        self.check(features)
        maps = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        for conv in self.extra:
            maps.append(F.max_pool2d(conv(maps[-1]), 2, ceil_mode=True))
        out: list[torch.Tensor] = []
        above = [*maps[1:], None]
        for i, node in enumerate(self.nodes):
            out.append(node(maps[i], above[i], out[-1] if out else None))
        return out


class CSN(nn.Module):
    """Cross-scale shift network: a residual that mixes all levels at the size of the second.

    Channels move to the neighbouring and next but one levels, cyclically; a convolution a level
    mixes them; a context over the levels and one over the positions are added everywhere.

    Shapes: [(B, width, H_i, W_i)] -> the same
    """

    def __init__(
        self, width: int = 256, levels: int = 5, norm_layer: str | None = "batchnorm"
    ) -> None:
        """Build the residual.

        Raises:
            UsageError: the width does not divide into shifts, or there is one level only.
        """
        super().__init__()
        if width % SHIFT or levels < 2:
            raise UsageError(
                f"CSN needs at least 2 levels and a multiple of {SHIFT} channels, not {levels} "
                f"levels of {width}; set num_outs and out_channels"
            )
        self.part = width // SHIFT
        self.mix = nn.ModuleList(
            nn.Sequential(
                conv_norm(width + 4 * self.part, width, norm_layer=norm_layer),
                nn.ReLU(),
                nn.Conv2d(width, width, 1),
            )
            for _ in range(levels)
        )
        self.scale_context = GlobalContext(width)
        self.spatial_context = GlobalContext(width)
        _init(self)

    def shift(self, x: torch.Tensor) -> torch.Tensor:
        """Put what comes from levels l + 1, l - 1, l + 2 and l - 2 before the levels themselves.

        Shape: (B, levels, C, H, W) -> (B, levels, C + C / 4, H, W)
        """
        groups = x[:, :, : 4 * self.part].split(self.part, 2)
        steps = (-1, 1, -2, 2)
        moved = [group.roll(step, 1) for group, step in zip(groups, steps, strict=True)]
        return torch.cat([*moved, x], 2)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Add the residual to every level."""
        like = maps[1]
        x = torch.stack([max_pool_to(maps[0], like), *(resize(y, like) for y in maps[1:])], 1)
        shifted = self.shift(x).unbind(1)
        x = x + torch.stack([mix(y) for mix, y in zip(self.mix, shifted, strict=True)], 1)
        over_levels = self.scale_context(x.mean((3, 4)).transpose(1, 2)[..., None])
        context = over_levels + self.spatial_context(x.mean(1))
        first, *rest = (x + context[:, None]).unbind(1)
        return [
            maps[0] + resize(first, maps[0]),
            *(y + max_pool_to(z, y) for y, z in zip(maps[1:], rest, strict=True)),
        ]


class RCFPN(Neck):
    """RevFP, then CSN on its result.

    Shapes: [(B, C_i, H_i, W_i)], H_i = ceil(H_{i-1} / 2) -> [(B, out_channels, H_i, W_i)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        norm_layer: str | None = "batchnorm",
        deformable: bool = True,
    ) -> None:
        """Build the neck; the arguments are those of `RevFP`."""
        super().__init__(in_channels, out_channels, num_outs)
        self.pyramid = RevFP(in_channels, out_channels, num_outs, norm_layer, deformable)
        self.cross = CSN(out_channels, num_outs, norm_layer)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Merge the maps; finest first, in and out."""
        maps: list[torch.Tensor] = self.cross(self.pyramid(features))
        return maps


def _init(module: nn.Module) -> None:
    """Xavier's uniform start, and no bias."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _silent(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


_RENAMED = (
    (r"^lateral_convs\.", "pyramid.lateral."),
    (r"^extra_downsamples\.(\d+)\.0\.", r"pyramid.extra.\1."),
    (r"^RevFP\.p7\.weight\.0\.", "RevFP.p7.gate_below.conv."),
    (r"^(RevFP\.p\d+)\.weight\.0\.", r"\1.gate_above.conv."),
    (r"^(RevFP\.p\d+)\.weight\.1\.", r"\1.gate_below.conv."),
    (r"^(RevFP\.p\d+)\.temp$", r"\1.guide.temperature"),
    (r"^(RevFP\.p\d+)\.spatial_weight\.", r"\1.guide.conv."),
    (r"^(RevFP\.p\d+)\.(pre|post)_fusion\.", r"\1.\2.1."),
    (r"^CSN\.(spatial|scale)Context\.channel_agg\.", r"cross.\1_context.key."),
    (r"^CSN\.(spatial|scale)Context\.trans\.", r"cross.\1_context.value."),
    (r"^CSN\.msm\.aggregation\.(\d+)\.0\.", r"cross.mix.\1.0."),
    (r"^CSN\.msm\.aggregation\.(\d+)\.1\.", r"cross.mix.\1.2."),
    (r"\.gn\.", ".bn."),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' names of RCFPN -> ours; ours stay."""
    renamed = {}
    for name, value in state_dict.items():
        for pattern, ours in _RENAMED:
            name = re.sub(pattern, ours, name)
        found = re.match(r"RevFP\.p(\d+)\.", name)
        if found:  # their levels are named as the backbone's, from 3
            name = f"pyramid.nodes.{int(found[1]) - 3}.{name[found.end() :]}"
        renamed[name] = value
    return renamed


@register_neck
def rcnet(
    in_channels: Sequence[int],
    out_channels: int = 256,
    num_outs: int = 5,
    norm_layer: str | None = "batchnorm",
) -> RCFPN:
    """RCNet's neck as its authors train it: deformable fusions."""
    return RCFPN(in_channels, out_channels, num_outs, norm_layer)


@register_neck
def rcnet_plain(
    in_channels: Sequence[int],
    out_channels: int = 256,
    num_outs: int = 5,
    norm_layer: str | None = "batchnorm",
) -> RCFPN:
    """RCNet's neck with ordinary 3 x 3 convolutions."""
    return RCFPN(in_channels, out_channels, num_outs, norm_layer, deformable=False)


@register_neck
def revfp(
    in_channels: Sequence[int],
    out_channels: int = 256,
    num_outs: int = 5,
    norm_layer: str | None = "batchnorm",
) -> RevFP:
    """RCNet's pyramid without the cross-scale shift."""
    return RevFP(in_channels, out_channels, num_outs, norm_layer)


@register_neck
def revfp_plain(
    in_channels: Sequence[int],
    out_channels: int = 256,
    num_outs: int = 5,
    norm_layer: str | None = "batchnorm",
) -> RevFP:
    """RCNet's pyramid without the cross-scale shift and with ordinary 3 x 3 convolutions."""
    return RevFP(in_channels, out_channels, num_outs, norm_layer, deformable=False)
