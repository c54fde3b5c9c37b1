"""FcaFormer: a hybrid of convolutions and attention whose blocks also read from earlier blocks.

"FcaFormer: Forward Cross Attention in Hybrid Vision Transformer", arXiv 2211.07198 (ICCV 2023).
Origin: github.com/hkzhang-git/FcaFormer, which states no licence; this was written from the paper
and from recorded outputs, not from it.

    stages 1, 2   ConvNeXt blocks
    stages 3, 4   x = x + g1 * attend(x, [x; s]),  s: a few merged tokens of each earlier block
                  x = BN(dw3x3(x)), with no shortcut
                  x = x + g2 * mlp(x)

A learnt bias for each distance and each earlier token binds a network to the image size that it
was built for. The factors by which earlier tokens are scaled come before a LayerNorm, as in the
origin, and are therefore almost without effect (docs: `sinet papers`). Differences from the
origin: each stage begins, instead of ends, with the step down, so that its output is its own map.

Reported top-1 on ImageNet-1K at 224, without distillation: L1 80.3 (6.2 M, 1.4 G), L2 83.1
(16.3 M, 3.6 G), L3 84.2 (28 M, 6.7 G), L4 84.9 (66 M, 14.5 G). Ours: the same counts.
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
    NormMlpClassifierHead,
    calculate_drop_path_rates,
    to_2tuple,
)
from timm.models import checkpoint, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXtBlock
from torch import nn

from sinet.errors import UsageError
from sinet.layers import ConvNorm
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["FcaFormer"]

HEAD_DIM = 32
MERGE = 4
SCALE_INIT = 1e-6


class CrossAttention(nn.Module):
    """Attention of a block's tokens to themselves and to what earlier blocks left.

        softmax([q k_x^T + R, q k_s^T + b_s]) [v_x; v_s],  q scaled by 32^-0.5

    R is learnt for each head and distance, b_s for each head and earlier token. Tokens s pass
    through `s_norm(s * factors)` and the same projection as x; their queries are not used.

    Shapes: (B, H * W, dim), (B, S, dim) or None -> (B, H * W, dim)
    """

    index: torch.Tensor

    def __init__(self, dim: int, heads: int, grid: tuple[int, int], cross_tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, grid[0] * grid[1]))
        self.register_buffer("index", _distances(*grid), persistent=False)
        if cross_tokens:
            self.s_scale_factors = nn.Parameter(torch.ones(1, cross_tokens, 1))
            self.s_norm = nn.LayerNorm(dim)
            self.s_token_bias = nn.Parameter(torch.zeros(1, heads, 1, cross_tokens))

    def calibrate(self, s: torch.Tensor) -> torch.Tensor:
        """Earlier tokens as they are attended; the norm undoes the factors but for their sign."""
        return self.s_norm(s * self.s_scale_factors)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor, s: torch.Tensor | None = None) -> torch.Tensor:
        """Read from this block's tokens and from those of earlier blocks."""
        tokens, dim = x.shape[1:]
        bias = self.attention_biases[:, self.index]
        if s is not None:
            x = torch.cat([x, self.calibrate(s)], dim=1)
            bias = torch.cat([bias, self.s_token_bias[0].expand(-1, tokens, -1)], dim=2)
        qkv = self.qkv(x).reshape(x.shape[0], -1, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = q[:, :, :tokens] * (dim // self.heads) ** -0.5
        weights = (q @ k.transpose(-2, -1) + bias).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _distances(height: int, width: int) -> torch.Tensor:
    """|dy| * width + |dx| between all pairs of positions, row-major: (H * W, H * W)."""
    rows, cols = torch.arange(height), torch.arange(width)
    dy = (rows[:, None] - rows[None]).abs()
    dx = (cols[:, None] - cols[None]).abs()
    return (dy[:, None, :, None] * width + dx[None, :, None, :]).reshape(height * width, -1)


class Mlp(nn.Module):
    """`fc2(gelu(fc1(LN(x))))`, four times as wide inside.

    Shape: (B, N, dim) -> (B, N, dim)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise, widen, narrow."""
        return self.fc2(self.act(self.fc1(self.norm(x))))  # type: ignore[no-any-return]


class FcaBlock(nn.Module):
    """Cross attention, token merging and enhancement, feed-forward.

    Shapes: (B, dim, H, W), (B, S, dim) or None
        -> (B, dim, H, W), (B, ceil(H / 4) * ceil(W / 4), dim) or None
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        grid: tuple[int, int],
        cross_tokens: int,
        merges: bool,
        drop_path: float,
    ) -> None:
        """Build the block.

        Args:
            dim: channels.
            heads: of the attention.
            grid: height and width of the map.
            cross_tokens: tokens that earlier blocks leave for this one, 0 for none.
            merges: whether it leaves tokens for later blocks.
            drop_path: stochastic depth.
        """
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = CrossAttention(dim, heads, grid, cross_tokens)
        self.gamma_1 = nn.Parameter(torch.full((dim,), SCALE_INIT))
        merge = nn.Conv2d(dim, dim, 7, MERGE, 3, groups=dim, bias=False) if merges else None
        self.dw_conv = merge
        self.local_conv: nn.Module = ConvNorm(dim, dim, 3, groups=dim)
        # two norms in a row, here and at the start of `mlp`, as published
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.gamma_2 = nn.Parameter(torch.full((dim,), SCALE_INIT))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(
        self, x: torch.Tensor, s: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend, leave merged tokens, filter, mix channels."""
        shape = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x), s))
        x = x.transpose(1, 2).reshape(shape)
        left = None if self.dw_conv is None else self.dw_conv(x).flatten(2).transpose(1, 2)
        x = self.local_conv(x).flatten(2).transpose(1, 2)
        x = x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))
        return x.transpose(1, 2).reshape(shape), left


