"""NASNet-A: mobile, large, CIFAR and any other stack of the two cells, TensorFlow's padding."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.utils import reparameterize_model

from sinet.models import load_state

_SPECS = {(4, 1056): "nasnet_mobile", (6, 4032): "nasnet_large", (6, 768): "nasnet_cifar"}


def _name(text: str) -> str:
    if spec := re.search(r"(\d+)\s*@\s*(\d+)", text):
        key = (int(spec[1]), int(spec[2]))
        if key in _SPECS:
            return _SPECS[key]
    for word in ("mobile", "large", "cifar"):
        if word in text.lower():
            return f"nasnet_{word}"
    raise ValueError(f"unknown NASNet {text!r}")


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes; it is made when its state is known."""
    name = _name(f"{meta['variant']} {meta['name']}")
    fused = any(word in str(meta.get("prepare", "")) for word in ("fuse", "deploy", "reparam"))
    built: list[torch.nn.Module] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        model = timm.create_model(name, **_read_off(state)).to(getattr(torch, meta["dtype"])).eval()
        load_state(model, state, meta["name"])
        built[:] = [reparameterize_model(model) if fused else model]

    return SimpleNamespace(load=load, run=lambda *inputs: built[0](*inputs))


def _read_off(state: dict[str, torch.Tensor]) -> dict[str, int]:
    """Widths, classes and channels, where the state has the port's names."""
    if "conv0.conv.weight" not in state:
        return {}
    stem, last = state["conv0.conv.weight"].shape, state.get("last_linear.weight")
    options = {"stem_width": stem[0], "in_chans": stem[1], "num_classes": 0}
    if last is not None:
        options |= {"num_classes": last.shape[0], "dim": last.shape[1] // 24}
    return options
