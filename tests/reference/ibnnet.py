"""IBN-Nets as the header of a reference case describes them."""

from __future__ import annotations

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from timm.layers import SqueezeExcite
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

import sinet.models
from sinet.models.ibnnet import IBNDenseNet, IBNResNet

_NET = re.compile(
    r"(se[-_ ]?)?(resnet|resnext|densenet)[-_ ]?(\d+)(?:[-_ ]ibn)?(?:[-_ ]?([ab])(?![a-z0-9]))?"
)
_RESNETS: dict[int, tuple[type[nn.Module], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
_DENSENETS = {
    121: (32, (6, 12, 24, 16)),
    161: (48, (6, 12, 36, 24)),
    169: (32, (6, 12, 32, 32)),
    201: (32, (6, 12, 48, 32)),
}


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network: `name` or `variant` says resnet50_ibn_a and the like in some spelling."""
    which, given = _which(meta), dict(meta.get("kwargs") or {})
    built: list[nn.Module] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        first = state.get("conv1.weight", state.get("features.conv0.weight"))
        last = state.get("fc.weight", state.get("classifier.weight"))
        options = {"num_classes": 0 if last is None else len(last)}
        if first is not None:
            options["in_chans"] = first.shape[1]
        model = _network(*which, given, options).to(getattr(torch, meta["dtype"])).eval()
        sinet.models.load_state(model, state, meta["name"])
        built[:] = [model]

    return SimpleNamespace(load=load, run=lambda *inputs: built[0](*inputs))


def _which(meta: dict[str, Any]) -> tuple[bool, str, int, Any]:
    """Squeeze-excite or not, family, depth, and "a" or "b"."""
    texts = (meta.get("variant", "").lower(), meta["name"].lower().removeprefix("ibnnet_"))
    for text in texts:
        if found := _NET.search(text):
            se, family, depth, letter = found.groups()
            told = re.search(r"ibn[-_ ]?([ab])(?![a-z0-9])|_([ab])(?![a-z0-9])", " ".join(texts))
            letter = letter or (told and (told[1] or told[2])) or "a"
            return bool(se), family, int(depth), letter
    raise ValueError(f"{meta['name']}: neither name nor variant says which network")


def _network(
    se: bool, family: str, depth: int, letter: Any, given: dict[str, Any], classes: dict[str, int]
) -> nn.Module:
    options: dict[str, Any] = dict(classes)
    if family == "densenet" and depth in _DENSENETS and letter == "a" and not se:
        growth, blocks = _DENSENETS[depth]
        return IBNDenseNet(growth_rate=growth, block_config=blocks, **options)
    if family == "densenet" or depth not in _RESNETS:
        raise ValueError(f"there is no {family}{depth} of kind {letter}, squeeze-excite {se}")
    if family == "resnext":
        width = given.get("baseWidth", given.get("base_width", 4))
        options |= {"cardinality": given.get("cardinality", 32), "base_width": width}
    if se:
        ratio = 1 / given.get("reduction", 16)
        options["block_args"] = {"attn_layer": partial(SqueezeExcite, rd_ratio=ratio, bias=False)}
    return IBNResNet(*_RESNETS[depth], ibn=letter, **options)