class Downsample(nn.Sequential):
    """`pw(gelu(dw3x3(gelu(pw(x)))))`, each with BatchNorm; the depthwise one has stride 2.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / 2), ceil(W / 2))
    """

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_chs, out_chs)
        self.act1 = nn.GELU()
        self.conv2 = ConvNorm(out_chs, out_chs, 3, 2, groups=out_chs)
        self.act2 = nn.GELU()
        self.conv3 = ConvNorm(out_chs, out_chs)


class ConvStage(nn.Module):
    """A step down, then ConvNeXt blocks.

    Shape: (B, in_chs, H, W) -> (B, dim, H', W')
    """

    def __init__(self, down: nn.Module, dim: int, rates: Sequence[float]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = down
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, ls_init_value=SCALE_INIT, drop_path=rate) for rate in rates
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Step down, block after block."""
        x = self.downsample(x)
        for block in self.blocks:
            recompute = self.grad_checkpointing and self.training
            x = checkpoint(block, x) if recompute else block(x)
        return x


class FcaStage(nn.Module):
    """A step down, then blocks each of which reads from up to `memory` blocks before it.

    Shape: (B, in_chs, H, W) -> (B, dim, H', W'), H' and W' being `grid`
    """

    def __init__(
        self,
        down: nn.Module,
        dim: int,
        heads: int,
        grid: tuple[int, int],
        img_size: tuple[int, int],
        memory: int,
        rates: Sequence[float],
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.grid, self.img_size, self.memory = grid, img_size, memory
        self.downsample = down
        merged = -(-grid[0] // MERGE) * -(-grid[1] // MERGE)
        blocks = []
        for i, rate in enumerate(rates):
            merges = memory > 0 and i < len(rates) - 1
            cross = min(i, memory) * merged
            blocks.append(FcaBlock(dim, heads, grid, cross, merges, rate))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Step down, block after block, with what they leave for each other."""
        x = self.downsample(x)
        if tuple(x.shape[-2:]) != self.grid:
            raise UsageError(
                f"a map of {x.shape[-2]} x {x.shape[-1]} cannot be attended: this network was "
                f"built for images of {self.img_size[0]} x {self.img_size[1]} (here a map of "
                f"{self.grid[0]} x {self.grid[1]}); resize them, or build it with another img_size"
            )
        left: list[torch.Tensor] = []
        for block in self.blocks:
            s = torch.cat(left, dim=1) if left else None
            recompute = self.grad_checkpointing and self.training
            x, new = checkpoint(block, x, s) if recompute else block(x, s)
            if new is not None:
                left = [*left, new][-self.memory :]
        return x


