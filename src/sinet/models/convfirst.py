"""ConvFirst: the spatial convolution first, so that a whole residual block fits one kernel.

"On the Efficiency of Convolutional Neural Networks", arXiv 2404.03617. Origin: andravin/spio
(Apache-2.0), which holds the blocks but not the article's network; its layer table could not be
read. The blocks here are those of spio; the networks `convfirst_n` to `_b` are ours: a stem, four
stages whose first block has stride 2, a wide last convolution. `convfirst_mbconv_*` are the same
networks of inverted bottlenecks (MBConv without squeeze-excite), which convolve in the middle.
The author's own whole networks are ConvNeXt with grouped instead of depthwise convolutions, see
`grouped_convnext`.

A group of eight channels fills the matrix units of a GPU; with the convolution first and narrow, a
fused kernel recomputes nothing at the borders of its tiles.

No accuracy is published for any network that can be rebuilt. Parameters / multiply-adds at 224 px:
convfirst_n 3.20 M / 319 M, _t 7.53 M / 1.01 G, _s 13.8 M / 2.16 G, _b 31.1 M / 5.16 G.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers import ClassifierHead, DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.layers import ConvNorm
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["ConvFirst", "ConvFirstBlock", "ConvFirstStack", "MBConvBlock", "grouped_convnext"]


class _Residual(nn.Module, ABC):
    """What the blocks share: the shortcut wherever shapes allow it."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.shortcut = stride == 1 and in_chs == out_chs
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.act = nn.SiLU(inplace=True)

    @abstractmethod
    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """What is added to the shortcut."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The branch, added to the input where shapes allow it."""
        y: torch.Tensor = self.branch(x)
        # without a shortcut there is no way around the block
        return x + self.drop_path(y) if self.shortcut else y


