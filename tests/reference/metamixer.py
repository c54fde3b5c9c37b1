"""Ours, built as a reference case of MetaMixer (FFNet, FFNetSR) describes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.models import load_state
from sinet.models.metamixer import FFNetSR


def _network(meta: Mapping[str, Any]) -> nn.Module:
    kwargs = dict(meta.get("kwargs") or {})
    texts = (meta["name"].lower(), meta.get("variant", "").lower())
    if (
        any(re.search(r"ffnet[-_ ]?sr", text) for text in texts)
        or "conv_bef_up" in kwargs
        or "scale" in kwargs
    ):
        if kwargs.get("norm") not in (None, "none", "None"):
            raise ValueError(f"FFNetSR has no norm, the case has {kwargs['norm']!r}")
        expansion = kwargs.get("expansion_ratio", 2)
        sizes = (kwargs.get("scale", 2), kwargs.get("dim", 96), kwargs.get("depth", 36))
        return FFNetSR(*sizes, expansion)
    options = {k: kwargs[k] for k in ("num_classes", "in_chans") if k in kwargs}
    for text in texts:
        if found := re.search(r"ffnet[-_ ]?([1-4])(?!\d)", text):
            return timm.create_model(f"ffnet_{found[1]}", **options)
    raise ValueError(f"no variant of FFNet in {texts}")


def build(meta: Mapping[str, Any]) -> SimpleNamespace:
    """The network; merged if the state that is loaded is."""
    model = _network(meta).eval().to(getattr(torch, meta["dtype"]))

    def load(state: dict[str, torch.Tensor]) -> None:
        nonlocal model
        if "patch_embed.0.weight" in state:  # the stem's first convolution has a bias: merged
            model = reparameterize_model(model)
        load_state(model, state, meta["name"])

    return SimpleNamespace(load=load, run=lambda *inputs: model(*inputs))