class FcaFormer(StagedNet):
    """The network: a stem of stride 4, two stages that convolve, two that attend, a head.

    Shape: (B, in_chans, H, W) -> (B, num_classes), H and W being `img_size`
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        memory: int = 12,
        img_size: int | tuple[int, int] = 224,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            dims: channels of each stage; heads have 32 of them.
            depths: blocks of each stage; the last two stages attend.
            memory: how many earlier blocks of its stage a block reads from.
            img_size: height and width of the images, or one number for both, pixels.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        size = to_2tuple(img_size)
        self.stem = nn.Sequential(
            ConvNorm(in_chans, dims[0] // 2, 3, 2), nn.GELU(), ConvNorm(dims[0] // 2, dims[0], 3, 2)
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages: list[nn.Module] = []
        for i, dim in enumerate(dims):
            reduction = 4 << i
            down = Downsample(dims[i - 1], dim) if i else nn.Identity()
            if i < len(dims) - 2:
                stages.append(ConvStage(down, dim, rates[i]))
            else:
                grid = (-(-size[0] // reduction), -(-size[1] // reduction))
                heads = dim // HEAD_DIM
                stages.append(FcaStage(down, dim, heads, grid, size, memory, rates[i]))
            info = {"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        norm = partial(LayerNorm2d, eps=1e-5)
        head = (num_classes, None, global_pool, drop_rate)
        self.set_head(dims[-1], NormMlpClassifierHead(dims[-1], *head, norm_layer=norm))

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates."""
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass to save memory, block by block."""
        self.grad_checkpointing = enable
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def forward_stage(self, stage: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """One stage; it recomputes its blocks itself, because they hand on more than a map."""
        return stage(x)  # type: ignore[no-any-return]


_RENAMES = (
    (r"^patch_embed\.seq\.", "stem."),
    (r"\.c\.(weight|bias)$", r".conv.\1"),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.(attention_biases|s_token_bias|s_scale_factors)$", r".attn.\1"),
    (r"\.(qkv|proj|s_norm)\.(weight|bias)$", r".attn.\1.\2"),
    (r"^norm_head\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in their authors' naming -> ours."""
    if any(name.startswith("stages.") for name in state_dict):
        return state_dict
    out = {}
    for name, tensor in state_dict.items():
        # theirs end with the step down that ours begin with
        name = re.sub(r"^layer_(\d)\.down", lambda m: f"stages.{int(m[1]) + 1}.down", name)
        name = re.sub(r"^layer_(\d)\.", r"stages.\1.", name)
        for pattern, ours in _RENAMES:
            name = re.sub(pattern, ours, name)
        out[name] = tensor
    return out


_VARIANTS: dict[str, dict[str, Any]] = {
    "fcaformer_test": {"dims": (16, 24, 32, 64), "depths": (1, 1, 3, 2)},
    "fcaformer_l1": {"dims": (64, 128, 192, 320), "depths": (2, 2, 6, 2)},
    "fcaformer_l2": {"dims": (96, 192, 320, 480), "depths": (2, 2, 7, 2)},
    "fcaformer_l3": {"dims": (96, 192, 320, 512), "depths": (3, 6, 12, 3)},
    "fcaformer_l4": {"dims": (128, 256, 512, 768), "depths": (3, 6, 12, 3)},
}
_CFG = default_cfg(fixed_input_size=True, crop_pct=0.875)
default_cfgs = generate_default_cfgs(dict.fromkeys(_VARIANTS, _CFG))


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(FcaFormer, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def fcaformer_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.2 M parameters."""
    return _create("fcaformer_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fcaformer_l1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FcaFormer-L1: 80.3 % on ImageNet-1K in 1.4 GMACs, as reported."""
    return _create("fcaformer_l1", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fcaformer_l2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FcaFormer-L2: 83.1 % on ImageNet-1K in 3.6 GMACs, as reported."""
    return _create("fcaformer_l2", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fcaformer_l3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FcaFormer-L3: 84.2 % on ImageNet-1K in 6.7 GMACs, as reported."""
    return _create("fcaformer_l3", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fcaformer_l4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FcaFormer-L4: 84.9 % on ImageNet-1K in 14.5 GMACs, as reported."""
    return _create("fcaformer_l4", pretrained, **kwargs)
