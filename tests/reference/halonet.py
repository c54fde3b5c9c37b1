"""HaloNet, or its attention alone, as a record describes it."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sinet.layers.halo_attention import HaloAttention
from sinet.models import load_state
from sinet.models.halonet import HaloNet

FIGURES: dict[str, tuple[int, int, float, float, int, int]] = {
    "h0": (8, 3, 1.0, 0.5, 7, 0),
    "h1": (8, 3, 1.0, 1.0, 10, 0),
    "h2": (8, 3, 1.0, 1.25, 11, 0),
    "h3": (10, 3, 1.0, 1.5, 12, 1024),
    "h4": (12, 2, 1.0, 3.0, 12, 1280),
    "h5": (14, 2, 2.5, 2.0, 23, 1536),
    "h6": (8, 4, 3.0, 2.75, 24, 1536),
    "h7": (10, 3, 4.0, 3.5, 26, 2048),
}


def first(kwargs: dict[str, Any], *names: str, default: Any = None) -> Any:
    return next((kwargs[n] for n in names if kwargs.get(n) is not None), default)


def network(meta: dict[str, Any], state: dict[str, torch.Tensor]) -> HaloNet:
    kwargs = meta.get("kwargs") or {}
    found = None
    for text in (meta["name"].lower(), meta.get("variant", "").lower()):
        found = found or re.search(r"(?<![a-z0-9])h([0-7])(?![a-z0-9])", text)
    line = FIGURES[f"h{found[1]}"] if found else None
    if line is None and first(kwargs, "block", "block_size") is None:
        raise ValueError(f"{meta['name']}: no size of HaloNet in it; known: {sorted(FIGURES)}")
    block, halo, value_ratio, output_ratio, _, _ = line or FIGURES["h0"]
    block = first(kwargs, "block", "block_size", "b", default=block)
    depths = [0, 0, 0, 0]  # the rest is read off the parameters, whatever the record calls it
    heads, widths = [1] * 4, [64] * 4
    for name, value in state.items():
        if name.endswith("self_attn.q.weight"):
            stage, place = (int(part) for part in name.split(".")[1:3])
            depths[stage] = max(depths[stage], place + 1)
            widths[stage] = value.shape[0]
            table = state[name.replace("q.weight", "pos_embed.height_rel")]
            heads[stage] = value.shape[0] // table.shape[1]
            halo = ((table.shape[0] + 1) // 2 - block) // 2
            kv = state[name.replace("q.weight", "kv.weight")]
            value_ratio = (kv.shape[0] - value.shape[0]) / value.shape[0]
        if name.endswith("conv3_1x1.conv.weight"):
            stage = int(name.split(".")[1])
            output_ratio = value.shape[0] / widths[stage]
    final = state.get("final_conv.conv.weight")
    return HaloNet(
        block,
        halo,
        value_ratio,
        output_ratio,
        depths,
        final_width=0 if final is None else final.shape[0],
        widths=widths,
        heads=heads,
        act_layer=first(kwargs, "act", "act_layer", default="relu"),
        num_classes=len(state["head.fc.weight"]) if "head.fc.weight" in state else 0,
        in_chans=state["stem.conv1.conv.weight"].shape[1],
    )


def layer(meta: dict[str, Any], state: dict[str, torch.Tensor]) -> HaloAttention:
    kwargs = meta.get("kwargs") or {}
    separate = "to_q.weight" in state  # lucidrains' convention
    heads = first(kwargs, "num_heads", "heads", default=8)
    dim_head = first(kwargs, "dim_head")
    if separate:
        dim_head = state["rel_pos_emb.rel_height"].shape[1]
    dim = state["to_q.weight" if separate else "q.weight"].shape[1]
    return HaloAttention(
        dim,
        dim_head * heads if separate else first(kwargs, "dim_out", default=dim),
        heads,
        state["rel_pos_emb.rel_height" if separate else "pos_embed.height_rel"].shape[1],
        first(kwargs, "block_size", "block", default=8),
        first(kwargs, "halo_size", "halo", default=3),
        first(kwargs, "stride", default=1),
        mask=first(kwargs, "mask", default=separate),
        scale_position=first(kwargs, "scale_pos_embed", default=separate),
        project=separate,
    )


def build(meta: dict[str, Any]) -> SimpleNamespace:
    made: list[nn.Module] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        alone = not any(name.startswith("stages.") for name in state)
        model = (layer if alone else network)(meta, state)
        model = model.to(getattr(torch, meta["dtype"])).eval()
        load_state(model, state, meta["name"])
        made[:] = [model]

    return SimpleNamespace(load=load, run=lambda *inputs: made[0](*inputs))
