"""CFSR as a record describes it: any scale and size, in the training form or merged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from sinet.models import load_state
from sinet.models.cfsr import CFSR


def network(meta: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> CFSR:
    """The training form, its sizes read off the parameters."""
    kwargs = meta.get("kwargs") or {}
    if "conv_first.weight" not in state:
        raise ValueError(f"{meta['name']}: no CFSR, parameters start with {list(state)[:3]}")
    if kwargs.get("upsampler", "pixelshuffledirect") != "pixelshuffledirect":
        raise ValueError(f"CFSR ends in one pixel shuffle, the case has {kwargs['upsampler']!r}")
    if kwargs.get("img_range", 1.0) != 1.0:
        raise ValueError(f"CFSR takes values from 0 to 1, the case up to {kwargs['img_range']}")
    dim, in_chans = state["conv_first.weight"].shape[:2]
    depths: dict[int, int] = {}
    for name in state:
        if found := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name):
            group, block = int(found[1]), int(found[2])
            depths[group] = max(depths.get(group, 0), block + 1)
    scale = round((len(state["upsample.0.bias"]) / in_chans) ** 0.5)
    text = re.search(r"(?<![a-z0-9])x([234])(?!\d)", f"{meta['name']} {meta.get('variant', '')}")
    given = kwargs.get("upscale", int(text[1]) if text else scale)
    if given != scale:
        raise ValueError(f"{meta['name']}: x{given} described, the parameters are of x{scale}")
    first = "layers.0.blocks.0."
    return CFSR(
        scale,
        dim,
        [depths[group] for group in sorted(depths)],
        state[f"{first}attn.a.2.lkb_reparam.weight"].shape[-1],
        len(state[f"{first}mlp.fc1.bias"]) / dim,
        in_chans,
    )


def build(meta: Mapping[str, Any]) -> SimpleNamespace:
    """The network; merged if the state that is loaded is, or if the record says so."""
    made: list[CFSR] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        dtype = getattr(torch, meta["dtype"])
        model = network(meta, state).eval().to(dtype)
        text = f"{meta['name']} {meta.get('variant', '')}".lower()
        merged = not any(name.endswith("scale_sobel_x") for name in state)
        if merged:
            model = model.fuse()
        load_state(model, state, meta["name"])
        unmerged = re.search(r"un-?(?:fused|merged)", text)
        if not merged and not unmerged and re.search(r"fused|merged|deploy", text):
            model = model.fuse()
        made[:] = [model]

    return SimpleNamespace(load=load, run=lambda *inputs: made[0](*inputs))
