"""SpaRTAN as the header of a reference case describes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.utils import reparameterize_model

import sinet.models


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network; the authors' `dims` are the widths after the first, which is `init_dim`."""
    given = dict(meta.get("kwargs") or {})
    depths = tuple(given.get("layer_depths", given.get("depths")) or (3, 3, 12, 2))
    if 0 in depths:
        raise ValueError("stages without blocks are not built")
    first = given.get("init_dim", 32)
    dims = tuple(given.get("dims") or [first * 2 ** (i + 1) for i in range(len(depths) - 1)])
    options: dict[str, Any] = {
        "depths": depths,
        "dims": (first, *dims) if len(dims) < len(depths) else dims,
        "expansions": tuple(given.get("expand_ratios", given.get("expansions")) or (4, 4, 2, 2)),
    }
    for name in ("num_classes", "in_chans"):
        if name in given:
            options[name] = given[name]
    model = timm.create_model("spartan", **options).to(getattr(torch, meta["dtype"])).eval()
    merged = any(word in meta.get("variant", "").lower() for word in ("merged", "fused", "deploy"))

    def load(state: dict[str, torch.Tensor]) -> None:
        sinet.models.load_state(model, state, meta["name"])

    def run(x: torch.Tensor) -> torch.Tensor:
        return (reparameterize_model(model) if merged else model)(x)

    return SimpleNamespace(load=load, run=run, model=model)
