"""ConvFirst: spio's blocks and stacks, and the author's grouped ConvNeXt and EfficientNet."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.models import load_state
from sinet.models.convfirst import (
    ConvFirstBlock,
    ConvFirstStack,
    MBConvBlock,
    MlpBlock,
    grouped_convnext,
)

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def _kind(text: str) -> type[nn.Module]:
    for word, kind in (("mbconv", MBConvBlock), ("convfirst", ConvFirstBlock), ("mlp", MlpBlock)):
        if word in text.lower():
            return kind
    raise ValueError(f"unknown block {text!r}")


def _module(variant: str, name: str, kwargs: dict[str, Any]) -> nn.Module:
    for text in (variant.lower(), name.lower()):
        words = re.search(r"(?:convnext|efficientnet)_[a-z]\w*?(?=_gs\d|\W|$)", text)
        if words and timm.is_model(words[0]):
            return _network(words[0], kwargs)
    options = {
        "kernel_size": kwargs.get("kernel_size", 3),
        "group_size": kwargs.get("group_width", kwargs.get("group_size", 8)),
        "expansion": kwargs.get("expansion_ratio", 4),
    }
    if "stack" in f"{variant} {name}".lower():
        text = kwargs.get("block", kwargs.get("block_cls", variant))
        depth, extra = kwargs.get("depth", 16), kwargs.get("extra_depth", 1)
        block: Any = _kind(str(text))
        return ConvFirstStack(kwargs.get("num_channels", 64), depth, extra, **options, block=block)
    kind: Any = _kind(f"{variant} {name}" if "block" not in kwargs else str(kwargs["block"]))
    width = kwargs["in_channels"]
    if kind is MlpBlock:
        return MlpBlock(width, kwargs.get("out_channels", width), options["expansion"])
    stride = kwargs.get("stride", 1)
    return kind(width, kwargs.get("out_channels", width), stride=stride, **options)


def _network(variant: str, kwargs: dict[str, Any]) -> nn.Module:
    options = dict(kwargs)
    if variant.startswith("convnext") and options.get("group_size"):
        return grouped_convnext(variant, options.pop("group_size"), **options)
    options = {key: value for key, value in options.items() if value is not None}
    return timm.create_model(variant, **options)


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The block, stack or network that the header describes."""
    kwargs = dict(meta.get("kwargs") or {})
    activation = str(kwargs.pop("act_cls", kwargs.pop("act", "silu"))).rpartition(".")[2].lower()
    model = _module(str(meta["variant"]), str(meta["name"]), kwargs)
    if activation not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}")
    for module in model.modules():
        if isinstance(module, (ConvFirstBlock, MBConvBlock, MlpBlock)):
            module.act = _ACTIVATIONS[activation]()
    model = model.to(getattr(torch, meta["dtype"])).eval()
    fused = any(word in str(meta.get("prepare", "")) for word in ("fuse", "deploy", "reparam"))

    def load(state: dict[str, torch.Tensor]) -> None:
        load_state(model, state, meta["name"])

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        return (reparameterize_model(model) if fused else model)(*inputs)

    return SimpleNamespace(load=load, run=run)
