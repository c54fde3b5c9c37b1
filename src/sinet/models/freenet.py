"""FreeNet: classifies every pixel of a hyperspectral scene in one pass over the whole scene.

"FPGA: Fast Patch-Free Global Learning Framework for Fully End-to-End Hyperspectral Image
Classification", IEEE TGRS 2020, arXiv 2011.05670. Origin: Z-Zheng/FreeNet, GPL-3.0; written from
the description, without its code.

Counted at the padded scene (parameters, MACs): Pavia University 2.71 M, 110.7 G at 624 x 352;
Salinas 2.80 M, 67.9 G at 512 x 224; Houston 2.75 M, 365.1 G at 352 x 1920. The paper reports an
overall accuracy of up to 99.81 %, with 200 training pixels a class beside the tested ones.

What differs: `forward` gives logits in training and evaluation (the origin gives the loss, then
probabilities), and does not pad: `pad_scene` does. The sampler GS2 is `sinet.data.gs2`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import SqueezeExcite
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.models._networks import register_for

__all__ = ["FreeNet", "pad_scene"]

REDUCTION = 8
"""Pixels of the scene a side of the coarsest map's pixel: sizes must be multiples of it."""


def pad_scene(x: torch.Tensor, multiple: int = 16) -> torch.Tensor:
    """Zeros at the bottom and on the right, up to a multiple of the given size.

    The origin pads a standardized scene to multiples of 16. Crop what comes out to the scene again.

    Shape: (..., H, W) -> (..., ceil(H / multiple) * multiple, ceil(W / multiple) * multiple)
    """
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))


def _conv_norm(in_chs: int, out_chs: int, groups: int) -> list[nn.Module]:
    return [nn.Conv2d(in_chs, out_chs, 3, 1, 1), nn.GroupNorm(groups, out_chs), nn.ReLU()]