class MlpBlock(_Residual):
    """`x + project(silu(expand(x)))`, pointwise.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H, W)
    """

    def __init__(
        self, in_chs: int, out_chs: int, expansion: int = 4, drop_path: float = 0.0
    ) -> None:
        super().__init__(in_chs, out_chs, 1, drop_path)
        self.expand = ConvNorm(in_chs, in_chs * expansion)
        self.project = ConvNorm(in_chs * expansion, out_chs)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Widen and narrow again."""
        return self.project(self.act(self.expand(x)))  # type: ignore[no-any-return]


class ConvFirstBlock(_Residual):
    """`x + project(silu(expand(conv(x))))`, the k x k convolution grouped, first and narrow.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 3,
        stride: int = 1,
        group_size: int = 8,
        expansion: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(in_chs, out_chs, stride, drop_path)
        groups = in_chs // group_size
        self.conv = ConvNorm(in_chs, in_chs, kernel_size, stride, groups)
        self.expand = ConvNorm(in_chs, in_chs * expansion)
        self.project = ConvNorm(in_chs * expansion, out_chs)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions in groups, then channels."""
        return self.project(self.act(self.expand(self.conv(x))))  # type: ignore[no-any-return]


class MBConvBlock(_Residual):
    """`x + project(silu(conv(silu(expand(x)))))`, the k x k convolution in the wide middle.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 3,
        stride: int = 1,
        group_size: int = 8,
        expansion: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(in_chs, out_chs, stride, drop_path)
        hidden = in_chs * expansion
        self.expand = ConvNorm(in_chs, hidden)
        self.conv = ConvNorm(hidden, hidden, kernel_size, stride, hidden // group_size)
        self.project = ConvNorm(hidden, out_chs)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Widen, mix positions in groups, narrow again."""
        x = self.act(self.conv(self.act(self.expand(x))))
        return self.project(x)  # type: ignore[no-any-return]


class ConvFirstStack(nn.Module):
    """Blocks between pointwise ones, then the mean: what spio times.

    Shape: (B, dim, H, W) -> (B, dim, 1, 1)
    """

    def __init__(
        self,
        dim: int = 64,
        depth: int = 16,
        extra_depth: int = 1,
        kernel_size: int = 3,
        group_size: int = 8,
        expansion: int = 4,
        block: type[ConvFirstBlock | MBConvBlock] = MBConvBlock,
    ) -> None:
        """Build the stack.

        Args:
            dim: channels throughout.
            depth: blocks.
            extra_depth: pointwise blocks around them, the larger half before.
            kernel_size: of the blocks.
            group_size: channels a group.
            expansion: hidden width in units of `dim`.
            block: ConvFirstBlock or MBConvBlock.
        """
        super().__init__()
        after = extra_depth // 2
        before = extra_depth - after
        self.pre = nn.Sequential(*(MlpBlock(dim, dim, expansion) for _ in range(before)))
        options = (dim, dim, kernel_size, 1, group_size, expansion)
        self.blocks = nn.Sequential(*(block(*options) for _ in range(depth)))
        self.post = nn.Sequential(*(MlpBlock(dim, dim, expansion) for _ in range(after)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All blocks in a row, then the mean over positions."""
        return self.post(self.blocks(self.pre(x))).mean((2, 3), keepdim=True)  # type: ignore[no-any-return]


class ConvFirst(StagedNet):
    """The network: stem, four stages of blocks, a wide convolution, linear head.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        block: type[ConvFirstBlock | MBConvBlock] = ConvFirstBlock,
        stem_width: int = 32,
        head_width: int = 1280,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            dims: channels of each stage, multiples of 8.
            depths: blocks of each stage; the first halves the map and changes the width.
            block: ConvFirstBlock, or MBConvBlock for the twin.
            stem_width: channels after the stem.
            head_width: channels of the last convolution.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        stem = ConvNorm(in_chans, stem_width, 3, 2)
        self.stem = nn.Sequential(stem, nn.SiLU(inplace=True))
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        width, stages = stem_width, []
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(width, dim, stride=1 if j else 2, drop_path=rates[i][j]))
                width = dim
            stages.append(nn.Sequential(*blocks))
            info = {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        self.final = nn.Sequential(ConvNorm(width, head_width), nn.SiLU(inplace=True))
        self.set_head(head_width, ClassifierHead(head_width, num_classes, global_pool, drop_rate))

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates."""
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^final", (99999,))]}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last map of `num_features` channels."""
        return self.final(super().forward_features(x))  # type: ignore[no-any-return]


def grouped_convnext(
    name: str = "convnext_tiny", group_size: int = 8, kernel_sizes: int = 7, **kwargs: Any
) -> nn.Module:
    """Build ConvNeXt of timm with grouped instead of depthwise convolutions.

    Args:
        name: any convnext of timm's.
        group_size: channels a group.
        kernel_sizes: of all blocks.
        kwargs: for timm.
    """
    model: nn.Module = timm.create_model(name, kernel_sizes=kernel_sizes, **kwargs)
    for module in model.modules():
        if isinstance(conv := getattr(module, "conv_dw", None), nn.Conv2d):
            channels, side = conv.in_channels, conv.kernel_size[0]
            groups = channels // group_size
            grouped = nn.Conv2d(channels, channels, side, padding=side // 2, groups=groups)
            nn.init.trunc_normal_(grouped.weight, std=0.02)  # as timm starts the others
            nn.init.zeros_(grouped.bias)  # type: ignore[arg-type]
            module.conv_dw = grouped
    return model


_NUMBERED = {  # modules of a block in spio's order -> ours; the keys tell the kinds apart
    (0, 1, 3, 4): ("expand.conv", "expand.bn", "project.conv", "project.bn"),
    (0, 1, 2, 3, 5, 6): (
        "conv.conv", "conv.bn", "expand.conv", "expand.bn", "project.conv", "project.bn",
    ),
    (0, 1, 3, 4, 6, 7): (
        "expand.conv", "expand.bn", "conv.conv", "conv.bn", "project.conv", "project.bn",
    ),
}  # fmt: skip


def convert(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Numbering of a block's layers in spio (`blocks.0.layers.2.weight`) -> ours."""
    numbers: dict[str, set[int]] = {}
    for name in state_dict:
        block, found, rest = name.rpartition("layers.")
        if found:
            numbers.setdefault(block, set()).add(int(rest.split(".")[0]))
    converted = {}
    for name, value in state_dict.items():
        block, found, rest = name.rpartition("layers.")
        if found:
            number, leaf = rest.split(".")
            order = tuple(sorted(numbers[block]))
            name = f"{block}{_NUMBERED[order][order.index(int(number))]}.{leaf}"
        converted[name] = value
    return converted


_SIZES: dict[str, dict[str, Any]] = {
    "test": {"dims": (16, 24, 32, 48), "depths": (1, 1, 2, 1), "stem_width": 16, "head_width": 64},
    "n": {"dims": (32, 64, 128, 256), "depths": (2, 2, 6, 2)},
    "t": {"dims": (64, 96, 192, 384), "depths": (2, 3, 9, 3)},
    "s": {"dims": (64, 128, 256, 512), "depths": (3, 4, 12, 3)},
    "b": {"dims": (96, 192, 384, 768), "depths": (3, 4, 14, 3)},
}
_VARIANTS: dict[str, dict[str, Any]] = {
    **{f"convfirst_{size}": numbers for size, numbers in _SIZES.items()},
    **{
        f"convfirst_mbconv_{size}": {**numbers, "block": MBConvBlock}
        for size, numbers in _SIZES.items()
        if size != "test"
    },
}
default_cfgs = generate_default_cfgs({name: default_cfg() for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(ConvFirst, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def convfirst_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.1 M parameters."""
    return _create("convfirst_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convfirst_n(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """3.2 M parameters."""
    return _create("convfirst_n", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convfirst_t(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """7.5 M parameters."""
    return _create("convfirst_t", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convfirst_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """13.8 M parameters."""
    return _create("convfirst_s", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convfirst_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """31.1 M parameters."""
    return _create("convfirst_b", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convfirst_mbconv_n(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The twin of `convfirst_n` with the convolution in the wide middle."""
    return _create("convfirst_mbconv_n", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convfirst_mbconv_t(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The twin of `convfirst_t` with the convolution in the wide middle."""
    return _create("convfirst_mbconv_t", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convfirst_mbconv_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The twin of `convfirst_s` with the convolution in the wide middle."""
    return _create("convfirst_mbconv_s", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convfirst_mbconv_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The twin of `convfirst_b` with the convolution in the wide middle."""
    return _create("convfirst_mbconv_b", pretrained, **kwargs)
