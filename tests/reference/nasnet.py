"""NASNet-A: mobile, large, CIFAR and any other stack of the two cells, TensorFlow's padding."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.utils import reparameterize_model

from sinet.models import load_state
from sinet.models.nasnet import NASNet, convert

_WORDS = {"mobile": (4, 1056), "large": (6, 4032), "cifar": (6, 768)}
_REGISTERED = {spec: f"nasnet_{word}" for word, spec in _WORDS.items()}


def _stack(text: str) -> tuple[int, int]:
    """Normal cells of a stage and channels before the classifier: from "N @ P" or a word."""
    if spec := re.search(r"(\d+)\s*@\s*(\d+)", text):
        return int(spec[1]), int(spec[2])
    for word, known in _WORDS.items():
        if word in text.lower():
            return known
    raise ValueError(f"unknown NASNet {text!r}")


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes; it is made when its state is known."""
    text = f"{meta.get('variant', '')} {meta['name']}"
    stack, kwargs = _stack(text), dict(meta.get("kwargs") or {})
    fused = any(word in str(meta.get("prepare", "")) for word in ("fuse", "deploy", "reparam"))
    built: list[torch.nn.Module] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        options = _read_off(state)
        if stack in _REGISTERED:
            model = timm.create_model(_REGISTERED[stack], **options)
        else:
            skip = any(kwargs.get(k) for k in ("skip_reduction", "skip_reduction_layer_input"))
            cells = {name.split(".")[1] for name in convert(state) if name.startswith("cells.")}
            small = len(cells) == 3 * stack[0] + 2  # without the two of the stem
            options = {"dim": stack[1] // 24, "stem_width": 96, **options}
            model = NASNet(3 * stack[0], **options, skip_reduction_input=skip, small_images=small)
        model = model.to(getattr(torch, meta["dtype"])).eval()
        load_state(model, state, meta["name"])
        built[:] = [reparameterize_model(model) if fused else model]

    return SimpleNamespace(load=load, run=lambda *inputs: built[0](*inputs))


def _read_off(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Widths, classes and channels."""
    first = state.get("conv0.conv.weight", state.get("stem.conv.weight"))
    last = state.get("last_linear.weight", state.get("head.fc.weight"))
    if first is None:
        return {}
    options = {"stem_width": first.shape[0], "in_chans": first.shape[1], "num_classes": 0}
    if last is not None:
        options |= {"num_classes": last.shape[0], "dim": last.shape[1] // 24}
    return options
