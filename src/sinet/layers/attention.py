"""Small self-attention over a feature map: few heads, narrow keys, whole map or windows."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from sinet.layers.conv import ConvNorm, NormLayer

KEY_DIM = 16
HEAD_DIM = 32


def split_windows(x: torch.Tensor, rows: int, cols: int, sparse: bool = False) -> torch.Tensor:
    """Cut a map into `rows` x `cols` equal windows; sparse ones spread over the whole map.

    Shape: (B, C, H, W) -> (B * rows * cols, C, H / rows, W / cols)
    """
    b, c, h, w = x.shape
    if sparse:  # a window is every `rows`-th pixel of every `cols`-th column
        x = x.reshape(b, c, h // rows, rows, w // cols, cols).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(-1, c, h // rows, w // cols)
    x = x.reshape(b, c, rows, h // rows, cols, w // cols)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, h // rows, w // cols)


def join_windows(x: torch.Tensor, rows: int, cols: int, sparse: bool = False) -> torch.Tensor:
    """Undo `split_windows`.

    Shape: (B * rows * cols, C, h, w) -> (B, C, h * rows, w * cols)
    """
    _, c, h, w = x.shape
    x = x.reshape(-1, rows, cols, c, h, w)
    if sparse:
        return x.permute(0, 3, 4, 1, 5, 2).reshape(-1, c, h * rows, w * cols)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(-1, c, h * rows, w * cols)


class SmallAttention(nn.Module):
    """Multi-head self-attention in a bottleneck of `ratio` x `dim` channels.

    `x + proj(softmax(q^T k / sqrt(16)) v)` with q, k of 16 channels and v of 32 a head. Positions
    come from the depthwise convolution before it, so any map size works. Maps of up to `window` x
    `window` are attended as a whole; larger ones in the fewest equal windows of at most that
    size, the border repeated where the size does not divide. Sparse windows have as many positions,
    but evenly spread over the whole map. A `window` of 0 attends the whole map, however large.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self,
        dim: int,
        ratio: float = 0.25,
        window: int = 16,
        norm_layer: NormLayer = nn.BatchNorm2d,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.heads = max(1, round(dim * ratio / HEAD_DIM))
        self.window, self.sparse = window, sparse
        self.qkv = ConvNorm(dim, self.heads * (2 * KEY_DIM + HEAD_DIM), norm_layer=norm_layer)
        self.proj = ConvNorm(self.heads * HEAD_DIM, dim, norm_layer=norm_layer)

    def attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """Attention of every position to all others.

        Shape: (B, heads * 64, H, W) -> (B, heads * 32, H, W)
        """
        b, _, h, w = qkv.shape
        qkv = qkv.reshape(b, self.heads, 2 * KEY_DIM + HEAD_DIM, h * w)
        q, k, v = torch.split(qkv, [KEY_DIM, KEY_DIM, HEAD_DIM], dim=2)
        weights = (q.transpose(-2, -1) @ k * KEY_DIM**-0.5).softmax(dim=-1)
        out: torch.Tensor = v @ weights.transpose(-2, -1)
        return out.reshape(b, self.heads * HEAD_DIM, h, w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what each position reads from the others."""
        h, w = x.shape[-2:]
        rows, cols = (math.ceil(side / (self.window or side)) for side in (h, w))
        qkv = self.qkv(x)
        if rows * cols == 1:
            out = self.attend(qkv)
        else:
            qkv = F.pad(qkv, (0, -w % cols, 0, -h % rows), mode="replicate")
            out = self.attend(split_windows(qkv, rows, cols, self.sparse))
            out = join_windows(out, rows, cols, self.sparse)
            out = out[:, :, :h, :w]
        x = x + self.proj(out)
        return x
