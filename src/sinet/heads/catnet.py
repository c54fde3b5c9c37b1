"""CATNet's pyramid, context blocks and RoI extractor, for any backbone and detector.

Learning to Aggregate Multi-Scale Context for Instance Segmentation in Remote Sensing Images,
arXiv:2111.11057, IEEE TNNLS 2024. Origin: github.com/yeliudev/CATNet (GPL-3.0; only facts of it
are used, this is an independent implementation). Reported: CAT Mask R-CNN with ResNet-50, box AP
45.1 and mask AP 37.2 on iSAID val. At 256 channels on C2..C5: DenseFPN 12,276,242 parameters with 5
stages (3,715,602 with one), SCP 660,490, each HRoIE 525,312; the neck 194 GMACs at 1024 x 1024.

What differs: the norm is plain BatchNorm unless `torch.nn.SyncBatchNorm.convert_sync_batchnorm` is
called; SCP maps its weighted mean instead of every position, which is the same function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign, roi_align

from sinet.errors import UsageError
from sinet.heads._base import GlobalContext, Neck, conv_norm, max_pool_to, resize
from sinet.heads._necks import register_neck


class Bottleneck(nn.Sequential):
    """ReLU, then 1 x 1, 3 x 3 and 1 x 1 convolutions at half the width; no residual.

    Shape: (B, width, H, W) -> (B, width, H, W)
    """

    def __init__(self, width: int, norm_layer: str | None) -> None:
        half = width // 2
        super().__init__(
            nn.ReLU(),
            conv_norm(width, half, norm_layer=norm_layer),
            conv_norm(half, half, 3, norm_layer=norm_layer),
            conv_norm(half, width, norm_layer=norm_layer),
        )


def _weighted(maps: Sequence[torch.Tensor], logits: torch.Tensor | None) -> torch.Tensor:
    """Sum of maps, weighted by the softmax of the logits; a single map counts fully."""
    if logits is None:
        return maps[0]
    weights = logits.softmax(0)
    return torch.stack([w * x for w, x in zip(weights.unbind(), maps, strict=True)]).sum(0)


class DenseStage(nn.Module):
    """Every level hears all coarser inputs, then all finer results.

    t_i = B_i(l_i + sum_{j > i} a_ij up(l_j)); b_i = B'_i(l_i + t_i + sum_{j < i} c_ij pool(t_j)),
    where a and c are softmaxes, up is bilinear, pool is adaptive max pooling.

    Shapes: [(B, width, H_i, W_i)] -> the same
    """

    def __init__(self, width: int, levels: int, norm_layer: str | None) -> None:
        super().__init__()
        self.top_down = nn.ModuleList(Bottleneck(width, norm_layer) for _ in range(levels))
        self.bottom_up = nn.ModuleList(Bottleneck(width, norm_layer) for _ in range(levels))

    def forward(
        self,
        maps: Sequence[torch.Tensor],
        top_down: Sequence[torch.Tensor],
        bottom_up: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Both passes.

        Args:
            maps: finest first.
            top_down: logits of the coarser levels, coarsest first, for all levels but the last two.
            bottom_up: logits of the finer levels, finest first, for all levels but the first two.
        """
        down: list[torch.Tensor] = []
        for i, (x, block) in enumerate(zip(maps, self.top_down, strict=True)):
            fused = x
            if coarser := [resize(y, x) for y in reversed(maps[i + 1 :])]:
                fused = x + _weighted(coarser, top_down[i] if len(coarser) > 1 else None)
            down.append(block(fused))
        out: list[torch.Tensor] = []
        for i, (x, block) in enumerate(zip(maps, self.bottom_up, strict=True)):
            fused = x + down[i]
            if finer := [max_pool_to(y, x) for y in down[:i]]:
                fused = fused + _weighted(finer, bottom_up[i - 2] if len(finer) > 1 else None)
            out.append(block(fused))
        return out


