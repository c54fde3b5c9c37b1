"""Blocked local self-attention with a halo, the operator of HaloNet.

Scaling Local Self-Attention for Parameter Efficient Visual Backbones, arXiv 2103.12731. The
authors published no code; the parameters are named as timm's `HaloAttn` has them, and the other
common convention (lucidrains/halonet-pytorch, MIT) is a matter of options. Unlike both it takes
maps of any size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def halo_windows(x: torch.Tensor, block: int, halo: int) -> torch.Tensor:
    """Every block of a map with the ring of `halo` places around it, zeros beyond the border.

    Made of shifted blocks laid side by side, which is only slices and concatenations: quick in
    both directions and known to every exporter.

    Shape: (B, C, H, W) -> (B, C, H / block, window, W / block, window), window = block + 2 halo
    """
    b, c, h, w = x.shape
    rows, cols = h // block, w // block
    window = block + 2 * halo
    pieces = -(-window // block)
    after = (pieces - 1) * block - halo
    x = F.pad(x, (halo, after, halo, after))
    x = x.reshape(b, c, rows + pieces - 1, block, (cols + pieces - 1) * block)
    x = torch.cat([x[:, :, i : i + rows] for i in range(pieces)], dim=3)[:, :, :, :window]
    x = x.reshape(b, c, rows, window, cols + pieces - 1, block)
    x = torch.cat([x[:, :, :, :, i : i + cols] for i in range(pieces)], dim=5)
    return x[..., :window]


class RelativePosition(nn.Module):
    """Logits for the place of a key relative to its query: `q . R_h[u - y] + q . R_w[v - x]`.

    y, x count the queries of a block and u, v the keys of its window, whose first row lies `halo`
    before the block's; the tables start at u - y = 1 - window. All heads share them.

    Shape: (N, queries, queries, dim) -> (N, queries ** 2, window ** 2)
    """

    def __init__(self, window: int, dim: int) -> None:
        super().__init__()
        self.window = window
        self.height_rel = nn.Parameter(torch.empty(2 * window - 1, dim))
        self.width_rel = nn.Parameter(torch.empty(2 * window - 1, dim))

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        """One product a row and one a column, added over the window."""
        n, side, _, dim = q.shape
        query = torch.arange(side, device=q.device)[:, None]
        place = torch.arange(self.window, device=q.device) - query + self.window - 1
        rows = q.permute(1, 0, 2, 3).reshape(side, n * side, dim)
        rows = rows @ self.height_rel[place].transpose(1, 2)
        cols = q.permute(2, 0, 1, 3).reshape(side, n * side, dim)
        cols = cols @ self.width_rel[place].transpose(1, 2)
        rows = rows.reshape(side, n, side, self.window).permute(1, 0, 2, 3)
        cols = cols.reshape(side, n, side, self.window).permute(1, 2, 0, 3)
        logits: torch.Tensor = rows[..., :, None] + cols[..., None, :]
        return logits.reshape(n, side**2, self.window**2)


class HaloAttention(nn.Module):
    """Every query of a block attends to the block and a ring around it.

        logits = q . k / sqrt(dim_head) + position;  y = softmax(logits) v

    Without biases, so that the zeros beyond the map's border are keys of logit `position` alone.
    Maps whose sides are no multiples of the block are continued by such zeros and cut afterwards.
    With a stride of 2 every second query in both directions is left out, while keys and values
    keep their resolution; a block of odd size is attended as a whole and averaged two by two.

    Shape: (B, dim, H, W) -> (B, dim_out, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        num_heads: int = 8,
        dim_head: int | None = None,
        block_size: int = 8,
        halo_size: int = 3,
        stride: int = 1,
        mask: bool = False,
        scale_position: bool = False,
        project: bool = False,
    ) -> None:
        """Build the layer.

        Args:
            dim: input channels.
            dim_out: channels of the values of all heads together; None = `dim`.
            num_heads: of the attention.
            dim_head: channels of a head's queries and keys; None = those of its values.
            block_size: side of a block, at the input's resolution.
            halo_size: width of the ring, at the input's resolution.
            stride: 1 or 2.
            mask: leave the places beyond the border out of the softmax.
            scale_position: divide the position's logits by sqrt(dim_head) too.
            project: a linear layer at the end, back to `dim` channels.
        """
        super().__init__()
        dim_out = dim_out or dim
        self.num_heads, self.block_size, self.halo_size = num_heads, block_size, halo_size
        self.key_dim, self.value_dim = dim_head or dim_out // num_heads, dim_out // num_heads
        self.query_stride = stride if block_size % stride == 0 else 1
        self.mask, self.scale_position = mask, scale_position
        keys = num_heads * self.key_dim
        self.q = nn.Conv2d(dim, keys, 1, self.query_stride, bias=False)
        self.kv = nn.Conv2d(dim, keys + dim_out, 1, bias=False)
        self.pos_embed = RelativePosition(block_size + 2 * halo_size, self.key_dim)
        pooled = stride != self.query_stride
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if pooled else nn.Identity()
        self.proj = nn.Conv2d(dim_out, dim, 1) if project else nn.Identity()
        for layer in (self.q, self.kv):
            nn.init.trunc_normal_(layer.weight, std=dim**-0.5)
        for table in self.pos_embed.parameters():
            nn.init.trunc_normal_(table, std=self.key_dim**-0.5)

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        """The queries, block by block.

        Shape: (B, dim, H, W) -> (B * heads * blocks, queries, queries, dim_head)
        """
        side = self.block_size // self.query_stride
        q: torch.Tensor = self.q(x)
        b, _, h, w = q.shape
        q = q.reshape(b, self.num_heads, self.key_dim, h // side, side, w // side, side)
        return q.permute(0, 1, 3, 5, 4, 6, 2).reshape(-1, side, side, self.key_dim)

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        """Features of `heads * C` channels, window by window.

        Shape: (B, heads * C, H, W) -> (B * heads * blocks, window ** 2, C)
        """
        b, c = x.shape[:2]
        x = halo_windows(x, self.block_size, self.halo_size)
        rows, window, cols = x.shape[2:5]
        x = x.reshape(b, self.num_heads, c // self.num_heads, rows, window, cols, window)
        return x.permute(0, 1, 3, 5, 4, 6, 2).reshape(-1, window**2, c // self.num_heads)

    def border(self, x: torch.Tensor) -> torch.Tensor:
        """True for keys that lie on the map, for maps like `x` before they were continued.

        Shape: (B, C, H, W) -> (B * heads * blocks, 1, window ** 2)
        """
        b, _, h, w = x.shape
        inside = self.continued(x.new_ones(1, 1, h, w))
        inside = halo_windows(inside, self.block_size, self.halo_size) > 0
        inside = inside.permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(0, 3)
        return inside.repeat(b * self.num_heads, 1)[:, None]

    def continued(self, x: torch.Tensor) -> torch.Tensor:
        """The map with zeros to the right and below, up to whole blocks."""
        h, w = x.shape[-2:]
        right, below = -w % self.block_size, -h % self.block_size
        return F.pad(x, (0, right, 0, below)) if right or below else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend, block by block."""
        image, (b, _, h, w) = x, x.shape
        x = self.continued(x)
        rows, cols = (side // self.block_size for side in x.shape[-2:])
        q = self.queries(x)
        side = q.shape[1]
        k, v = torch.split(self.windows(self.kv(x)), [self.key_dim, self.value_dim], dim=-1)
        scale = self.key_dim**-0.5
        logits = (q * scale).flatten(1, 2) @ k.transpose(1, 2)
        logits = logits + self.pos_embed(q * scale if self.scale_position else q)
        if self.mask:
            logits = logits.masked_fill(~self.border(image), torch.finfo(logits.dtype).min)
        y = logits.softmax(dim=-1) @ v
        y = y.reshape(b, self.num_heads, rows, cols, side, side, self.value_dim)
        y = y.permute(0, 1, 6, 2, 4, 3, 5).reshape(b, -1, rows * side, cols * side)
        h, w = -(-h // self.query_stride), -(-w // self.query_stride)
        return self.proj(self.pool(y[:, :, :h, :w]))  # type: ignore[no-any-return]


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names and layouts of lucidrains' layer -> ours; timm's layer has our names.

    There the keys of all heads come before all values; here each head has its key, then its value.
    """
    if "to_q.weight" not in state_dict:
        return state_dict
    state: dict[str, Any] = dict(state_dict)
    dim_head = state["rel_pos_emb.rel_height"].shape[1]
    k, v = state["to_kv.weight"].unflatten(0, (2, -1, dim_head))
    return {
        "q.weight": state["to_q.weight"][:, :, None, None],
        "kv.weight": torch.stack([k, v], dim=1).flatten(0, 2)[:, :, None, None],
        "pos_embed.height_rel": state["rel_pos_emb.rel_height"],
        "pos_embed.width_rel": state["rel_pos_emb.rel_width"],
        "proj.weight": state["to_out.weight"][:, :, None, None],
        "proj.bias": state["to_out.bias"],
    }
