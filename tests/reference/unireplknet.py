"""Ours, built as a reference case of UniRepLKNet describes it."""

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
from sinet.models.unireplknet import UniRepLKNet

KERNELS = {6: ((3,), (13,), (13,), (13,)), 8: ((3,), (13,), (13,), (13,))}
KERNELS |= {18: ((3,), (13,), (13, 3), (13,)), 27: ((3,), (13,), (13, 3, 3), (13,))}


def _network(meta: Mapping[str, Any]) -> nn.Module:
    kwargs = dict(meta.get("kwargs") or {})
    classes = {k: kwargs[k] for k in ("num_classes", "in_chans") if kwargs.get(k) is not None}
    if "dims" in kwargs and "depths" in kwargs:
        sizes = kwargs.get("kernel_sizes") or KERNELS.get(kwargs["depths"][2])
        if sizes is None:
            raise ValueError(f"depths {kwargs['depths']} without kernel_sizes")
        return UniRepLKNet(kwargs["dims"], kwargs["depths"], sizes, **classes)
    for text in (meta["name"], meta.get("variant", "")):
        found = re.search(r"unireplknet[-_ ]?(xl|[afpntsbl])(?![a-z])", text.lower())
        if found:
            return timm.create_model(f"unireplknet_{found[1]}", **classes)
    raise ValueError(f"no variant of UniRepLKNet in {meta['name']!r}, {meta.get('variant')!r}")


def build(meta: Mapping[str, Any]) -> SimpleNamespace:
    """The network; merged if the state that is loaded is."""
    model = _network(meta).eval().to(getattr(torch, meta["dtype"]))

    def load(state: dict[str, torch.Tensor]) -> None:
        nonlocal model
        if not any("norm.running_mean" in name for name in state):
            model = reparameterize_model(model)
        load_state(model, state, meta["name"])

    return SimpleNamespace(load=load, run=lambda *inputs: model(*inputs))
