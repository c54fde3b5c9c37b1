"""IBN-Nets as the header of a reference case describes them."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import timm
import torch

import sinet.models
from sinet.models import ibnnet  # registers the family even where its package does not

_NET = re.compile(r"(se[-_]?)?(resnet|resnext|densenet)[-_]?(\d+)(?:[-_]ibn)?[-_]?([ab])?")
_KINDS = {
    ("", "resnet"): ibnnet.IBNResNet,
    ("", "resnext"): ibnnet.IBNResNet,
    ("se_", "resnet"): ibnnet.IBNResNet,
    ("", "densenet"): ibnnet.IBNDenseNet,
}


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network: `name` or `variant` says resnet50_ibn_a and the like in some spelling."""
    for text in (meta.get("variant", ""), meta["name"].removeprefix("ibnnet_")):
        found = _NET.search(text.lower())
        if found:
            break
    else:
        raise ValueError(f"{meta['name']}: neither name nor variant says which network")
    se, family, depth, letter = found.groups()
    se = "se_" if se else ""
    name = f"{se}{family}{depth}_ibn_{letter or meta['name'][-1]}"
    if not timm.is_model(name) or (se, family) not in _KINDS:
        raise ValueError(f"{meta['name']}: there is no {name}")
    given = dict(meta.get("kwargs") or {})
    options = {key: given[key] for key in ("num_classes", "in_chans") if key in given}
    model = timm.create_model(name, **options).to(getattr(torch, meta["dtype"])).eval()

    def load(state: dict[str, torch.Tensor]) -> None:
        sinet.models.load_state(model, state, meta["name"])

    return SimpleNamespace(load=load, run=model, model=model)
