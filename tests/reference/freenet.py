"""FreeNet as a record describes it: bands, classes, widths and depths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from sinet.models import load_state
from sinet.models.freenet import FreeNet


def network(meta: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> FreeNet:
    kwargs = meta.get("kwargs") or {}
    if "feature_ops.0.0.weight" not in state:
        raise ValueError(f"{meta['name']}: no FreeNet, parameters start with {list(state)[:3]}")
    bands, classes = state["feature_ops.0.0.weight"].shape[1], len(state["cls_pred_conv.bias"])
    found = [re.match(r"feature_ops\.(\d+)\.(\d+)\.1\.0\.bias", name) for name in state]
    depths = [0] * (1 + max(int(m[1]) // 3 for m in found if m))
    for match in found:
        if match:
            depths[int(match[1]) // 3] = max(depths[int(match[1]) // 3], int(match[2]) + 1)
    return FreeNet(
        bands,
        classes,
        kwargs.get("block_channels", (96, 128, 192, 256)),
        kwargs.get("num_blocks", depths),
        kwargs.get("inner_dim", 128),
        kwargs.get("reduction_ratio", 1.0),
    )


def build(meta: Mapping[str, Any]) -> SimpleNamespace:
    """The network."""
    made: list[FreeNet] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        model = network(meta, state).eval().to(getattr(torch, meta["dtype"]))
        load_state(model, state, meta["name"])
        made[:] = [model]

    return SimpleNamespace(load=load, run=lambda *inputs: made[0](*inputs))
