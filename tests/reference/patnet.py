"""PATNet as the header of a reference case describes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.utils import reparameterize_model

import sinet.models

# the authors' argument -> ours; the others of theirs say nothing about the network's function
_ARGUMENTS = {
    "embed_dim": "dim",
    "depths": "depths",
    "heads": "num_heads",
    "num_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "use_spatial_attn": "partial_mlp",
    "feature_dim": "head_width",
    "num_classes": "num_classes",
    "in_chans": "in_chans",
}
_FIXED = {"n_div": 4, "use_channel_attn": True, "auto_div": False, "layer_scale_init_value": 0}


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network: the registered name where there is one, changed by the header's arguments."""
    given = dict(meta.get("kwargs") or {})
    for name, value in _FIXED.items():
        if given.get(name, value) != value:
            raise ValueError(f"{name}={given[name]} is not PATNet; expected {value}")
    options = {ours: given[theirs] for theirs, ours in _ARGUMENTS.items() if theirs in given}
    if act := given.get("act", given.get("act_layer")):
        options["act_layer"] = str(act).lower()
    if "num_heads" not in options and "patnet_t0" in given:
        options["num_heads"] = 4 if given["patnet_t0"] else 6
    name = "_".join(meta["name"].lower().split("_")[:2])
    if not timm.is_model(name):
        if not {"dim", "depths"} <= options.keys():
            raise ValueError(
                f"{meta['name']} is not registered and its kwargs lack embed_dim, depths"
            )
        name = "patnet_t2"
    model = timm.create_model(name, **options).to(getattr(torch, meta["dtype"])).eval()
    merged = any(word in meta.get("variant", "").lower() for word in ("merged", "fused", "deploy"))

    def load(state: dict[str, torch.Tensor]) -> None:
        sinet.models.load_state(model, state, meta["name"])

    def run(x: torch.Tensor) -> torch.Tensor:
        return (reparameterize_model(model) if merged else model)(x)

    return SimpleNamespace(load=load, run=run, model=model)
