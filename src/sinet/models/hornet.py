"""HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions.

Rao et al., NeurIPS 2022, arXiv 2207.14284. Origin: https://github.com/raoyongming/HorNet (MIT),
written anew here; the authors' weights load. ConvNeXt's layout with gnConv in the place of the
depthwise convolution: one block is

    x = x + ls1(gnConv(norm1(x)));  x = x + ls2(mlp(norm2(x)))

with orders 2, 3, 4, 5 in the four stages. The `_gf` variants mix positions by a global filter in
the last two stages; it takes any image size (see `sinet.layers.gn_conv`) and exports to ONNX.
Where the authors force single precision for the FFT, double precision stays double.

Reported, ImageNet-1K 224 px, 7x7 / GF: tiny 22 / 23 M, 4.0 G, 82.8 / 83.0; small 50 M, 8.8 / 8.7
G, 83.8 / 84.0; base 87 / 88 M, 15.6 / 15.5 G, 84.2 / 84.3; large 34.8 / 34.7 G (ImageNet-22K; its
194.5 / 196.3 M are counted here). FLOPs there are multiply-adds; neither theirs nor ours count the
FFT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import (
    DropPath,
    LayerNorm2d,
    LayerScale,
    LayerScale2d,
    Mlp,
    NormMlpClassifierHead,
    calculate_drop_path_rates,
)
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.layers.gn_conv import GnConv
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["HorNet"]

_NORM = partial(LayerNorm2d, eps=1e-6)


class Block(nn.Module):
    """Mix positions to a high order, then channels.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self,
        dim: int,
        order: int,
        filter_size: tuple[int, int] | None,
        drop_path: float,
        layer_scale: float,
    ) -> None:
        super().__init__()
        self.norm1 = _NORM(dim)
        self.gnconv = GnConv(dim, order, filter_size)
        self.ls1 = LayerScale2d(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)
        self.ls2 = LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two residual branches, each scaled by a learned factor for every channel."""
        x = x + self.drop_path(self.ls1(self.gnconv(self.norm1(x))))
        mixed = self.ls2(self.mlp(self.norm2(x.permute(0, 2, 3, 1))))
        x = x + self.drop_path(mixed.permute(0, 3, 1, 2))
        return x


class HorNet(StagedNet):
    """The network: a stem at stride 4, four stages, head, with timm's methods.

    Shape: (B, in_chans, H, W) -> (B, num_classes), H and W of 32 and more
    """

    def __init__(
        self,
        base_dim: int,
        depths: Sequence[int] = (2, 3, 18, 2),
        orders: Sequence[int] = (2, 3, 4, 5),
        filter_sizes: Sequence[tuple[int, int] | None] = (None, None, None, None),
        layer_scale: float = 1e-6,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            base_dim: channels of the first stage; each further stage doubles them.
            depths: blocks of each stage.
            orders: of gnConv in each stage.
            filter_sizes: of the global filter in each stage, None = 7x7 depthwise convolution.
            layer_scale: what the factors on the residual branches start at.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        self.stem = nn.Sequential(nn.Conv2d(in_chans, base_dim, 4, 4), _NORM(base_dim))
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages: list[nn.Module] = []
        for i, depth in enumerate(depths):
            dim = base_dim * 2**i
            down: nn.Module = nn.Identity()
            if i > 0:
                down = nn.Sequential(_NORM(dim // 2), nn.Conv2d(dim // 2, dim, 2, 2))
            blocks = [
                Block(dim, orders[i], filter_sizes[i], rates[i][j], layer_scale)
                for j in range(depth)
            ]
            stages.append(nn.Sequential(down, *blocks))
            info = {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        self.apply(_init)
        head = NormMlpClassifierHead(
            dim, num_classes, pool_type=global_pool, drop_rate=drop_rate, norm_layer=_NORM
        )
        self.set_head(dim, head)


def _init(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RENAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.0."),
    (r"\.gamma([12])$", r".ls\1.gamma"),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.dwconv\.complex_weight$", ".dwconv.filter.complex_weight"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' names -> ours: there the downsampling stands outside the stages."""
    if not any(name.startswith("downsample_layers.") for name in state_dict):
        return state_dict
    converted = {}
    for name, value in state_dict.items():
        name = re.sub(r"^stages\.(\d+)\.(\d+)", _one_later, name)
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        converted[name] = value
    return converted


def _one_later(match: re.Match[str]) -> str:
    return f"stages.{match[1]}.{int(match[2]) + 1}"


_FILTERS = (None, None, (14, 8), (7, 4))
_VARIANTS: dict[str, dict[str, Any]] = {
    "hornet_test": {
        "base_dim": 16, "depths": (1, 1, 2, 1), "orders": (2, 3, 3, 4), "filter_sizes": _FILTERS
    },
    "hornet_tiny_7x7": {"base_dim": 64},
    "hornet_tiny_gf": {"base_dim": 64, "filter_sizes": _FILTERS},
    "hornet_small_7x7": {"base_dim": 96},
    "hornet_small_gf": {"base_dim": 96, "filter_sizes": _FILTERS},
    "hornet_base_7x7": {"base_dim": 128},
    "hornet_base_gf": {"base_dim": 128, "filter_sizes": _FILTERS},
    "hornet_large_7x7": {"base_dim": 192},
    "hornet_large_gf": {"base_dim": 192, "filter_sizes": _FILTERS},
}  # fmt: skip
default_cfgs = generate_default_cfgs(
    {
        name: default_cfg(first_conv="stem.0", min_input_size=(3, 32, 32), crop_pct=0.875)
        for name in _VARIANTS
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(HorNet, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def hornet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.6 M parameters, with global filters."""
    return _create("hornet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def hornet_tiny_7x7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HorNet-T, 7x7 depthwise convolutions in every stage."""
    return _create("hornet_tiny_7x7", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def hornet_tiny_gf(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HorNet-T, global filters in the last two stages."""
    return _create("hornet_tiny_gf", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def hornet_small_7x7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HorNet-S, 7x7 depthwise convolutions in every stage."""
    return _create("hornet_small_7x7", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def hornet_small_gf(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HorNet-S, global filters in the last two stages."""
    return _create("hornet_small_gf", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def hornet_base_7x7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HorNet-B, 7x7 depthwise convolutions in every stage."""
    return _create("hornet_base_7x7", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def hornet_base_gf(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HorNet-B, global filters in the last two stages."""
    return _create("hornet_base_gf", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def hornet_large_7x7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HorNet-L, 7x7 depthwise convolutions in every stage."""
    return _create("hornet_large_7x7", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def hornet_large_gf(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HorNet-L, global filters in the last two stages."""
    return _create("hornet_large_gf", pretrained, **kwargs)
