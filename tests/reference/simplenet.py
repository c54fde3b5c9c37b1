"""SimpleNet: the authors' variant names and options -> ours."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.utils import reparameterize_model

from sinet.models import load_state

_ORDER_OF_THE_PYTORCH_FILE = {"pointwise": (10, 11)}
_EXTRA_POOL = {"pools": (4, 7, 9, 10, 12)}
_MODES = {0: (), 1: (0, 1, 2), 2: (0, 1, 3), 3: (0, 1, 4), 4: (0, 2, 4)}


def _layer(position: int, pools: tuple[int, ...]) -> int:
    """The authors' position in a list that counts poolings -> ours, which does not."""
    before = [pool + i for i, pool in enumerate(pools)]
    return position - sum(p <= position for p in before)


def _network(variant: str, kwargs: dict[str, Any]) -> torch.nn.Module:
    names = ("num_classes", "in_chans", "scale")
    options = {key: kwargs[key] for key in names if key in kwargs}
    if variant == "simplenet":  # the generic builder: 5m or 9m, any width and mode
        base = ("simplenetv1_5m_m2", "simplenetv1_9m_m2")[kwargs.get("network_idx", 0)]
        mode = _MODES[kwargs.get("mode", 2)]
        options["strided"] = tuple(_layer(position, (6, 10)) for position in mode)
        return timm.create_model(base, **{"num_classes": 1000, **options})
    if "460k" in variant and "caffe" not in variant:
        options.update(_ORDER_OF_THE_PYTORCH_FILE)
    if "extra_pool" in variant:
        options.update(_EXTRA_POOL)
    variant = variant.removesuffix("_extra_pool").removesuffix("_caffe")
    if "cifar" in variant:  # the authors' default is 1000 classes everywhere
        options = {"num_classes": 1000, **options}
    if not timm.is_model(variant):
        raise ValueError(f"unknown SimpleNet {variant!r}")
    return timm.create_model(variant, **options)


def _variant(meta: dict[str, Any]) -> str:
    """The authors' name of the network, in a sentence or, shortened, in the case's name."""
    text = str(meta.get("variant") or "").lower()
    named = re.search(r"simplenet\w*", text) or re.search(r"simplenet\w*", meta["name"].lower())
    found = named[0] if named else text
    if timm.is_model(short := found.replace("simplenet_", "simplenetv1_", 1)):
        return short
    return found


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes."""
    model = _network(_variant(meta), dict(meta.get("kwargs") or {}))
    model = model.to(getattr(torch, meta["dtype"])).eval()
    fused = any(word in str(meta.get("prepare", "")) for word in ("fuse", "deploy", "reparam"))

    def load(state: dict[str, torch.Tensor]) -> None:
        load_state(model, state, meta["name"])

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        return (reparameterize_model(model) if fused else model)(*inputs)

    return SimpleNamespace(load=load, run=run)
