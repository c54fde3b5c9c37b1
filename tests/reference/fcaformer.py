"""FcaFormer as a reference case describes it."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.models import load_state
from sinet.models.fcaformer import HEAD_DIM, MERGE, FcaFormer, convert

_SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "l1": {"dims": (64, 128, 192, 320), "depths": (2, 2, 6, 2)},
    "l2": {"dims": (96, 192, 320, 480), "depths": (2, 2, 7, 2)},
    "l3": {"dims": (96, 192, 320, 512), "depths": (3, 6, 12, 3)},
    "l4": {"dims": (128, 256, 512, 768), "depths": (3, 6, 12, 3)},
}
_OTHERS = {"num_classes": int, "in_chans": int}


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes; it is made at the first run, for the images' size."""
    kwargs, words = dict(meta.get("kwargs") or {}), f"{meta['name']} {meta.get('variant', '')}"
    numbers, prepare = _numbers(kwargs, words), str(meta.get("prepare") or "")
    merge = re.search(
        r"\b(fused?|deploy\w*|merged?)\b", re.sub("un-|not ", "un", f"{words} {prepare}".lower())
    )
    recorded: dict[str, torch.Tensor] = {}
    built: list[nn.Module] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        recorded.clear()
        recorded.update(convert({k: v for k, v in state.items() if v.is_floating_point()}))
        built.clear()

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        if not built:
            size = (inputs[0].shape[-2], inputs[0].shape[-1])
            with torch.inference_mode(False):
                model = FcaFormer(**{**_read_off(recorded, size), **numbers}, img_size=size)
                model = model.to(getattr(torch, meta["dtype"])).eval()
                load_state(model, recorded, meta["name"])
                built.append(reparameterize_model(model) if merge else model)
        out: torch.Tensor = built[0](*inputs)
        return out

    return SimpleNamespace(load=load, run=run)


def _read_off(state: dict[str, torch.Tensor], size: tuple[int, int]) -> dict[str, Any]:
    """Classes, channels, and how many blocks a block reads from, each of which leaves `left`."""
    memory = 0
    for name, value in state.items():
        if found := re.fullmatch(r"stages\.(\d)\..*\.s_scale_factors", name):
            stride = 4 << int(found.group(1))
            left = math.prod(math.ceil(math.ceil(side / stride) / MERGE) for side in size)
            memory = max(memory, value.shape[1] // left)
    return {
        "memory": memory,
        "num_classes": len(state["head.fc.weight"]) if "head.fc.weight" in state else 0,
        "in_chans": state["stem.0.conv.weight"].shape[1],
    }


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
    return numbers | {key: cast(kwargs[key]) for key, cast in _OTHERS.items() if key in kwargs}
