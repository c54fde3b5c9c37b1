"""FcaFormer as a reference case describes it."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.models import load_state
from sinet.models.fcaformer import HEAD_DIM, FcaFormer

_SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "l1": {"dims": (64, 128, 192, 320), "depths": (2, 2, 6, 2)},
    "l2": {"dims": (96, 192, 320, 480), "depths": (2, 2, 7, 2)},
    "l3": {"dims": (96, 192, 320, 512), "depths": (3, 6, 12, 3)},
    "l4": {"dims": (128, 256, 512, 768), "depths": (3, 6, 12, 3)},
}
_OTHERS = {"num_classes": int, "in_chans": int}


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes, in evaluation mode."""
    kwargs, words = dict(meta.get("kwargs") or {}), f"{meta['name']} {meta.get('variant', '')}"
    model = FcaFormer(**_numbers(kwargs, words)).to(getattr(torch, meta["dtype"])).eval()
    built: list[nn.Module] = [model]

    def load(state: dict[str, torch.Tensor]) -> None:
        load_state(model, {k: v for k, v in state.items() if v.is_floating_point()}, meta["name"])
        if re.search(r"\b(fused|deploy\w*|merged)\b", words.lower()):
            built[:] = [reparameterize_model(model)]

    return SimpleNamespace(load=load, run=lambda *inputs: built[0](*inputs))


def _numbers(kwargs: dict[str, Any], words: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    if found := re.search(r"fcaformer[-_ ]?(l[1-4])", words.lower()):
        numbers |= _SIZES[found.group(1)]
    for ours, theirs in (("dims", ("embed_dims", "embed_dim", "dims")), ("depths", ("depths",))):
        for key in theirs:
            if key in kwargs:
                numbers[ours] = tuple(kwargs[key])
    if set(numbers) != {"dims", "depths"}:
        raise ValueError(f"cannot tell which FcaFormer {words!r} with {kwargs} is")
    heads = [dim // HEAD_DIM for dim in numbers["dims"][-2:]]
    if list(kwargs.get("num_heads", heads))[-2:] != heads:
        raise ValueError(f"heads of {HEAD_DIM} channels would be {heads}, not {kwargs}")
    for key in ("cab_max_d", "max_d", "memory", "M"):
        if key in kwargs:
            numbers["memory"] = int(kwargs[key])
    if "memory" not in numbers and (found := re.search(r"\b(?:cab_max_d|M)\s*=\s*(\d+)", words)):
        numbers["memory"] = int(found.group(1))
    for key in ("img_size", "image_size", "input_size", "resolution"):
        if key in kwargs:
            size = kwargs[key]
            numbers["img_size"] = tuple(size)[-2:] if isinstance(size, list | tuple) else int(size)
    return numbers | {key: cast(kwargs[key]) for key, cast in _OTHERS.items() if key in kwargs}
