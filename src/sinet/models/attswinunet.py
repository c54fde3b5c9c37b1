"""Attention Swin U-Net: Cross-Contextual Attention Mechanism for Skin Lesion Segmentation.

Aghdam et al., ISBI 2023, arXiv 2210.16898. Origin: https://github.com/NITR098/AttSwinUNet (no
licence), nothing of which was read: written from a description of it and from recorded outputs.
Swin-Unet (arXiv 2105.05537: Swin stages down, mirrored Swin stages up, patch merging and expanding
between them) whose skips join the encoder's tokens b to the decoder's a by

    cls_s = mean(s);  twice: cls_a += Attn(LN(cls_a); [LN(cls_a), b]), cls_b likewise from a
    out = Linear([cls_a and a, cls_b and b])

What the released code does is less than the paper says, and so the defaults here (measured on it):

- The class token takes the place of the first token: one of L tokens of a stream is altered.
  `class_token="broadcast"` (ours) adds it to every token.
- The encoder's attention maps are added to the decoder's after those were used, which changes
  nothing: `spatial_attention="off"`. "add" and "mul" (ours) do what the paper describes: the mean,
  or the normalized product, of the two maps weighs the values, in the last block of each stage.

Sizes at 224 px, 9 classes: 46.9 M parameters, 11.1 G multiply-adds (depths 2-2-6-2); 32.7 M, 8.3 G
(2-2-2-2); without cross attention, which is Swin-Unet, 41.4 M, 8.9 G and 27.2 M, 6.1 G. 7,968
parameters of the released files are used by nothing and left out. Reported, ISIC 2018: Dice 91.05
(Swin-Unet 89.46), from the table of a later paper. Its training takes the output as logits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, trunc_normal_
from timm.models.swin_transformer import PatchMerging
from torch import nn

from sinet.errors import UsageError, unknown
from sinet.models._networks import Options, register_for

__all__ = ["AttSwinUNet"]

CLASS_TOKENS = ("replace_first", "broadcast")
SPATIAL_ATTENTIONS = ("off", "add", "mul")


class WindowAttention(nn.Module):
    """Attention among the positions of a window, with a learned bias for each relative position.

    A = softmax(Q K' / sqrt(d) + bias + mask);  out = Linear(A V)

    Shape: (B * windows, N, C) -> the same, and A of (B * windows, heads, N, N)
    """

    def __init__(self, dim: int, window: int, num_heads: int, drop_rate: float) -> None:
        super().__init__()
        self.window, self.num_heads = window, num_heads
        self.scale = (dim // num_heads) ** -0.5
        pairs = torch.zeros((2 * window - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(trunc_normal_(pairs, std=0.02))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop_rate)
        self.register_buffer("index", _relative_index(window), persistent=False)
        self.index: torch.Tensor

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        other: torch.Tensor | None,
        spatial_attention: str,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend; `mask` is (windows, N, N), `other` the map of the encoder's block."""
        _, n, c = x.shape
        qkv = self.qkv(x).reshape(-1, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.relative_position_bias_table[self.index.reshape(-1)]
        logits = self.scale * q @ k.transpose(-2, -1) + bias.reshape(n, n, -1).permute(2, 0, 1)
        if mask is not None:
            windows = mask.shape[0]
            logits = logits.reshape(-1, windows, self.num_heads, n, n) + mask[:, None]
            logits = logits.reshape(-1, self.num_heads, n, n)
        attn = logits.softmax(-1)
        if other is not None:
            attn = _combine(attn, other, spatial_attention)
        out = (attn @ v).transpose(1, 2).reshape(-1, n, c)
        return self.drop(self.proj(out)), attn


def _combine(attn: torch.Tensor, other: torch.Tensor, how: str) -> torch.Tensor:
    """Two attention maps as one whose rows sum to 1, so that it still averages values."""
    if how == "add":
        return (attn + other) / 2
    product = attn * other
    tiny = torch.finfo(product.dtype).tiny
    return product / product.sum(-1, keepdim=True).clamp_min(tiny)


def _relative_index(window: int) -> torch.Tensor:
    """(N, N): the row of the bias table for every pair of a window's positions."""
    row, col = (x.reshape(-1) for x in torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij"))
    rows, cols = row[:, None] - row, col[:, None] - col
    return (rows + window - 1) * (2 * window - 1) + cols + window - 1


class SwinBlock(nn.Module):
    """x + W-MSA(LN(x)), then x + MLP(LN(x)); every odd block's windows are shifted by half.

    Where one window covers the map there is nothing to shift to.

    Shape: (B, H, W, C) -> the same, and the attention map (B * windows, heads, N, N)
    """

    def __init__(
        self,
        dim: int,
        window: int,
        num_heads: int,
        shifted: bool,
        drop_rate: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, num_heads, drop_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, drop=drop_rate)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(
        self, x: torch.Tensor, other: torch.Tensor | None = None, spatial_attention: str = "off"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix within windows, then within positions."""
        _, h, w, c = x.shape
        size, mask = self.window, None
        shift = self.shift if min(h, w) > size else 0
        y = self.norm1(x)
        if shift:
            y = y.roll((-shift, -shift), (1, 2))
            mask = _shift_mask(h, w, size, shift, x)
        y = _windows(y, size)
        y, attn = self.attn(y, mask, other, spatial_attention)
        y = y.reshape(-1, h // size, w // size, size, size, c).transpose(2, 3).reshape(-1, h, w, c)
        if shift:
            y = y.roll((shift, shift), (1, 2))
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x))), attn


def _windows(x: torch.Tensor, size: int) -> torch.Tensor:
    """(B, H, W, C) -> (B * windows, size * size, C)."""
    _, h, w, c = x.shape
    x = x.reshape(-1, h // size, size, w // size, size, c)
    return x.transpose(2, 3).reshape(-1, size * size, c)


def _shift_mask(h: int, w: int, size: int, shift: int, like: torch.Tensor) -> torch.Tensor:
    """(windows, N, N): -100 between positions that are neighbours only by the roll, else 0."""

    def region(side: int) -> torch.Tensor:
        at = torch.arange(side, device=like.device)
        return (at >= side - size).to(like.dtype) + (at >= side - shift).to(like.dtype)

    regions = 3 * region(h)[:, None] + region(w)
    windows = _windows(regions[None, :, :, None], size).squeeze(-1)
    return (windows[:, None, :] != windows[:, :, None]).to(like.dtype) * -100.0


class PatchExpand(nn.Module):
    """Each token becomes factor x factor tokens of `out_dim` channels: linear, rearrange, norm.

    Shape: (B, H, W, C) -> (B, factor * H, factor * W, out_dim)
    """

    def __init__(self, dim: int, out_dim: int, factor: int) -> None:
        super().__init__()
        self.factor, self.out_dim = factor, out_dim
        self.expand = nn.Linear(dim, factor**2 * out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Expand."""
        _, h, w, _ = x.shape
        f = self.factor
        x = self.expand(x).reshape(-1, h, w, f, f, self.out_dim).transpose(2, 3)
        out: torch.Tensor = self.norm(x.reshape(-1, h * f, w * f, self.out_dim))
        return out


class ClassAttention(nn.Module):
    """cls + Linear(softmax(q k' / sqrt(d)) v): q from LN(cls), k and v from [LN(cls), tokens].

    Shapes: (B, 1, C), (B, L, C) -> (B, 1, C)
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        inner = num_heads * head_dim
        self.norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, inner, bias=False)
        self.kv = nn.Linear(dim, 2 * inner, bias=False)
        self.proj = nn.Linear(inner, dim)

    def forward(self, cls: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """What the class token reads from the other stream is added to it."""
        normed = self.norm(cls)
        length, inner = 1 + tokens.shape[1], self.num_heads * self.head_dim
        q = self.q(normed).reshape(-1, 1, self.num_heads, self.head_dim).transpose(1, 2)
        kv = self.kv(torch.cat([normed, tokens], 1))
        kv = kv.reshape(-1, length, 2, self.num_heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        attn = (self.head_dim**-0.5 * q @ k.transpose(-2, -1)).softmax(-1)
        out: torch.Tensor = cls + self.proj((attn @ v).transpose(1, 2).reshape(-1, 1, inner))
        return out


class CrossContextualAttention(nn.Module):
    """Two streams of tokens, each told by its class token what the other holds.

    Shapes: (B, L, C), (B, L, C) -> the same two
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int, class_token: str) -> None:
        super().__init__()
        self.class_token = class_token
        self.layers = nn.ModuleList(
            nn.ModuleList(ClassAttention(dim, num_heads, head_dim) for _ in range(2))
            for _ in range(2)
        )

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two rounds of reading, then the class tokens go back into their streams."""
        cls_a, cls_b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
        replace = self.class_token == "replace_first"
        read_a, read_b = (a[:, 1:], b[:, 1:]) if replace else (a, b)
        for layer in self.layers:
            attend_a, attend_b = layer.children()
            cls_a, cls_b = attend_a(cls_a, read_b), attend_b(cls_b, read_a)
        if replace:
            return torch.cat([cls_a, read_a], 1), torch.cat([cls_b, read_b], 1)
        return a + cls_a, b + cls_b


class Skip(nn.Module):
    """Joins the encoder's tokens to the decoder's: Linear([a, b]), cross attention before or not.

    Shapes: (B, H, W, C), (B, H, W, C) -> (B, H, W, C)
    """

    def __init__(self, dim: int, cross: CrossContextualAttention | None) -> None:
        super().__init__()
        self.cross = cross
        self.reduce = nn.Linear(2 * dim, dim)

    def forward(self, decoder: torch.Tensor, encoder: torch.Tensor) -> torch.Tensor:
        """Join."""
        _, h, w, c = decoder.shape
        a, b = decoder.reshape(-1, h * w, c), encoder.reshape(-1, h * w, c)
        if self.cross is not None:
            a, b = self.cross(a, b)
        out: torch.Tensor = self.reduce(torch.cat([a, b], -1)).reshape(-1, h, w, c)
        return out


class AttSwinUNet(nn.Module):
    """The network: Swin encoder, mirrored Swin decoder, skips at the three finer resolutions.

    Shape: (B, in_chans, H, W) -> (B, num_classes, H, W), logits; H and W multiples of `unit`
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        img_size: int = 224,
        cross_skips: int = 3,
        cross_heads: int = 8,
        cross_head_dim: int = 64,
        class_token: str = "replace_first",
        spatial_attention: str = "off",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        num_classes: int = 9,
        in_chans: int = 3,
    ) -> None:
        """Build the network.

        Args:
            embed_dim: channels of the first stage; each stage doubles them.
            depths: blocks of each stage; the decoder's are those of the stage it mirrors.
            num_heads: attention heads of each stage.
            window_size: side of a window, in tokens; a stage with fewer takes all of them.
            img_size: side of the images that the stages are laid out for; others are taken if
                windows fill every stage (see `unit`).
            cross_skips: how many of the skips, deepest first, have cross-contextual attention.
            cross_heads: heads of that attention.
            cross_head_dim: channels of one such head, whatever the stage.
            class_token: "replace_first", or "broadcast" (ours; see the top of the file).
            spatial_attention: "off", or "add", "mul" (ours; see the top of the file).
            drop_rate: dropout behind projections and in MLPs.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: outputs a position.
            in_chans: image channels.

        Raises:
            UsageError: an option or a number of skips that does not exist.
        """
        super().__init__()
        if class_token not in CLASS_TOKENS:
            raise unknown("class token", class_token, CLASS_TOKENS)
        if spatial_attention not in SPATIAL_ATTENTIONS:
            raise unknown("spatial attention", spatial_attention, SPATIAL_ATTENTIONS)
        last = len(depths) - 1
        if not 0 <= cross_skips <= last:
            raise UsageError(f"cross_skips={cross_skips}: this network has {last} skips")
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.spatial_attention = spatial_attention
        dims = [embed_dim * 2**i for i in range(last + 1)]
        windows = _stage_windows(len(depths), window_size, img_size)
        self.unit = _unit(windows)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)

        def stage(i: int) -> nn.ModuleList:
            return nn.ModuleList(
                SwinBlock(dims[i], windows[i], num_heads[i], j % 2 == 1, drop_rate, rates[i][j])
                for j in range(depths[i])
            )

        self.patch_embed = nn.Conv2d(in_chans, embed_dim, 4, 4)
        self.patch_norm = nn.LayerNorm(embed_dim)
        self.drop = nn.Dropout(drop_rate)
        self.encoder = nn.ModuleList(stage(i) for i in range(last + 1))
        self.merges = nn.ModuleList(PatchMerging(dims[i]) for i in range(last))
        self.norm = nn.LayerNorm(dims[-1])
        # the decoder's parts carry the number of the encoder's stage that they mirror
        self.expands = nn.ModuleList(PatchExpand(dims[i + 1], dims[i], 2) for i in range(last))
        self.skips = nn.ModuleList()
        for i in range(last):
            cross = None
            if i >= last - cross_skips:
                cross = CrossContextualAttention(dims[i], cross_heads, cross_head_dim, class_token)
            self.skips.append(Skip(dims[i], cross))
        self.decoder = nn.ModuleList(stage(i) for i in range(last))
        self.norm_up = nn.LayerNorm(embed_dim)
        self.final_expand = PatchExpand(embed_dim, embed_dim, 4)
        self.head = nn.Conv2d(embed_dim, num_classes, 1, bias=False)
        self.pretrained_cfg = {"first_conv": "patch_embed", "classifier": "head"}
        self.apply(_init_weights)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to tokens (B, H / 4, W / 4, embed_dim)."""
        h, w = x.shape[2:]
        if h % self.unit or w % self.unit:
            raise UsageError(
                f"images of {h}x{w} do not fit this network's windows: height and width must be "
                f"multiples of {self.unit}; {_near(int(h), self.unit)}x{_near(int(w), self.unit)} "
                "is the nearest size"
            )
        x = self.drop(self.patch_norm(self.patch_embed(x).permute(0, 2, 3, 1)))
        tokens, maps = [], []
        for i, stage in enumerate(self.encoder):
            tokens.append(x)
            for block in stage.children():
                x, attn = block(x)
            maps.append(attn)
            if i < len(self.merges):
                x = self.merges[i](x)
        x = self.norm(x)
        for i in reversed(range(len(self.decoder))):
            x = self.skips[i](self.expands[i](x), tokens[i])
            *blocks, last = self.decoder[i].children()
            for block in blocks:
                x, _ = block(x)
            # the last block shifts its windows as that of the encoder does, whose map it shares
            other = None if self.spatial_attention == "off" else maps[i]
            x, _ = last(x, other, self.spatial_attention)
        out: torch.Tensor = self.norm_up(x)
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image to logits at its own size."""
        x = self.final_expand(self.forward_features(x)).permute(0, 3, 1, 2)
        logits: torch.Tensor = self.head(x)
        return logits


def _stage_windows(stages: int = 4, window_size: int = 7, img_size: int = 224) -> list[int]:
    """Sides of the windows of each stage, in its tokens."""
    return [min(window_size, max(img_size // (4 * 2**i), 1)) for i in range(stages)]


def _unit(windows: Sequence[int]) -> int:
    """Pixels that windows fill at every stage, on either axis."""
    return math.lcm(*(4 * 2**i * window for i, window in enumerate(windows)))


def _near(side: int, unit: int) -> int:
    return max(round(side / unit), 1) * unit


def _init_weights(module: nn.Module) -> None:
    """Swin's start: normal of deviation 0.02, cut at 2; no biases."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RENAMES = [
    (r"encoder\.patch_embed\.proj\.", r"patch_embed."),
    (r"encoder\.patch_embed\.norm\.", r"patch_norm."),
    (r"encoder\.layers\.(\d)\.blocks\.", r"encoder.\1."),
    (r"encoder\.layers\.(\d)\.downsample\.", r"merges.\1."),
    (r"encoder\.norm\.", r"norm."),
    (r"decoder\.norm_up\.", r"norm_up."),
    (r"decoder\.up\.", r"final_expand."),
    (r"decoder\.output\.", r"head."),
]
_CROSS = {"fn.norm": "norm", "fn.fn.to_q": "q", "fn.fn.to_kv": "kv", "fn.fn.to_out.0": "proj"}


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' weights -> ours, without their second patch embedding and unused norm."""
    if "decoder.norm_up.weight" not in state_dict:
        return state_dict
    ups = {int(m[1]) for name in state_dict if (m := re.match(r"decoder\.layers_up\.(\d)", name))}
    last = max(ups)  # they count the decoder's stages from the deepest
    width = state_dict["decoder.norm_up.weight"].shape[0]
    out: dict[str, torch.Tensor] = {}
    for name, value in state_dict.items():
        if name.startswith(("patch_embed.", "decoder.norm.")) or name.endswith(
            ("relative_position_index", "attn_mask")
        ):
            continue
        new = _decoder_name(name, last)
        if m := re.match(r"decoder\.Crossvit_layer\.(\d)\.layers\.(\d)\.(\d)\.(.+)\.", name):
            # by width, as the list may hold only the deeper stages
            norm = f"decoder.Crossvit_layer.{m[1]}.layers.0.0.fn.norm.weight"
            stage = (state_dict[norm].shape[0] // width).bit_length() - 1
            new = f"skips.{stage}.cross.layers.{m[2]}.{m[3]}.{_CROSS[m[4]]}.{name[m.end() :]}"
        for pattern, replacement in _RENAMES:
            new = re.sub(f"^{pattern}", replacement, new)
        out[new] = value
    return out


def _decoder_name(name: str, last: int) -> str:
    """Stage k of their decoder mirrors our stage last - k; its expansion leads one further."""
    if m := re.match(r"decoder\.layers_up\.(\d)\.blocks\.", name):
        return f"decoder.{last - int(m[1])}.{name[m.end() :]}"
    if m := re.match(r"decoder\.layers_up\.(\d)\.(?:upsample\.)?(?=expand|norm)", name):
        return f"expands.{last - int(m[1]) - 1}.{name[m.end() :]}"
    if m := re.match(r"decoder\.concat_back_dim\.(\d)\.", name):
        return f"skips.{last - int(m[1])}.reduce.{name[m.end() :]}"
    return name


_LITE = (2, 2, 2, 2)
_VARIANTS: dict[str, dict[str, Any]] = {
    "attswinunet": {},
    "attswinunet_lite": {"depths": _LITE},
    "swinunet": {"cross_skips": 0},
    "swinunet_lite": {"depths": _LITE, "cross_skips": 0},
    "attswinunet_test": {
        "embed_dim": 16, "depths": (2, 2, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 2,
        "img_size": 64, "cross_heads": 2, "cross_head_dim": 8,
    },
}  # fmt: skip


def _create(variant: str, **kwargs: Any) -> AttSwinUNet:
    return AttSwinUNet(**{**_VARIANTS[variant], **kwargs})


def _multiple(variant: str) -> Callable[[Options], int]:
    """`unit` of a variant, from the options that it is built with."""

    def multiple(options: Options) -> int:
        given = {**_VARIANTS[variant], **options}
        layout = {key: given[key] for key in ("window_size", "img_size") if key in given}
        return _unit(_stage_windows(len(given.get("depths", _LITE)), **layout))

    return multiple


@register_for("segment", "volume", multiple=_multiple("attswinunet"))
def attswinunet(**kwargs: Any) -> nn.Module:
    """Depths 2-2-6-2, cross-contextual attention at all skips."""
    return _create("attswinunet", **kwargs)


@register_for("segment", "volume", multiple=_multiple("attswinunet_lite"))
def attswinunet_lite(**kwargs: Any) -> nn.Module:
    """Depths 2-2-2-2, cross-contextual attention at all skips."""
    return _create("attswinunet_lite", **kwargs)


@register_for("segment", "volume", multiple=_multiple("swinunet"))
def swinunet(**kwargs: Any) -> nn.Module:
    """Swin-Unet with depths 2-2-6-2: the skips are joined as they are."""
    return _create("swinunet", **kwargs)


@register_for("segment", "volume", multiple=_multiple("swinunet_lite"))
def swinunet_lite(**kwargs: Any) -> nn.Module:
    """Swin-Unet as it is usually quoted, depths 2-2-2-2."""
    return _create("swinunet_lite", **kwargs)


@register_for("segment", "volume", multiple=_multiple("attswinunet_test"))
def attswinunet_test(**kwargs: Any) -> nn.Module:
    """For tests: under 0.4 M parameters, images of multiples of 64 px."""
    return _create("attswinunet_test", **kwargs)
