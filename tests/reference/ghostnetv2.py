"""GhostNetV2 as a reference case describes it: timm's networks, or one of their modules alone."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.models.ghostnet import GhostBottleneck, GhostModule, GhostModuleV2, _create_ghostnet
from torch import nn

from sinet.models import load_state

State = dict[str, torch.Tensor]


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network or module that the header describes; it is made when its state is known."""
    kwargs = dict(meta.get("kwargs") or {})
    built: list[nn.Module] = []

    def load(state: State) -> None:
        if "conv_stem.weight" in state:
            model = _network(meta, kwargs, state)
        elif "ghost1.primary_conv.0.weight" in state:
            model = _bottleneck(kwargs, state)
        elif "primary_conv.0.weight" in state:
            model = _module(kwargs, state, "")
        else:
            raise ValueError(f"no part of GhostNetV2 has parameters such as {list(state)[:3]}")
        model = model.to(getattr(torch, meta["dtype"])).eval()
        load_state(model, state, meta["name"])
        built[:] = [model]

    return SimpleNamespace(load=load, run=lambda *inputs: built[0](*inputs))


def _width(meta: dict[str, Any], kwargs: dict[str, Any]) -> float:
    """From `width`, or a name such as ghostnetv2_130 or "GhostNetV2 1.3x"."""
    if "width" in kwargs:
        return float(kwargs["width"])
    text = f"{meta.get('variant', '')} {meta['name']}".lower().replace("ghostnetv2", "")
    if found := re.search(r"(\d+\.\d+)", text):
        return float(found[1])
    if found := re.search(r"(?<!\d)(\d{2,3})(?!\d)", text):
        return int(found[1]) / (100 if len(found[1]) == 3 else 10)
    raise ValueError(f"no width in {text!r} and {kwargs}")


def _network(meta: dict[str, Any], kwargs: dict[str, Any], state: State) -> nn.Module:
    width = _width(meta, kwargs)
    options = {
        "num_classes": len(state["classifier.weight"]) if "classifier.weight" in state else 0,
        "in_chans": state["conv_stem.weight"].shape[1],
    }
    name = f"ghostnetv2_{round(100 * width):03d}"
    if timm.is_model(name):
        model: nn.Module = timm.create_model(name, **options)
    else:  # a width that timm has no name for
        model = _create_ghostnet("ghostnetv2_100", width=width, version="v2", **options)
    return model


def _act(kwargs: dict[str, Any]) -> type[nn.Module]:
    return nn.ReLU if kwargs.get("relu", True) else nn.Identity


def _module(kwargs: dict[str, Any], state: State, prefix: str) -> nn.Module:
    """A ghost module, with the attention if there is `short_conv`."""
    primary = state[f"{prefix}primary_conv.0.weight"]
    cheap = state[f"{prefix}cheap_operation.0.weight"]
    gate = state.get(f"{prefix}short_conv.0.weight")
    out_chs = kwargs.get("oup", kwargs.get("out_chs", len(primary) + len(cheap)))
    options = {
        "kernel_size": primary.shape[-1],
        "ratio": 1 + len(cheap) // len(primary),
        "dw_size": cheap.shape[-1],
        "stride": kwargs.get("stride", 1),
        "act_layer": _act(kwargs),
    }
    if gate is not None:
        return GhostModuleV2(primary.shape[1], len(gate), **options)
    return GhostModule(primary.shape[1], out_chs, **options)


def _bottleneck(kwargs: dict[str, Any], state: State) -> nn.Module:
    """Widths that are not told are even, as in all networks."""
    first, second = (state[f"ghost{i}.primary_conv.0.weight"] for i in (1, 2))
    gate = state.get("ghost1.short_conv.0.weight")
    down, shortcut = state.get("conv_dw.weight"), state.get("shortcut.0.weight")
    kernel = next((w.shape[-1] for w in (down, shortcut) if w is not None), 3)
    squeezed = state.get("se.conv_reduce.weight")
    made = GhostBottleneck(
        first.shape[1],
        second.shape[1],
        kwargs.get("out_chs", 2 * len(second)),
        kernel,
        kwargs.get("stride", 1 if down is None else 2),
        se_ratio=0.0 if squeezed is None else 0.25,
        mode="original" if gate is None else "attn",
    )
    assert isinstance(made, nn.Module)
    return made