class DenseFPN(Neck):
    """Stacked passes over a pyramid with connections between all levels.

    Shapes: [(B, C_i, H_i, W_i)] finest first -> [(B, out_channels, H_i, W_i)], `num_outs` of them
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        stages: int = 5,
        norm_layer: str | None = "batchnorm",
    ) -> None:
        """Build the neck.

        Args:
            in_channels: channels of each map, finest first.
            out_channels: channels of every output.
            num_outs: levels; those beyond the inputs halve the coarsest.
            stages: how often the two passes run; all share the weights between levels.
            norm_layer: any norm of timm's, or None.
        """
        super().__init__(in_channels, out_channels, num_outs)
        self.lateral = nn.ModuleList(
            conv_norm(c, out_channels, norm_layer=norm_layer) for c in self.in_channels
        )
        self.extra = nn.ModuleList(
            conv_norm(out_channels, out_channels, 3, 2, norm_layer)
            for _ in range(num_outs - len(self.in_channels))
        )
        self.stages = nn.ModuleList(
            DenseStage(out_channels, num_outs, norm_layer) for _ in range(stages)
        )
        lengths = range(2, num_outs)
        self.top_down_weights = nn.ParameterList(torch.ones(n) for n in reversed(lengths))
        self.bottom_up_weights = nn.ParameterList(torch.ones(n) for n in lengths)
        _init(self)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Merge the maps; finest first, in and out."""
        self.check(features)
        maps = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        for conv in self.extra:
            maps.append(conv(maps[-1]))
        for stage in self.stages:
            maps = stage(maps, list(self.top_down_weights), list(self.bottom_up_weights))
        return maps


class SpatialContext(nn.Module):
    """Add the image's global context where a gate wants it: x + m(v k) sigmoid(a x).

    Starts as the identity.

    Shape: (B, width, H, W) -> (B, width, H, W)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(width, 1, 1)
        self.context = GlobalContext(width)
        self.merge = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Refine one level."""
        context: torch.Tensor = self.merge(self.context(x))
        gate: torch.Tensor = self.gate(x).sigmoid()
        return x + context * gate


