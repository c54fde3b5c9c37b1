"""The network of SVHNClassifier-PyTorch, or its trunk alone, as a record describes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sinet.models.svhn_multidigit import MultiDigitNet, convert


def plain(state: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state without wrappers: `model._hidden1`, or `0` where layers were put in a row."""
    out = {}
    for key, value in state.items():
        if found := re.search(r"_(?:hidden|digit)\w+\..*", key):
            out[found[0]] = value
        elif found := re.search(r"(?<!\w)(\d+)\.(\d\.\w+)$", key):
            out[f"_hidden{int(found[1]) + 1}.{found[2]}"] = value
        else:
            raise ValueError(f"{name}: {key} is no parameter of this network")
    return out


def build(meta: Mapping[str, Any]) -> SimpleNamespace:
    """Six outputs, or what the last layer in the state gives: a map, or hidden units."""
    model = MultiDigitNet(batch_norm=True, drop_rate=0.2).eval().to(getattr(torch, meta["dtype"]))
    text = f"{meta['name']} {meta.get('variant', '')}".lower()
    parts: list[nn.Module] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        ours = convert(plain(state, meta["name"]))
        groups = {name.split(".")[0] for name in ours}
        chosen = [part for part in ("features", "dense", "length", "digits") if part in groups]
        missing = {
            name
            for name, value in model.state_dict().items()
            if name.split(".")[0] in groups and value.is_floating_point()
        } - ours.keys()
        partial = {name for name in missing if name.split(".")[0] != "dense"}
        done = model.load_state_dict(ours, strict=False)
        if partial or done.unexpected_keys:
            raise ValueError(f"{meta['name']}: lacks {sorted(partial)}, {done.unexpected_keys}")
        trunk_only = "digits" not in chosen or re.search(r"trunk|features?\b", text)
        layers = [model.features]
        if "dense" in chosen and not re.search(r"conv\w* (?:trunk|features?)|hidden8", text):
            count = 1 + max(int(name.split(".")[1]) for name in ours if name.startswith("dense."))
            layers += [nn.Flatten(), model.dense[:count]]
        parts[:] = layers if trunk_only else [model]

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        if parts == [model]:
            length, digits = model(*inputs)
            return [length, *digits.unbind(1)]
        return [nn.Sequential(*parts)(*inputs)]

    return SimpleNamespace(load=load, run=run)
