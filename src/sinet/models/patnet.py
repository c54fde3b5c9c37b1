"""PATNet: partial convolution on a quarter of the channels, partial attention on the rest.

Paper: "Partial Convolution Meets Visual Attention", arXiv 2503.03148 (2025). The authors' code is
haiduo/PartialNet (MIT): its network with the learnable split (DPConv) off is PATNet. Written anew
from the equations.

    PAT_ch   y = [conv3x3(x1), BN(x2 g)],   g = hard_sigmoid(BN(W [mean(x2), std(x2)]))
    PAT_sf   y = [conv3x3(x1), A(LN(x2))],  A = self-attention with a bias by distance
    PAT_sp   y = [BN(u hard_sigmoid(w u)), V BN(v)],  [u, v] = halves of the MLP's output
    stages 1-3   x = x + MLP(PAT_ch(x)),  stage 4   x = x + PAT_sf(x);  x = x + MLP(x)

x1 are the first quarter of the channels. The paper has PAT_sp in every block; the published
training files have it in T1 only: `partial_mlp` and `num_heads` are options for that reason.

Differences: a spread of zero has a finite gradient; a stage of one position has a spread of zero.
`timm.utils.reparameterize_model` folds BN and V into the MLP's last convolution.

Reported (ImageNet top-1, params, MACs): T0 73.9 % 4.3 M 0.25 G, T1 78.1 % 7.8 M 0.55 G, T2 80.2 %
12.6 M 1.03 G, S 82.1 % 29.0 M 2.71 G, M 83.1 % 61.3 M 6.69 G, L 83.9 % 104.3 M 11.91 G. The
authors' code has 3.56 M (T0) and 6.14 M (T1), which does not agree with the paper; so has ours.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import (
    DropPath,
    LayerNorm2d,
    SelectAdaptivePool2d,
    calculate_drop_path_rates,
    get_act_layer,
)
from timm.models import generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F

from sinet.layers import ConvNorm
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["PATNet"]

SPLIT = 4
"""One channel in so many is convolved."""
ALPHA, BETA, GAMMA = 20, 40, 160
"""Distances up to ALPHA have a bias each; from GAMMA on they share one; 2 BETA + 1 in all."""
DROPOUT = 0.1


class Patch(ConvNorm):
    """Convolution of non-overlapping patches, then BatchNorm.

    Shape: (B, in_chs, H, W) -> (B, out_chs, floor(H / size), floor(W / size))
    """

    def __init__(self, in_chs: int, out_chs: int, size: int) -> None:
        super().__init__(in_chs, out_chs)
        self.conv = nn.Conv2d(in_chs, out_chs, size, size, bias=False)


class ChannelGate(nn.Module):
    """Scale each channel by what all channels' means and spreads say, then BatchNorm.

    `BN(x g)`, `g = hard_sigmoid(BN(W [mean(x), std(x)]))`; the spread is the unbiased one.

    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = ConvNorm(dim, dim)
        self.fc.conv = nn.Conv2d(dim, dim, (1, 2), bias=False)
        self.gate = nn.Hardsigmoid()
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weigh the channels."""
        mean = x.mean((2, 3), keepdim=True)
        others = max(x.shape[2] * x.shape[3] - 1, 1)
        variance = (x - mean).square().sum((2, 3), keepdim=True) / others
        # the root has an infinite slope at 0, where a blank image is
        spread = (variance + 1e-12).sqrt()
        gate = self.gate(self.fc(torch.cat([mean, spread], dim=-1)))
        return self.norm(x * gate)  # type: ignore[no-any-return]


def distance_buckets() -> torch.Tensor:
    """Row of the bias table for each whole distance 0..GAMMA; farther ones share the last."""
    rows = []
    for t in range(GAMMA + 1):
        if t > ALPHA:
            t = min(round(ALPHA + math.log(t / ALPHA) / math.log(GAMMA / ALPHA) * ALPHA), BETA)
        rows.append(BETA + t)
    return torch.tensor(rows)


class DistanceAttention(nn.Module):
    """Self-attention over a normed map, with a learned bias by rounded Euclidean distance.

    `proj(softmax(q^T k / sqrt(d) + bias[round(|p - p'|)]) v)` of the normed x.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    buckets: torch.Tensor

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = LayerNorm2d(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        # the authors' table is for signed distances; Euclidean ones leave its first half unused
        self.bias_table = nn.Parameter(torch.zeros(num_heads, 2 * BETA + 1))
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(DROPOUT)
        self.register_buffer("buckets", distance_buckets(), persistent=False)

    def bias(self, h: int, w: int) -> torch.Tensor:
        """The bias of every pair of positions.

        Shape: () -> (num_heads, h * w, h * w)
        """
        rows = torch.arange(h, device=self.buckets.device)
        cols = torch.arange(w, device=self.buckets.device)
        dy, dx = rows[:, None] - rows, cols[:, None] - cols
        squares = (dy * dy)[:, None, :, None] + (dx * dx)[None, :, None, :]
        distance = squares.float().sqrt().round().long().clamp(max=GAMMA)
        return self.bias_table[:, self.buckets[distance].reshape(h * w, h * w)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attention of every position to all others."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x).flatten(2).transpose(1, 2))
        qkv = qkv.reshape(b, h * w, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = DROPOUT if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, self.bias(h, w)[None], dropout)
        out = self.drop(self.proj(out.transpose(1, 2).reshape(b, h * w, c)))
        return out.transpose(1, 2).reshape(b, c, h, w)  # type: ignore[no-any-return]


class PartialMixer(nn.Module):
    """`[conv3x3(x1), other(x2)]`: x1 the first quarter of the channels, x2 the rest.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, num_heads: int | None) -> None:
        """Build the mixer; with `num_heads` the rest is attended, without it gated."""
        super().__init__()
        part = dim // SPLIT
        self.parts = (part, dim - part)
        self.conv = nn.Conv2d(part, part, 3, padding=1, bias=False)
        self.attn: nn.Module = (
            DistanceAttention(dim - part, num_heads) if num_heads else ChannelGate(dim - part)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve some channels, attend the others."""
        x1, x2 = x.split(self.parts, dim=1)
        return torch.cat([self.conv(x1), self.attn(x2)], dim=1)


class PartialProject(nn.Module):
    """The last convolution of the MLP and PAT_sp: `[BN(u hard_sigmoid(w u)), V BN(v)]`.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H, W)
    """

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        half = out_chs // 2
        self.conv = nn.Conv2d(in_chs, out_chs, 1, bias=False)
        self.attn = nn.Conv2d(half, 1, 1, bias=False)
        self.gate = nn.Hardsigmoid()
        self.norm = nn.BatchNorm2d(half)
        self.norm2: nn.Module = nn.BatchNorm2d(half)
        self.mix: nn.Module = nn.Conv2d(half, half, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project, then weigh the positions of the first half of the channels."""
        u, v = self.conv(x).chunk(2, dim=1)
        u = self.norm(u * self.gate(self.attn(u)))
        return torch.cat([u, self.mix(self.norm2(v))], dim=1)

    def fuse(self) -> nn.Module:
        """The same function with the second half's norm and convolution inside the first one."""
        norm, mix = self.norm2, self.mix
        if not (isinstance(norm, nn.BatchNorm2d) and isinstance(mix, nn.Conv2d)):
            return self
        assert norm.running_mean is not None
        assert norm.running_var is not None
        fused = copy.deepcopy(self)
        with torch.no_grad():
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            shift = norm.bias - norm.running_mean * scale
            first, second = self.conv.weight[:, :, 0, 0].chunk(2)
            matrix = mix.weight[:, :, 0, 0]
            second = (matrix * scale) @ second
            weight = torch.cat([first, second])[:, :, None, None]
            bias = torch.cat([torch.zeros_like(shift), matrix @ shift])
        fused.conv.weight, fused.conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        fused.norm2, fused.mix = nn.Identity(), nn.Identity()
        return fused


class Block(nn.Module):
    """A mixer and an MLP: under one shortcut with a gate, under one each with attention.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float,
        num_heads: int | None,
        partial_mlp: bool,
        drop_path: float,
        act_layer: type[nn.Module],
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.mixer = PartialMixer(dim, num_heads)
        self.mixer_shortcut = num_heads is not None
        self.expand = ConvNorm(dim, hidden)
        self.act = act_layer()
        self.project = (
            PartialProject(hidden, dim) if partial_mlp else nn.Conv2d(hidden, dim, 1, bias=False)
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions, then channels."""
        mixed = self.mixer(x)
        if self.mixer_shortcut:
            x = mixed = x + mixed
        return x + self.drop_path(self.project(self.act(self.expand(mixed))))  # type: ignore[no-any-return]


class Head(nn.Module):
    """Pool, a wide layer without bias or norm, classify.

    Shape: (B, in_chs, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        in_chs: int,
        num_classes: int,
        num_features: int,
        global_pool: str,
        drop_rate: float,
        act_layer: type[nn.Module],
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.conv = nn.Conv2d(in_chs, num_features, 1, bias=False)
        self.act = act_layer()
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, global_pool)

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the pooling if given."""
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool)
            self.flatten: nn.Module = nn.Flatten(1) if global_pool else nn.Identity()
        kwargs: dict[str, Any] = {
            "device": self.conv.weight.device,
            "dtype": self.conv.weight.dtype,
        }
        self.fc: nn.Module = nn.Identity()
        if num_classes and self.global_pool.is_identity():
            self.fc = nn.Conv2d(self.num_features, num_classes, 1, **kwargs)
        elif num_classes:
            self.fc = nn.Linear(self.num_features, num_classes, **kwargs)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map to logits; `pre_logits` stops before the classifier."""
        x = self.drop(self.flatten(self.act(self.conv(self.global_pool(x)))))
        return x if pre_logits else self.fc(x)


class PATNet(StagedNet):
    """The network: 4x4 patches, four stages, head, with timm's methods.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        dim: int,
        depths: Sequence[int],
        num_heads: int = 6,
        partial_mlp: bool = True,
        mlp_ratio: float = 2.0,
        head_width: int = 1280,
        act_layer: str | type[nn.Module] = "relu",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            dim: channels of the first stage; doubled at each further one.
            depths: blocks of each stage; the last stage attends, the others gate.
            num_heads: attention heads of the last stage; divides 3/4 of its channels.
            partial_mlp: PAT_sp at the end of every MLP.
            mlp_ratio: hidden width of the MLPs, in units of the stage's channels.
            head_width: width of the layer before the classifier.
            act_layer: any timm activation.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        act = get_act_layer(act_layer)
        self.stem = nn.Sequential(Patch(in_chans, dim, 4))
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages: list[nn.Module] = []
        for i, depth in enumerate(depths):
            width = dim * 2**i
            heads = num_heads if i == len(depths) - 1 else None
            down = [Patch(width // 2, width, 2)] if i else []
            blocks = [
                Block(width, mlp_ratio, heads, partial_mlp, rates[i][j], act) for j in range(depth)
            ]
            stages.append(nn.Sequential(*down, *blocks))
            info = {"num_chs": width, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.set_head(width, Head(width, num_classes, head_width, global_pool, drop_rate, act))

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """The tables of distance biases."""
        return {name for name, _ in self.named_parameters() if name.endswith("bias_table")}


_RENAMES = (
    (r"^patch_embed\.proj", "stem.0.conv"),
    (r"^patch_embed\.norm", "stem.0.bn"),
    (r"\.reduction\.", ".0.conv."),
    (r"^(stages\.\d+)\.norm\.", r"\1.0.bn."),
    (r"\.spatial_mixing\.partial_conv3\.", ".mixer.conv."),
    (r"\.spatial_mixing\.attn\.cfc1\.", ".mixer.attn.fc.conv."),
    (r"\.spatial_mixing\.attn\.bn\.", ".mixer.attn.fc.bn."),
    (r"\.spatial_mixing\.attn\.rpe_k\.lookup_table_bias", ".mixer.attn.bias_table"),
    (r"\.spatial_mixing\.attn\.", ".mixer.attn."),
    (r"\.spatial_mixing\.norm\.", ".mixer.attn.norm."),
    (r"\.mlp\.0\.", ".expand.conv."),
    (r"\.mlp\.1\.", ".expand.bn."),
    (r"\.mlp\.4\.conv\.", ".project.mix."),
    (r"\.mlp\.4\.conv_attn\.", ".project.attn."),
    (r"\.mlp\.4\.", ".project."),
    (r"^avgpool_pre_head\.1\.", "head.conv."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming -> ours; ours are left as they are.

    Theirs count stages and the convolutions between them together: 0, 2, 4, 6 are the stages.
    """
    if "patch_embed.proj.weight" not in state_dict:
        return state_dict
    partial_mlp = any(".mlp.4." in key for key in state_dict)
    last = ".project.conv." if partial_mlp else ".project."
    converted = {}
    for key, value in state_dict.items():
        for pattern, new in (*_RENAMES, (r"\.mlp\.3\.", last)):
            key = re.sub(pattern, new, key)
        if found := re.match(r"^stages\.(\d+)\.(blocks\.(\d+)\.)?(.*)$", key):
            place, in_block, block, rest = found.groups()
            stage = (int(place) + 1) // 2
            position = f"{int(block) + (stage > 0)}." if in_block else ""
            key = f"stages.{stage}.{position}{rest}"
        converted[key] = value
    return converted


_VARIANTS: dict[str, dict[str, Any]] = {
    "patnet_test": {
        "dim": 16, "depths": (1, 1, 2, 1), "num_heads": 4, "head_width": 128, "act_layer": "gelu",
    },
    "patnet_t0": {"dim": 32, "depths": (1, 2, 8, 2), "num_heads": 4, "act_layer": "gelu"},
    "patnet_t1": {"dim": 48, "depths": (1, 2, 8, 2), "act_layer": "gelu"},
    "patnet_t2": {"dim": 64, "depths": (2, 2, 6, 4)},
    "patnet_s": {"dim": 96, "depths": (2, 2, 9, 4)},
    "patnet_m": {"dim": 128, "depths": (2, 3, 16, 4)},
    "patnet_l": {"dim": 160, "depths": (2, 3, 20, 4)},
}  # fmt: skip
default_cfgs = generate_default_cfgs(
    {
        name: default_cfg(crop_pct=0.9, min_input_size=(3, 32, 32), license="mit")
        for name in _VARIANTS
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(PATNet, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def patnet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.3 M parameters."""
    return _create("patnet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def patnet_t0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PATNet-T0."""
    return _create("patnet_t0", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def patnet_t1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PATNet-T1."""
    return _create("patnet_t1", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def patnet_t2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PATNet-T2."""
    return _create("patnet_t2", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def patnet_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PATNet-S."""
    return _create("patnet_s", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def patnet_m(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PATNet-M."""
    return _create("patnet_m", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def patnet_l(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PATNet-L."""
    return _create("patnet_l", pretrained, **kwargs)
