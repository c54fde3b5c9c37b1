"""Inception-v4 and Inception-ResNet v1 and v2: ours and timm's, with the ports' names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.utils import reparameterize_model
from torch.nn import functional as F

from sinet.models import load_state
from sinet.models._convert_inceptionv4 import convert as convert_v2

_CLASSIFIERS = {
    "inception_resnet_v1": "logits",
    "inception_resnet_v2": "classif",
    "inception_v4": "last_linear",
}


def _name(text: str) -> str:
    text = text.lower().replace("-", "").replace("_", "")
    for word, name in (
        ("inceptionresnetv2", "inception_resnet_v2"),
        ("irv2", "inception_resnet_v2"),
        ("inceptionresnetv1", "inception_resnet_v1"),
        ("irv1", "inception_resnet_v1"),
        ("inceptionv4", "inception_v4"),
    ):
        if word in text:
            return name
    raise ValueError(f"unknown Inception {text!r}")


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes; v1 gives an embedding unless told to classify."""
    kwargs = dict(meta.get("kwargs") or {})
    name = _name(f"{meta.get('variant', '')} {meta['name'].removeprefix('inceptionv4_')}")
    classify = name != "inception_resnet_v1" or bool(kwargs.get("classify", False))
    fused = any(word in str(meta.get("prepare", "")) for word in ("fuse", "deploy", "reparam"))
    built: list[torch.nn.Module] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        if name == "inception_resnet_v2":  # timm's only other name than the ports'
            state = convert_v2(state)
        if not classify:
            state = {k: v for k, v in state.items() if not k.startswith("logits.")}
        classifier = f"{_CLASSIFIERS[name]}.weight"
        classes = state[classifier].shape[0] if classify and classifier in state else 0
        model = timm.create_model(name, num_classes=classes)
        model = model.to(getattr(torch, meta["dtype"])).eval()
        load_state(model, state, meta["name"])
        built[:] = [reparameterize_model(model) if fused else model]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = built[0](*inputs)
        return out if classify else F.normalize(out, dim=1)

    return SimpleNamespace(load=load, run=run)
