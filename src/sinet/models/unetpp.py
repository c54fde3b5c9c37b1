"""UNet++: Redesigning Skip Connections to Exploit Multiscale Features in Image Segmentation.

Zhou et al., IEEE TMI 2020, arXiv 1912.05074; first as a workshop paper, arXiv 1807.10165. Origin:
https://github.com/MrGiovanni/UNetPlusPlus (academic, non-commercial), nothing of which was read:
written from the paper and from recorded outputs. A grid of nodes, i the resolution, j the column:

    X(i, 0) = H(down(X(i-1, 0)));   X(i, j) = H([X(i, 0), ..., X(i, j-1), up(X(i+1, j-1))])

H is two 3x3 convolutions; the nodes X(0, 1) ... X(0, 4) carry the outputs L1 ... L4. Trained on all
of them ("deep supervision") the network can be cut to any of them: `prune(depth)`.

The implementations in use differ in norm, activation, up- and down-sampling and the order of the
concatenation; each is a variant here, and the weights of each load under their own names:

    unetpp          the authors' Keras network: no norm, dropout 0.5, transposed convolutions
    unetpp_bn       4uiiurz1/pytorch-nested-unet (MIT): batch norm, bilinear
    unetpp_nnunet*  the authors' nnU-Net tree: instance norm, strided convolutions, six levels
    unetpp_monai*   MONAI's BasicUNetPlusPlus (Apache-2.0): instance norm, max pooling

All run in two or three dimensions and on any size: where a halved side was odd, the map on its way
up is continued by its last row (as MONAI does) or cut. The authors' networks take multiples of 16.

Reported (96 px, 1 channel, 1 class): L1 0.1 M, L2 0.5 M, L3 2.2 M, L4 9.0 M parameters; L3 saves
32% of the time of L4 and loses 0.6 points of IoU.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.models._networks import register_for

__all__ = ["UNetPP"]

Size = int | tuple[int, ...]

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}
_NORM: dict[tuple[str, int], type[nn.Module]] = {
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
}


class ConvUnit(nn.Sequential):
    """Half of H: convolution, norm, (leaky) ReLU, dropout; norm and dropout where asked for.

    Shape: (B, in_chs, *sides) -> (B, out_chs, *ceil(sides / stride))
    """

    def __init__(
        self,
        dims: int,
        in_chs: int,
        out_chs: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        norm: str | None,
        negative_slope: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        padding = tuple(k // 2 for k in kernel_size)
        self.conv = _CONV[dims](in_chs, out_chs, kernel_size, stride, padding)
        if norm == "batch":
            self.norm: nn.Module = _NORM[norm, dims](out_chs)
        elif norm == "instance":
            self.norm = _NORM[norm, dims](out_chs, affine=True)
        self.act = nn.LeakyReLU(negative_slope, True) if negative_slope else nn.ReLU(True)
        if drop_rate:
            self.drop = nn.Dropout(drop_rate)


class Node(nn.Sequential):
    """H: two units, the first of which may have a stride.

    Shape: (B, in_chs, *sides) -> (B, out_chs, *ceil(sides / stride))
    """

    def __init__(
        self,
        dims: int,
        in_chs: int,
        out_chs: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...] | None = None,
        **unit: Any,
    ) -> None:
        still = (1,) * dims
        super().__init__(
            ConvUnit(dims, in_chs, out_chs, kernel_size, stride or still, **unit),
            ConvUnit(dims, out_chs, out_chs, kernel_size, still, **unit),
        )


class UNetPP(nn.Module):
    """The grid of nodes, its up-samplings and its heads.

    With deep supervision and in training mode it returns a list, the outputs L1 ... L`depth`, all
    at the input's size; else one tensor, the output of the deepest head (see `average`).

    Shape: (B, in_chans, [D,] H, W) -> (B, num_classes, [D,] H, W), logits
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        dims: int = 2,
        depth: int | None = None,
        norm: str | None = None,
        negative_slope: float = 0.0,
        pool: bool = True,
        kernel_sizes: Size | Sequence[Size] = 3,
        decoder_kernel_sizes: Size | Sequence[Size] | None = None,
        strides: Size | Sequence[Size] = 2,
        up_widths: Sequence[int] | None = None,
        up_bias: bool = True,
        up_first: bool = False,
        last_width: int | None = None,
        head_bias: bool = True,
        deep_supervision: bool = True,
        average: bool = False,
        drop_rate: float = 0.0,
        num_classes: int = 1,
        in_chans: int = 1,
    ) -> None:
        """Build the network.

        Args:
            widths: channels of the nodes of each level, finest first.
            dims: 2 for images, 3 for volumes.
            depth: columns after the first: the d of L1, L2, ...; None for all that `widths` allow.
            norm: "batch", "instance" or None.
            negative_slope: of the activation; 0 is ReLU.
            pool: go down by max pooling; else by the stride of a level's first convolution.
            kernel_sizes: of the convolutions, for all levels or for each; a number or one an axis.
            decoder_kernel_sizes: the same for columns 1 and up; None: as `kernel_sizes`.
            strides: from each level to the next, given likewise (one fewer than levels).
            up_widths: channels that the transposed convolution into each level gives, one fewer
                than levels; () goes up by linear interpolation with aligned corners instead, which
                keeps the channels; None: those of the level.
            up_bias: transposed convolutions have a bias.
            up_first: the map from below stands first in the concatenation, else last.
            last_width: channels of the last node of the full depth; None: as the level's others.
            head_bias: the 1x1 convolutions to the classes have a bias.
            deep_supervision: a head on each of the nodes X(0, 1) ... X(0, depth), else on the last.
            average: in evaluation, logits of the heads' mean probability (the paper's "accurate
                mode") and not the deepest head's ("fast mode"); needs deep supervision.
            drop_rate: dropout after every convolution.
            num_classes: outputs a position.
            in_chans: input channels.

        Raises:
            UsageError: the depth is not one that the levels allow.
        """
        super().__init__()
        levels = len(widths)
        depth = levels - 1 if depth is None else depth
        _check_depth(depth, levels - 1)
        if average and not deep_supervision:
            raise UsageError("the mean of the heads needs deep_supervision=True")
        self.dims, self.depth, self.up_first = dims, depth, up_first
        self.deep_supervision, self.average = deep_supervision, average
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.pooled, self.norm = pool, norm
        self.strides = _each(strides, levels - 1, dims)
        encoder = _each(kernel_sizes, levels, dims)
        decoder = _each(decoder_kernel_sizes or kernel_sizes, levels, dims)
        node = partial(Node, dims, norm=norm, negative_slope=negative_slope, drop_rate=drop_rate)
        outs = {(i, j): widths[i] for i, j in _grid(depth)}
        if depth == levels - 1:
            outs[0, depth] = last_width or widths[0]

        self.downs = nn.ModuleList(
            _POOL[dims](step, step) if pool else nn.Identity() for step in self.strides[:depth]
        )
        self.nodes, self.ups, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for i in range(depth + 1):
            in_chs = widths[i - 1] if i else in_chans
            stride = self.strides[i - 1] if i and not pool else (1,) * dims
            self.nodes[f"{i}_0"] = node(in_chs, outs[i, 0], encoder[i], stride)
        linear = up_widths == ()
        ups = list(widths[1:] if linear else up_widths or widths[:-1])
        for i, j in _inner(depth):
            self.nodes[f"{i}_{j}"] = node(j * widths[i] + ups[i], outs[i, j], decoder[i])
            if not linear:
                step = self.strides[i]
                up = _TRANSPOSED[dims](widths[i + 1], ups[i], step, step, bias=up_bias)
                self.ups[f"{i}_{j}"] = up
        for j in range(1 if deep_supervision else depth, depth + 1):
            self.heads[str(j)] = _CONV[dims](outs[0, j], num_classes, 1, bias=head_bias)
        self.pretrained_cfg = {  # so that weights for other channels or classes can start it
            "first_conv": "nodes.0_0.0.conv",
            "classifier": tuple(f"heads.{d}" for d in self.heads),
        }
        self._init_weights(negative_slope)

    def _init_weights(self, negative_slope: float) -> None:
        """He et al.'s start; a position after a transposed convolution sums over channels only."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, negative_slope)
            elif isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
                nn.init.normal_(module.weight, 0.0, module.in_channels**-0.5)
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def prune(self, depth: int) -> UNetPP:
        """The network L`depth` alone: every node that its output does not need is gone.

        Its output is this network's head of that depth, bit for bit; nothing is trained again.

        Args:
            depth: 1 up to the network's own depth.

        Returns:
            A copy with one head, in this network's mode.

        Raises:
            UsageError: there is no trained head at that depth.
        """
        if not self.deep_supervision:
            raise UsageError(
                f"only the head at depth {self.depth} was trained; train with "
                "deep_supervision=True to prune to any depth"
            )
        _check_depth(depth, self.depth)
        pruned = copy.deepcopy(self)
        kept = {f"{i}_{j}" for i, j in _grid(depth)}
        for modules, names in (
            (pruned.nodes, kept),
            (pruned.ups, kept),
            (pruned.heads, {str(depth)}),
        ):
            for name in modules.keys() - names:
                del modules[name]
        pruned.downs = pruned.downs[:depth]
        pruned.depth, pruned.deep_supervision, pruned.average = depth, False, False
        pruned.pretrained_cfg = {**self.pretrained_cfg, "classifier": (f"heads.{depth}",)}
        return pruned

    def forward_features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps X(0, 1) ... X(0, depth), each (B, C, *sides of x)."""
        self._check_size(x)
        maps: dict[tuple[int, int], torch.Tensor] = {}
        for i, j in _grid(self.depth):
            if j:
                skips = [maps[i, k] for k in range(j)]
                up = self._up(maps[i + 1, j - 1], skips[0], f"{i}_{j}")
                joined = torch.cat([up, *skips] if self.up_first else [*skips, up], 1)
            else:
                joined = self.downs[i - 1](maps[i - 1, 0]) if i else x
            maps[i, j] = self.nodes[f"{i}_{j}"](joined)
        return [maps[0, j] for j in range(1, self.depth + 1)]

    def forward_heads(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Logits of every head there is, shallowest first, from `forward_features`."""
        return [head(maps[int(d) - 1]) for d, head in self.heads.items()]

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits; the list of all heads' while training with deep supervision."""
        maps = self.forward_features(x)
        if self.deep_supervision and self.training:
            return self.forward_heads(maps)
        if self.average:
            return _mean_prediction(self.forward_heads(maps))
        logits: torch.Tensor = self.heads[str(self.depth)](maps[-1])
        return logits

    def _up(self, x: torch.Tensor, like: torch.Tensor, name: str) -> torch.Tensor:
        """A map of the level below at this level's size."""
        if name not in self.ups:
            size = like.shape[2:]
            return F.interpolate(x, size, mode=_LINEAR[self.dims], align_corners=True)
        x = self.ups[name](x)
        if x.shape[2:] == like.shape[2:]:
            return x
        pad: list[int] = []
        for have, want in zip(x.shape[:1:-1], like.shape[:1:-1], strict=True):
            pad += [0, max(want - have, 0)]
        x = F.pad(x, pad, mode="replicate")
        for axis, want in enumerate(like.shape[2:], start=2):
            x = x.narrow(axis, 0, want)
        return x

    def _check_size(self, x: torch.Tensor) -> None:
        """Refuse what would leave nothing, or nothing that can be normalized, at the bottom."""
        sides = tuple(x.shape[2:])
        if len(sides) != self.dims:
            what = "images (B, C, H, W)" if self.dims == 2 else "volumes (B, C, D, H, W)"
            raise UsageError(f"this UNet++ takes {what}, got a tensor of {x.ndim} dimensions")
        least, wider = [1] * self.dims, [1] * self.dims
        for axis in range(self.dims):
            step = 1
            for stride in self.strides[: self.depth]:
                step *= stride[axis]
            least[axis], wider[axis] = (step, 2 * step) if self.pooled else (1, step + 1)
        small = any(side < low for side, low in zip(sides, least, strict=True))
        lone = all(side < high for side, high in zip(sides, wider, strict=True))
        if small or (lone and self.norm == "instance"):
            need = f"sides of at least {_times(least)}"
            if self.norm == "instance":
                need += f", one of them as long as in {_times(wider)}"
            raise UsageError(
                f"{_times(sides)} is too small for UNet++ of depth {self.depth}: it needs {need}; "
                "give larger inputs or a smaller depth"
            )


def _grid(depth: int) -> list[tuple[int, int]]:
    """The nodes (i, j) that depth needs, each after those that it reads."""
    return [(total - j, j) for total in range(depth + 1) for j in range(total + 1)]


def _inner(depth: int) -> list[tuple[int, int]]:
    """The nodes after the encoder's, column 0."""
    return [(i, j) for i, j in _grid(depth) if j]


def _times(sides: Sequence[int]) -> str:
    return "x".join(str(int(side)) for side in sides)


def _check_depth(depth: int, deepest: int) -> None:
    if not 1 <= depth <= deepest:
        raise UsageError(f"depth {depth}: this UNet++ has the depths 1 to {deepest}")


def _each(size: Size | Sequence[Size], levels: int, dims: int) -> list[tuple[int, ...]]:
    """One tuple of `dims` numbers a level."""
    sizes = [size] * levels if isinstance(size, int) else list(size)
    if len(sizes) != levels:
        raise UsageError(f"{len(sizes)} sizes {tuple(sizes)} given for {levels} levels")
    return [(s,) * dims if isinstance(s, int) else tuple(s) for s in sizes]


def _mean_prediction(logits: list[torch.Tensor]) -> torch.Tensor:
    """Logits whose sigmoid (one class) or softmax (several) is the mean of the heads'."""
    stacked = torch.stack(logits)
    if stacked.shape[2] == 1:
        yes, no = (F.logsigmoid(z).logsumexp(0) for z in (stacked, -stacked))
        return yes - no
    return stacked.log_softmax(2).logsumexp(0)


Rename = Callable[[re.Match[str]], str]


def _renames(pools: int, last: str) -> list[tuple[str, Rename]]:
    """Patterns of the four namings that are in use, with what becomes of each."""

    def nested(m: re.Match[str]) -> str:
        """nnU-Net's tree counts the nested U-Nets from the deepest, each from its bottom."""
        return f"{pools - 1 - int(m[1]) - int(m[2])}_{int(m[2]) + 1}"

    def part(name: str) -> str:
        return "conv" if name == "conv" else "norm"

    return [
        # Keras, counted from 1: conv12_1, up12, output_1
        (
            r"conv(\d)(\d)_(\d)\.",
            lambda m: f"nodes.{_less(m[1])}_{_less(m[2])}.{_less(m[3])}.conv.",
        ),
        (r"up(\d)(\d)\.", lambda m: f"ups.{_less(m[1])}_{_less(m[2])}."),
        (r"output_(\d)\.", lambda m: f"heads.{m[1]}."),
        # pytorch-nested-unet: conv0_1.conv1, conv0_1.bn1, final1 (final without supervision)
        (
            r"conv(\d)_(\d)\.(conv|bn)(\d)\.",
            lambda m: f"nodes.{m[1]}_{m[2]}.{_less(m[4])}.{part(m[3])}.",
        ),
        (r"final(\d?)\.", lambda m: f"heads.{m[1] or last}."),
        # MONAI: conv_1_0.convs.conv_0.adn.N, upcat_0_1.upsample.deconv, final_conv_0_1
        (
            r"(?:conv|upcat)_(\d)_(\d)\.(?:convs\.)?conv_(\d)\.(conv|adn\.N)\.",
            lambda m: f"nodes.{m[1]}_{m[2]}.{m[3]}.{part(m[4])}.",
        ),
        (r"upcat_(\d)_(\d)\.upsample\.deconv\.", lambda m: f"ups.{m[1]}_{m[2]}."),
        (r"final_conv_0_(\d)\.", lambda m: f"heads.{m[1]}."),
        # nnU-Net: loc0.1.0.blocks.0.instnorm, conv_blocks_context.5.0.blocks.0, up0.1, seg_outputs
        (
            r"loc(\d)\.(\d)\.(\d)\.blocks\.0\.(conv|instnorm)\.",
            lambda m: f"nodes.{nested(m)}.{m[3]}.{part(m[4])}.",
        ),
        (
            r"conv_blocks_context\.(\d)\.blocks\.(\d)\.(conv|instnorm)\.",
            lambda m: f"nodes.{m[1]}_0.{m[2]}.{part(m[3])}.",
        ),
        (
            r"conv_blocks_context\.(\d)\.(\d)\.blocks\.0\.(conv|instnorm)\.",
            lambda m: f"nodes.{m[1]}_0.{m[2]}.{part(m[3])}.",
        ),
        (r"up(\d)\.(\d)\.", lambda m: f"ups.{nested(m)}."),
        (r"seg_outputs\.(\d)\.", lambda m: f"heads.{pools - int(m[1])}."),
    ]


def _less(digit: str) -> int:
    return int(digit) - 1


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of the Keras network (in PyTorch's layout), nested-unet, MONAI, nnU-Net -> ours."""
    nests = [int(m[1]) for name in state_dict if (m := re.match(r"loc(\d)\.", name))]
    columns = [int(m[1]) for name in state_dict if (m := re.match(r"conv0_(\d)\.", name))]
    rules = [
        (re.compile(pattern), rename)
        for pattern, rename in _renames(max(nests, default=-1) + 1, str(max(columns, default=0)))
    ]

    def ours(name: str) -> str:
        for pattern, rename in rules:
            if match := pattern.match(name):
                return rename(match) + name[match.end() :]
        return name

    return {ours(name): value for name, value in state_dict.items()}


_VARIANTS: dict[str, dict[str, Any]] = {
    "unetpp": {"up_first": True, "drop_rate": 0.5},
    "unetpp_bn": {"norm": "batch", "up_widths": (), "in_chans": 3},
    "unetpp_nnunet": {
        "widths": (32, 64, 128, 256, 480, 480), "norm": "instance", "negative_slope": 0.01,
        "pool": False, "up_bias": False, "head_bias": False, "num_classes": 2,
    },
    "unetpp_nnunet_3d": {
        "widths": (32, 64, 128, 256, 320, 320), "dims": 3, "norm": "instance",
        "negative_slope": 0.01, "pool": False, "up_bias": False, "head_bias": False,
        "num_classes": 2,
    },
    "unetpp_monai": {
        "up_widths": (64, 64, 128, 256), "norm": "instance", "negative_slope": 0.1,
        "num_classes": 2,
    },
    "unetpp_monai_3d": {
        "widths": (32, 32, 64, 128, 256), "up_widths": (32, 32, 64, 128), "dims": 3,
        "norm": "instance", "negative_slope": 0.1, "num_classes": 2,
    },
    "unetpp_test": {"widths": (8, 12, 16, 24, 32), "norm": "batch", "up_widths": (), "in_chans": 3},
    "unetpp_test_3d": {
        "widths": (4, 8, 12, 16), "dims": 3, "norm": "instance", "negative_slope": 0.01,
        "pool": False, "up_bias": False, "head_bias": False, "num_classes": 2,
    },
}  # fmt: skip


def _create(variant: str, **kwargs: Any) -> UNetPP:
    return UNetPP(**{**_VARIANTS[variant], **kwargs})


@register_for("segment")
def unetpp(**kwargs: Any) -> nn.Module:
    """The paper's network (Keras): no norm, transposed convolutions, 9.0 M parameters."""
    return _create("unetpp", **kwargs)


@register_for("segment")
def unetpp_bn(**kwargs: Any) -> nn.Module:
    """With batch norm and bilinear up-sampling (pytorch-nested-unet), 9.2 M parameters."""
    return _create("unetpp_bn", **kwargs)


@register_for("segment")
def unetpp_nnunet(**kwargs: Any) -> nn.Module:
    """In nnU-Net's style, 2D: six levels, strided convolutions, 24.0 M parameters."""
    return _create("unetpp_nnunet", **kwargs)


@register_for("volume")
def unetpp_nnunet_3d(**kwargs: Any) -> nn.Module:
    """In nnU-Net's style, 3D, 46.0 M parameters; `kernel_sizes`, `strides` for thick slices."""
    return _create("unetpp_nnunet_3d", **kwargs)


@register_for("segment")
def unetpp_monai(**kwargs: Any) -> nn.Module:
    """As MONAI builds it in 2D with widths 32 to 512, 9.1 M parameters."""
    return _create("unetpp_monai", **kwargs)


@register_for("volume")
def unetpp_monai_3d(**kwargs: Any) -> nn.Module:
    """As MONAI builds it in 3D by default, 7.0 M parameters."""
    return _create("unetpp_monai_3d", **kwargs)


@register_for("segment")
def unetpp_test(**kwargs: Any) -> nn.Module:
    """For tests: under 0.1 M parameters, in the style of `unetpp_bn`."""
    return _create("unetpp_test", **kwargs)


@register_for("volume")
def unetpp_test_3d(**kwargs: Any) -> nn.Module:
    """For tests: under 0.1 M parameters, in the style of `unetpp_nnunet_3d`."""
    return _create("unetpp_test_3d", **kwargs)
