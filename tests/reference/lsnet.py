"""LSNet and its operator as a reference case describes them."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.layers.ls_conv import LSConv
from sinet.models import load_state
from sinet.models.lsnet import LSNet, convert

State = dict[str, torch.Tensor]

_SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "t": {"dims": (64, 128, 256, 384), "depths": (0, 2, 8, 10)},
    "s": {"dims": (96, 192, 320, 448), "depths": (1, 2, 8, 10)},
    "b": {"dims": (128, 256, 384, 512), "depths": (4, 6, 8, 10)},
}


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The module that the header describes; it is made at the first run, for the images' size.

    A second head, the number of classes and the fused form show in the names and shapes of the
    state; widths and depths come from the header.
    """
    kwargs, words = dict(meta.get("kwargs") or {}), f"{meta['name']} {meta.get('variant', '')}"
    operator = "lsconv" in words.lower()
    numbers = _operator(kwargs, words) if operator else _network(kwargs, words)
    recorded: State = {}
    built: list[nn.Module] = []

    def load(state: State) -> None:
        recorded.clear()
        recorded.update({k: v for k, v in convert(state).items() if v.is_floating_point()})
        built.clear()

    def make(size: tuple[int, int]) -> nn.Module:
        read_off = {} if operator else {**_read_off(recorded), "img_size": size}
        model = LSConv(**numbers) if operator else LSNet(**read_off, **numbers)
        model = model.to(getattr(torch, meta["dtype"])).eval()
        fused = not any(name.endswith(".conv.weight") for name in recorded)
        if fused:  # recorded under the names of a fused network
            model = reparameterize_model(model)
        load_state(model, recorded, meta["name"])
        return reparameterize_model(model) if _asks_to_fuse(meta) and not fused else model

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        if not built:
            with torch.inference_mode(False):
                built.append(make((inputs[0].shape[-2], inputs[0].shape[-1])))
        out: torch.Tensor = built[0](*inputs)
        return out

    return SimpleNamespace(load=load, run=run)


def _asks_to_fuse(meta: dict[str, Any]) -> bool:
    words = " ".join(str(meta.get(k) or "") for k in ("name", "variant", "prepare")).lower()
    if re.search(r"training[- ](time )?form|un-?fused|not fused", words):
        return False
    return bool(re.search(r"fuse|deploy|re-?param", words))


def _operator(kwargs: dict[str, Any], words: str) -> dict[str, Any]:
    found = re.search(r"dim\s*=?\s*(\d+)", words)
    if "dim" not in kwargs and not found:
        raise ValueError(f"no width in {words!r}")
    return {"dim": int(kwargs["dim"] if "dim" in kwargs else found.group(1))}


def _network(kwargs: dict[str, Any], words: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    if found := re.search(r"lsnet[-_ ]?([tsb])(?![a-z])", words.lower()):
        numbers |= _SIZES[found.group(1)]
    for theirs, ours in (("embed_dim", "dims"), ("depth", "depths")):
        for key in (theirs, f"{theirs}s", ours):
            if key in kwargs:
                numbers[ours] = tuple(kwargs[key])
    if set(numbers) != {"dims", "depths"}:
        raise ValueError(f"cannot tell which LSNet {words!r} with {kwargs} is")
    return numbers


def _read_off(state: State) -> dict[str, Any]:
    """What the names and shapes of the state tell."""
    return {
        "distilled": any(name.startswith("head_dist.") for name in state),
        "num_classes": state["head.fc.weight"].shape[0] if "head.fc.weight" in state else 0,
        "in_chans": next(v for k, v in state.items() if k.startswith("stem.0")).shape[1],
    }
