"""ConvNeXt as a reference case describes it: timm's staged networks and our isotropic ones."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.layers import LayerNorm2d
from torch import nn

from sinet.models import load_state

State = dict[str, torch.Tensor]

# what tells the variants apart: blocks of each stage, first width; blocks, width
_STAGED = {
    ((3, 3, 9, 3), 96): "convnext_tiny",
    ((3, 3, 27, 3), 96): "convnext_small",
    ((3, 3, 27, 3), 128): "convnext_base",
    ((3, 3, 27, 3), 192): "convnext_large",
    ((3, 3, 27, 3), 256): "convnext_xlarge",
}
_ISOTROPIC = {
    (18, 384): "convnext_isotropic_small",
    (18, 768): "convnext_isotropic_base",
    (36, 1024): "convnext_isotropic_large",
}


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes; it is made when its state is known.

    Depths, widths, classes, image channels and whether there is a layer scale show in the names
    and shapes of the state, and so does the form for dense prediction (`norm0` ... `norm3`).
    """
    text = f"{meta['name']} {meta.get('variant', '')}"
    if "convnext" not in text.lower():
        raise ValueError(f"no ConvNeXt in {text!r}")
    built: list[nn.Module] = []

    def load(state: State) -> None:
        if "stem.weight" in state:
            model = _isotropic(state)
        elif "downsample_layers.0.0.weight" in state:
            model = _staged(state)
        else:
            raise ValueError(f"neither a staged nor an isotropic ConvNeXt: {list(state)[:3]}")
        dtype = getattr(torch, meta["dtype"])
        model = model.to(dtype).eval()
        norms = {int(k[4]): k[:5] for k in state if re.fullmatch(r"norm\d\.weight", k)}
        if norms:
            model.head.norm = nn.Identity()
        load_state(model, {k: v for k, v in state.items() if k[:5] not in norms.values()}, text)
        built[:] = [_Dense(model, state, norms).to(dtype) if norms else model]

    return SimpleNamespace(load=load, run=lambda *inputs: built[0](*inputs))


def _depth(state: State, prefix: str) -> int:
    """How many blocks are numbered under a prefix."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.dwconv\.weight")
    return len([name for name in state if pattern.fullmatch(name)])


def _shared(state: State, first: str) -> dict[str, Any]:
    return {
        "in_chans": state[first].shape[1],
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
    }


def _staged(state: State) -> nn.Module:
    first = "downsample_layers.0.0.weight"
    depths = tuple(_depth(state, f"stages.{i}.") for i in range(4))
    dims = (len(state[first]), *(len(state[f"downsample_layers.{i}.1.weight"]) for i in (1, 2, 3)))
    scale = 1.0 if any(name.endswith(".gamma") for name in state) else None
    model: nn.Module = timm.create_model(
        _STAGED.get((depths, dims[0]), "convnext_tiny"),
        depths=depths,
        dims=dims,
        ls_init_value=scale,
        **_shared(state, first),
    )
    return model


def _isotropic(state: State) -> nn.Module:
    depth, dim = _depth(state, "blocks."), len(state["stem.weight"])
    model: nn.Module = timm.create_model(
        _ISOTROPIC.get((depth, dim), "convnext_isotropic_test"),
        depth=depth,
        dim=dim,
        **_shared(state, "stem.weight"),
    )
    for i, block in enumerate(model.blocks):
        if f"blocks.{i}.gamma" in state:
            block.gamma = nn.Parameter(torch.ones(dim))
    return model


class _Dense(nn.Module):
    """The maps of the stages, each with a norm of its own."""

    def __init__(self, model: nn.Module, state: State, norms: dict[int, str]) -> None:
        super().__init__()
        self.model, self.stages = model, sorted(norms)
        self.norms = nn.ModuleList()
        for i in self.stages:
            norm = LayerNorm2d(len(state[f"{norms[i]}.weight"]), eps=1e-6)
            norm.load_state_dict({k: state[f"{norms[i]}.{k}"] for k in ("weight", "bias")})
            self.norms.append(norm)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = self.model.forward_intermediates(x, indices=self.stages, intermediates_only=True)
        return [norm(level) for norm, level in zip(self.norms, maps, strict=True)]