class SCP(nn.Module):
    """Spatial context pyramid: one `SpatialContext` a level, none of which hears another level.

    Shapes: [(B, width, H_i, W_i)] -> the same
    """

    def __init__(self, width: int = 256, levels: int = 5) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SpatialContext(width) for _ in range(levels))
        _init(self)
        for block in self.blocks:
            assert isinstance(block, SpatialContext)
            nn.init.zeros_(block.merge.weight)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Refine every level."""
        return [block(x) for block, x in zip(self.blocks, maps, strict=True)]


class CATNeck(Neck):
    """DenseFPN, then SCP on its result.

    Shapes: [(B, C_i, H_i, W_i)] finest first -> [(B, out_channels, H_i, W_i)], `num_outs` of them
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        stages: int = 5,
        norm_layer: str | None = "batchnorm",
    ) -> None:
        """Build the neck; the arguments are those of `DenseFPN`."""
        super().__init__(in_channels, out_channels, num_outs)
        self.pyramid = DenseFPN(in_channels, out_channels, num_outs, stages, norm_layer)
        self.context = SCP(out_channels, num_outs)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Merge the maps; finest first, in and out."""
        maps: list[torch.Tensor] = self.context(self.pyramid(features))
        return maps


class HRoIE(MultiScaleRoIAlign):  # type: ignore[misc]
    """Crop every region from all levels and add up what gates let through.

    R <- R + O_i sigmoid(W_i [R, O_i]), level after level. Fits wherever torchvision's detectors
    take a `MultiScaleRoIAlign` (`box_roi_pool`, `mask_roi_pool`).

    Shapes: maps {name: (B, channels, H_i, W_i)}, K boxes -> (K, channels, *output_size)
    """

    def __init__(
        self,
        channels: int = 256,
        output_size: int | tuple[int, int] = 7,
        strides: Sequence[int] = (4, 8, 16, 32),
        direction: str = "bottom_up",
        sampling_ratio: int = 0,
    ) -> None:
        """Build the extractor.

        Args:
            channels: of every map.
            output_size: positions of a crop; 7 for boxes, 14 for masks in the paper.
            strides: image pixels per position of the levels used, the first of the pyramid.
            direction: "bottom_up" starts at the finest level (the paper's box head), "top_down"
                at the coarsest (its mask head).
            sampling_ratio: samples a bin and axis; 0 as many as the region has positions.

        Raises:
            UsageError: another direction.
        """
        names = [str(i) for i in range(len(strides))]
        super().__init__(names, output_size, sampling_ratio)
        if direction not in ("bottom_up", "top_down"):
            raise UsageError(f"direction is 'bottom_up' or 'top_down', not {direction!r}")
        self.strides, self.direction = tuple(strides), direction
        self.gates = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for _ in strides)
        _init(self)

    def forward(
        self,
        x: Mapping[str, torch.Tensor] | Sequence[torch.Tensor],
        boxes: torch.Tensor | list[torch.Tensor],
        image_shapes: Sequence[tuple[int, int]] = (),
    ) -> torch.Tensor:
        """Crop the boxes.

        Args:
            x: the pyramid by name ("0" the finest) or as a list; levels beyond `strides` are left.
            boxes: x1, y1, x2, y2 in image pixels, a tensor an image; or one (K, 5) tensor that
                starts with the image's number.
            image_shapes: torchvision gives it; the strides are known here.

        Raises:
            UsageError: fewer levels than strides.
        """
        maps = (
            [x[name] for name in self.featmap_names if name in x] if isinstance(x, Mapping) else x
        )
        maps = list(islice(maps, len(self.strides)))
        if len(maps) < len(self.strides):
            raise UsageError(
                f"HRoIE crops from {len(self.strides)} levels and got {len(maps)}; give the "
                "strides of the levels there are"
            )
        order = range(len(maps))
        region: torch.Tensor | None = None
        for i in order if self.direction == "bottom_up" else reversed(order):
            crop = roi_align(
                maps[i], boxes, self.output_size, 1 / self.strides[i], self.sampling_ratio, True
            )
            region = torch.zeros_like(crop) if region is None else region
            gate = self.gates[i](torch.cat([region, crop], 1)).sigmoid()
            region = region + crop * gate
        assert region is not None
        return region


def _init(module: nn.Module) -> None:
    """Uniform by fan-in, as in Caffe2, and no bias."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_uniform_(part.weight, a=1)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


_RENAMED = (
    (r"^0\.(?=lateral_convs|extra_convs|stages|top_down_atts|bottom_up_atts)", "pyramid."),
    (r"^1\.(?=blocks)", "context."),
    (r"\blateral_convs\.", "lateral."),
    (r"\bextra_convs\.", "extra."),
    (r"\b(top_down|bottom_up)_atts\.", r"\1_weights."),
    (r"\b(blocks\.\d+)\.a\.conv\.", r"\1.gate."),
    (r"\b(blocks\.\d+)\.k\.conv\.", r"\1.context.key."),
    (r"\b(blocks\.\d+)\.v\.conv\.", r"\1.context.value."),
    (r"\b(blocks\.\d+)\.m\.conv\.", r"\1.merge."),
    (r"^atts\.(\d+)\.conv\.", r"gates.\1."),
    (r"\.gn\.", ".bn."),
)
_BLOCK = re.compile(r"\bstages\.(\d+)\.(\d+)\.(\d+)\.")


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' names of DenseFPN, SCP, both in a row or HRoIE -> ours; ours stay."""
    blocks = [int(found[2]) for name in state_dict if (found := _BLOCK.search(name))]
    levels = (max(blocks, default=0) + 1) // 2

    def place(found: re.Match[str]) -> str:
        stage, block, conv = map(int, found.groups())
        way = "top_down" if block < levels else "bottom_up"
        return f"stages.{stage}.{way}.{block % levels}.{conv + 1}."

    renamed = {}
    for name, value in state_dict.items():
        for pattern, ours in _RENAMED:
            name = re.sub(pattern, ours, name)
        renamed[_BLOCK.sub(place, name)] = value
    return renamed


@register_neck
def dense_fpn(
    in_channels: Sequence[int],
    out_channels: int = 256,
    num_outs: int = 5,
    stages: int = 5,
    norm_layer: str | None = "batchnorm",
) -> DenseFPN:
    """CATNet's pyramid without its context blocks."""
    return DenseFPN(in_channels, out_channels, num_outs, stages, norm_layer)


@register_neck
def catnet(
    in_channels: Sequence[int],
    out_channels: int = 256,
    num_outs: int = 5,
    stages: int = 5,
    norm_layer: str | None = "batchnorm",
) -> CATNeck:
    """CATNet's neck: DenseFPN and the spatial context pyramid."""
    return CATNeck(in_channels, out_channels, num_outs, stages, norm_layer)
