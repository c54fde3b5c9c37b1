"""Self-normalizing networks: the tutorials' networks, fully connected ones of any widths."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch import nn

from sinet.models import load_state


def _swap_activation(model: nn.Module) -> nn.Module:
    """The tutorials' baseline: ReLU in place of SELU."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SELU):
                setattr(module, name, nn.ReLU())
    return model


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes."""
    variant, kwargs = str(meta["variant"]), dict(meta.get("kwargs") or {})
    words = f"{variant} {meta['name']}".lower()
    options = {k: kwargs[k] for k in ("num_classes", "in_chans", "img_size") if k in kwargs}
    sizes = re.search(r"\d+(?:-\d+)+", variant)
    if "cnn" in words or "conv" in words:
        name = "snn_cnn"
    elif "mlp" in words or sizes:
        name = "snn_mlp"
    else:
        raise ValueError(f"unknown self-normalizing network {variant!r}")
    if sizes and name == "snn_mlp":
        inputs, *widths, classes = (int(size) for size in sizes.group().split("-"))
        options = {"widths": tuple(widths), "num_classes": classes, **options}
        if inputs == 3072:
            options = {"in_chans": 3, "img_size": 32, **options}
    model = timm.create_model(name, **options)
    if not kwargs.get("use_selu", True):
        _swap_activation(model)
    model = model.to(getattr(torch, meta["dtype"])).eval()

    def load(state: dict[str, torch.Tensor]) -> None:
        load_state(model, state, meta["name"])

    return SimpleNamespace(load=load, run=model)
