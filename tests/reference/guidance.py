"""Guidance: logits of a deep FCN, 1 - CKA of its 21 pairs with a ResNet-18, and their sum."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import timm
import torch

from sinet.models import load_state
from sinet.models.deep_fcn import DeepFCN
from sinet.training.guidance import Alignment

State = dict[str, torch.Tensor]


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """Target and guide as the header describes them; timm's ResNet-18 has torchvision's names."""
    assert meta["kwargs"]["target"] == "FCN 3072-96-(64)x23-10, BN+ReLU+dropout"
    assert meta["kwargs"]["guide"] == "torchvision resnet18, 10 classes"
    dtype = getattr(torch, meta["dtype"])
    target = DeepFCN((96,) + (64,) * 23, num_classes=10, img_size=32).to(dtype).eval()
    guide = timm.create_model("resnet18", num_classes=10).to(dtype)
    alignment = Alignment(target, guide)

    def load(state: State) -> None:
        for prefix, network in (("target.", target), ("guide.", guide)):
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            load_state(network, own, meta["name"])

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        with alignment.ours.recording():
            logits = target(x)
        distances = alignment.distances(x)
        return [logits, distances, distances.sum()[None]]

    return SimpleNamespace(load=load, run=run)
