"""HorNet as a record describes it; filter sizes come from the recorded parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sinet.models import load_state
from sinet.models.hornet import HorNet

BASES = {"tiny": 64, "small": 96, "base": 128, "large": 192, "t": 64, "s": 96, "b": 128, "l": 192}


def base_dim(meta: dict[str, Any]) -> int:
    kwargs = meta.get("kwargs") or {}
    if "base_dim" in kwargs:
        return int(kwargs["base_dim"])
    text = f"{meta['name']} {meta.get('variant', '')}".lower().replace("-", " ").replace("_", " ")
    for word in text.split():
        if word in BASES:
            return BASES[word]
    raise ValueError(f"{meta['name']}: no size of HorNet in {text!r}; known: {sorted(BASES)}")


def filters(state: dict[str, torch.Tensor]) -> list[tuple[int, int] | None]:
    """Rows and columns of the global filter of each stage, None where there is none."""
    found: list[tuple[int, int] | None] = [None] * 4
    for name, value in state.items():
        if name.endswith("complex_weight"):
            found[int(name.split(".")[1])] = (value.shape[1], value.shape[2])
    return found


def build(meta: dict[str, Any]) -> SimpleNamespace:
    kwargs = meta.get("kwargs") or {}
    options = {
        "base_dim": base_dim(meta),
        "depths": kwargs.get("depths", (2, 3, 18, 2)),
        "orders": kwargs.get("orders", (2, 3, 4, 5)),
    }
    made: list[nn.Module] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        classes = len(state["head.weight"]) if "head.weight" in state else 0
        in_chans = state["downsample_layers.0.0.weight"].shape[1]
        model = HorNet(
            **options, filter_sizes=filters(state), num_classes=classes, in_chans=in_chans
        )
        model = model.to(getattr(torch, meta["dtype"])).eval()
        load_state(model, state, meta["name"])
        made[:] = [model]

    return SimpleNamespace(load=load, run=lambda *inputs: made[0](*inputs))
