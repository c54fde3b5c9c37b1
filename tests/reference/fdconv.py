"""FDConv layers and backbones as the header of a reference case describes them.

Layers: `variant` lists them as "k3 = 32->48 3x3 padding 1 bias, kernel_num 16; ..." in the order
of the outputs. What the parameters' shapes say is taken from them, the rest from the words.
Backbones: `name` or `variant` says the depth, `variant` how the maps were reduced.
"""

from __future__ import annotations

import re
import zlib
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F

import sinet.models
from sinet.layers import FDConv2d
from sinet.layers.fd_conv import frequency_distance, frequency_groups
from sinet.models.fdconv import convert


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """A backbone if the header names a ResNet, else the layers that it lists."""
    if found := re.search(
        r"resnet[-_ ]?(\d+)", f"{meta['name']} {meta.get('variant', '')}".lower()
    ):
        return _backbone(meta, found[1])
    return _layers(meta)


def _order_as_recorded(network: nn.Module, meta: dict[str, Any]) -> None:
    """Put bins of equal frequency into the groups that they had when the case was recorded.

    The authors' code leaves the order of equal ones to `torch.sort`, which on processors with
    AVX-512 does not keep it; the header has a checksum of the order that came of it.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, FDConv2d)]
    for stable in (True, False):
        checksum, groups = 0, []
        for layer in layers:
            distance = frequency_distance(layer.rows, layer.cols)
            order = torch.sort(distance, stable=stable).indices
            half = layer.cols // 2 + 1
            places = torch.stack([order // half, order % half])
            checksum = zlib.crc32(places.numpy().tobytes(), checksum)
            groups.append(frequency_groups(order, layer.kernel_num))
        if checksum == meta.get("indices_crc32", checksum):
            for layer, group in zip(layers, groups, strict=True):
                layer.group.copy_(group)
            return
    raise ValueError(f"{meta['name']}: recorded with an order of frequencies not found here")


def _backbone(meta: dict[str, Any], depth: str) -> SimpleNamespace:
    given = dict(meta.get("kwargs") or {})
    options = {key: given[key] for key in ("kernel_num", "in_chans") if key in given}
    for key, usual in (("param_ratio", 1), ("param_reduction", 1.0), ("use_fdconv_if_c_gt", 16)):
        if given.get(key, usual) != usual:
            raise ValueError(f"{key}={given[key]} is not built; expected {usual}")
    name, words = f"fdconv_resnet{depth}", meta.get("variant", "").lower()
    if not timm.is_model(name):
        raise ValueError(f"{meta['name']}: there is no {name}")
    classes = given.get("num_classes", 0)
    model = timm.create_model(name, num_classes=classes, **options)
    model = model.to(getattr(torch, meta["dtype"])).eval()

    def load(state: dict[str, torch.Tensor]) -> None:
        sinet.models.load_state(model, state, meta["name"])
        _order_as_recorded(model, meta)

    def reduced(x: torch.Tensor) -> torch.Tensor:
        if "pool" in words and (side := re.search(r"(\d+)\s*x\s*(\d+)", words.split("pool")[-1])):
            return F.adaptive_avg_pool2d(x, (int(side[1]), int(side[2])))
        return x.mean((2, 3)) if "mean" in words else x

    def run(x: torch.Tensor) -> Any:
        if classes:
            return model(x)
        maps = model.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        return [reduced(level) for level in maps]

    return SimpleNamespace(load=load, run=run, model=model)


def _layers(meta: dict[str, Any]) -> SimpleNamespace:
    described = re.findall(r"(\w+)\s*=\s*(\d+)\s*->\s*(\d+)([^;]*)", meta.get("variant", ""))
    if not described:
        raise ValueError(f"{meta['name']}: no layer in its variant {meta.get('variant')!r}")
    dtype, layers = getattr(torch, meta["dtype"]), nn.ModuleDict()

    def load(state: dict[str, torch.Tensor]) -> None:
        for name, in_chs, out_chs, words in described:
            own = {
                k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")
            }
            layers[name] = _layer(int(in_chs), int(out_chs), words, own, meta, name).to(dtype)
        missing, surplus = layers.load_state_dict(convert(state), strict=False)
        if surplus or any(layers.state_dict()[key].is_floating_point() for key in missing):
            raise ValueError(f"{meta['name']}: missing {missing}, not expected {surplus}")
        _order_as_recorded(layers.eval(), meta)

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        each = inputs if len(inputs) == len(layers) else inputs[:1] * len(layers)
        return [layer(x) for layer, x in zip(layers.values(), each, strict=True)]

    return SimpleNamespace(load=load, run=run, layers=layers)


def _layer(
    in_chs: int,
    out_chs: int,
    words: str,
    state: dict[str, torch.Tensor],
    meta: dict[str, Any],
    name: str,
) -> nn.Module:
    def number(pattern: str, default: int) -> int:
        found = re.search(pattern, words)
        return int(found[1]) if found else default

    kernel = number(r"(\d+)x\d+", 1)
    bias, stride, dilation = (
        "bias" in state,
        number(r"stride (\d+)", 1),
        number(r"dilation (\d+)", 1),
    )
    padding = number(r"padding (\d+)", dilation * (kernel - 1) // 2)
    if "dft_weight" not in state:  # too few channels: a plain convolution in the authors' code
        return nn.Conv2d(in_chs, out_chs, kernel, stride, padding, dilation, bias=bias)
    convs = [v for k, v in state.items() if k.startswith("FBM.") and k.endswith(".weight")]
    low = bool(re.search(r"low(?:est)?[- ]?(?:frequency )?band|lowfreq", words))
    levels = meta.get("k_list") or [2, 4, 8, 16, 32][: len(convs) - low]
    kernels = state.get("KSM_Global.kernel_fc.weight")
    act = "tanh" if "tanh" in words else "sigmoid"
    layer = FDConv2d(
        in_chs,
        out_chs,
        kernel,
        stride,
        padding,
        dilation,
        bias,
        kernel_num=1 if kernels is None else len(kernels),
        act=act,
        local="KSM_Local.conv.weight" in state,
        levels=levels if convs else None,
        level_groups=len(convs[0]) if convs else 1,
        low_level=low,
    )
    # a header may say the bands' act on its own: "sigmoid in k3, tanh in s2"
    if layer.bands is not None and (
        own := re.search(rf"(\w+) in {name}\b", meta.get("fbm_act", ""))
    ):
        layer.bands.act = own[1]
    return layer