class SpectralBlock(nn.Sequential):
    """Weighs the channels of its input, then looks around: `ReLU(GN(conv(x * attention(x))))`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, groups: int) -> None:
        attention = SqueezeExcite(dim, rd_channels=dim // groups)
        super().__init__(attention, *_conv_norm(dim, dim, groups))


class FreeNet(nn.Module):
    """An encoder of four resolutions and a decoder that adds them up again, coarse to fine.

    `o_4 = conv(l_4)`, `o_k = conv(l_k + up(o_{k+1}))`, with `l_k` a pointwise convolution of the
    encoder's map k: neither norm nor activation in the decoder. The classes are read off `o_1`.

    Shape: (B, in_chans, H, W) -> (B, num_classes, H, W), H and W multiples of 8.
    """

    def __init__(
        self,
        in_chans: int = 103,
        num_classes: int = 9,
        dims: Sequence[int] = (96, 128, 192, 256),
        depths: Sequence[int] = (1, 1, 1, 1),
        inner: int = 128,
        ratio: float = 1.0,
    ) -> None:
        """Build the network.

        Args:
            in_chans: spectral bands.
            num_classes: classes; unlabelled pixels are none of them.
            dims: channels of the encoder's stages.
            depths: blocks of each stage.
            inner: channels of the decoder.
            ratio: scales all widths and the number of groups, which is 16 at 1.

        Raises:
            UsageError: `ratio` leaves no group.
        """
        super().__init__()
        groups = int(16 * ratio)
        if groups < 1:
            raise UsageError(f"ratio {ratio} leaves no group of channels; give 1/16 or more")
        self.in_chans, self.num_classes = in_chans, num_classes
        widths = [int(dim * ratio / groups) * groups for dim in dims]
        inner = int(inner * ratio)
        self.stem = nn.Sequential(*_conv_norm(in_chans, widths[0], groups))
        self.stages = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            down = [nn.Conv2d(widths[i - 1], width, 3, 2, 1), nn.ReLU()] if i else []
            blocks = nn.Sequential(*(SpectralBlock(width, groups) for _ in range(depth)))
            self.stages.append(nn.Sequential(*down, blocks))
        self.lateral = nn.ModuleList(nn.Conv2d(width, inner, 1) for width in widths)
        # the coarsest first, the order in which they run
        self.decoder = nn.ModuleList(nn.Conv2d(inner, inner, 3, 1, 1) for _ in widths)
        self.head = nn.Conv2d(inner, num_classes, 1)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Scene to the decoder's finest map, (B, inner, H, W)."""
        self._check(x)
        x = self.stem(x)
        maps = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        x = maps.pop()
        for i, conv in enumerate(self.decoder):
            if i:
                x = maps.pop() + F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = conv(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scene to logits of every pixel."""
        logits: torch.Tensor = self.head(self.forward_features(x))
        return logits

    def _check(self, x: torch.Tensor) -> None:
        height, width = x.shape[-2:]
        if height % REDUCTION or width % REDUCTION:
            fits = [-(-side // REDUCTION) * REDUCTION for side in (height, width)]
            raise UsageError(
                f"a scene of {height} x {width} does not fit FreeNet, whose sides are multiples of "
                f"{REDUCTION}; pad it with sinet.models.freenet.pad_scene, to {fits[0]} x {fits[1]}"
                " or more"
            )


def _stage(match: re.Match[str]) -> str:
    """The origin counts [stem, stage, -, down, stage, -, down, ...] through."""
    index, rest = int(match[1]), match[2]
    if index == 0:
        return f"stem.{rest}"
    if index % 3 == 0:
        return f"stages.{index // 3}.{rest}"
    stage, (block, part, layer) = index // 3, rest.split(".", 2)
    place = f"stages.{stage}.{2 if stage else 0}.{block}"
    if part == "0":
        return f"{place}.0.{layer.replace('seq.0', 'fc1').replace('seq.2', 'fc2')}"
    number, leaf = layer.split(".")
    return f"{place}.{int(number) + 1}.{leaf}"


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming -> ours."""
    if "feature_ops.0.0.weight" not in state_dict:
        return state_dict
    out = {}
    for name, value in state_dict.items():
        new = re.sub(r"^feature_ops\.(\d+)\.(.*)", _stage, name)
        new = new.replace("reduce_1x1convs.", "lateral.").replace("fuse_3x3convs.", "decoder.")
        new = new.replace("cls_pred_conv.", "head.")
        linear = re.search(r"\.fc[12]\.weight$", new)
        out[new] = value[:, :, None, None] if linear and value.ndim == 2 else value
    return out


_VARIANTS: dict[str, dict[str, Any]] = {
    "freenet_test": {"in_chans": 8, "num_classes": 4, "ratio": 0.25},
    "freenet_paviau": {"in_chans": 103, "num_classes": 9},
    "freenet_salinas": {"in_chans": 204, "num_classes": 16},
    "freenet_houston": {"in_chans": 144, "num_classes": 15},
}


@register_for("hyperspectral")
def freenet_test(**kwargs: Any) -> nn.Module:
    """For tests: 8 bands, 4 classes, 0.2 M parameters."""
    return FreeNet(**{**_VARIANTS["freenet_test"], **kwargs})


@register_for("hyperspectral")
def freenet_paviau(**kwargs: Any) -> nn.Module:
    """Pavia University: 103 bands, 9 classes, 2.71 M parameters."""
    return FreeNet(**{**_VARIANTS["freenet_paviau"], **kwargs})


@register_for("hyperspectral")
def freenet_salinas(**kwargs: Any) -> nn.Module:
    """Salinas: 204 bands, 16 classes, 2.80 M parameters."""
    return FreeNet(**{**_VARIANTS["freenet_salinas"], **kwargs})


@register_for("hyperspectral")
def freenet_houston(**kwargs: Any) -> nn.Module:
    """University of Houston: 144 bands, 15 classes, 2.75 M parameters."""
    return FreeNet(**{**_VARIANTS["freenet_houston"], **kwargs})
