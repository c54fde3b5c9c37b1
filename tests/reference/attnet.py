"""Ours, built as a reference case of AttNet or of its operator describes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch import nn

from sinet.layers.at_conv import ATConv
from sinet.models import load_state
from sinet.models.attnet import AttNet


def _module(meta: Mapping[str, Any]) -> nn.Module:
    kwargs = dict(meta.get("kwargs") or {})
    texts = (meta["name"], meta.get("variant", ""))
    if "dim" in kwargs:
        return ATConv(kwargs["dim"], kwargs.get("kernel_size", 3))
    options = {k: kwargs[k] for k in ("num_classes", "in_chans") if k in kwargs}
    if "dims" in kwargs and "depths" in kwargs:
        expansions = kwargs.get("exp_rates", (4, 4, 4, 4))
        glu_norm = kwargs.get("glu_norm", True)
        glu_norm = all(glu_norm) if isinstance(glu_norm, (list, tuple)) else glu_norm
        scale = kwargs.get("use_layer_scale", True)
        return AttNet(kwargs["dims"], kwargs["depths"], expansions, glu_norm, scale, **options)
    for text in texts:
        if found := re.search(r"attnet[-_ ]?(xxs|xs|s|t[1-4])(?![a-z0-9])", text.lower()):
            return timm.create_model(f"attnet_{found[1]}", **options)
    raise ValueError(f"no variant of AttNet in {texts}")


def build(meta: Mapping[str, Any]) -> SimpleNamespace:
    """The network, or the operator alone, whose names are the authors' already."""
    model = _module(meta).eval().to(getattr(torch, meta["dtype"]))

    def load(state: dict[str, torch.Tensor]) -> None:
        if isinstance(model, ATConv):
            model.load_state_dict(state)
        else:
            load_state(model, state, meta["name"])

    return SimpleNamespace(load=load, run=lambda *inputs: model(*inputs))
