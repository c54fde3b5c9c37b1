"""FMViT, a reconstruction: built as a header describes it, with our own names."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.models import load_state

_SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large"}
_WIDTHS = ("stem_dims", "dims", "mixed_dims", "depths", "stem_strides")


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network, merged after loading if the header says so."""
    given = dict(meta.get("kwargs") or {})
    options = {k: given[k] for k in ("num_classes", "in_chans") if k in given}
    options |= {k: tuple(given[k]) for k in _WIDTHS if k in given}
    model = timm.create_model(_name(meta), **options).to(getattr(torch, meta["dtype"])).eval()
    words = " ".join(str(meta.get(k) or "") for k in ("name", "variant", "prepare")).lower()
    merge = re.search(r"(?<!un)(merge|fuse|deploy|re-?param)", words) is not None
    built: list[nn.Module] = [model]

    def load(state: dict[str, torch.Tensor]) -> None:
        load_state(model, state, meta["name"])
        if merge:
            built[:] = [reparameterize_model(model)]

    return SimpleNamespace(load=load, run=lambda *inputs: built[0](*inputs))


def _name(meta: dict[str, Any]) -> str:
    """From fmvit_tiny, FMViT-T and the like."""
    for text in (meta["name"], meta.get("variant") or ""):
        found = re.search(r"fmvit[-_ ]?(tiny|small|base|large|[tsbl])(?![a-z])", text.lower())
        if found:
            return f"fmvit_{_SIZES[found[1][0]]}"
    raise ValueError(f"no size of FMViT in {meta['name']!r} and {meta.get('variant')!r}")
