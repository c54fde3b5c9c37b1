"""Ours, built as a reference case of RCNet describes it: the whole neck, in any of its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from timm.layers import GroupNorm
from torch import nn

from sinet.heads.rcnet import RCFPN
from sinet.models import load_state

State = dict[str, torch.Tensor]


def _groups(meta: Mapping[str, Any]) -> int:
    """Groups of the GroupNorm, which no tensor tells."""
    kwargs = dict(meta.get("kwargs") or {})
    norm = kwargs.get("norm", kwargs.get("norm_cfg"))
    if isinstance(norm, Mapping) and "num_groups" in norm:
        return int(norm["num_groups"])
    if "num_groups" in kwargs:
        return int(kwargs["num_groups"])
    said = re.search(r"GN\D{0,20}(\d+)", f"{norm} {meta.get('variant', '')}")
    return int(said[1]) if said else 32


def _neck(meta: Mapping[str, Any], state: State) -> RCFPN:
    laterals = [v for k, v in state.items() if re.match(r"lateral_convs\.\d+\.conv\.weight", k)]
    extras = [k for k in state if re.match(r"extra_downsamples\.\d+\.0\.conv\.weight", k)]
    if not laterals or not any(k.startswith("CSN.") for k in state):
        raise ValueError(f"{meta['name']!r} is not the neck of RCNet")
    normed = any(re.match(r"lateral_convs\.0\.(bn|gn)\.", k) for k in state)
    batch = any(k.endswith("running_mean") for k in state)
    offsets = [v for k, v in state.items() if k.endswith("conv_offset.bias")]
    neck = RCFPN(
        [v.shape[1] for v in laterals],
        laterals[0].shape[0],
        len(laterals) + len(extras),
        "batchnorm" if batch else "groupnorm" if normed else None,
        deformable=bool(offsets),
    )
    if normed and not batch and _groups(meta) != 32:
        _regroup(neck, _groups(meta))
    for module in neck.modules():
        if hasattr(module, "offset_groups") and offsets[0].numel() != 54:
            module.offset_groups = offsets[0].numel() // 27
            make = partial(nn.Conv2d, module.in_channels, offsets[0].numel(), 3, padding=1)
            module.conv_offset = make()
    return neck


def _regroup(neck: nn.Module, groups: int) -> None:
    for module in neck.modules():
        if isinstance(module, GroupNorm):
            module.num_groups = groups


def build(meta: Mapping[str, Any]) -> SimpleNamespace:
    """Everything is built when the tensors are known, for they say most of it."""
    runner = SimpleNamespace()
    thinned = re.search(r"out\[:, ::(\d+)\]", str(meta.get("note", "")))
    step = int(thinned[1]) if thinned else 1

    def load(state: State) -> None:
        runner.neck = _neck(meta, state).to(getattr(torch, meta["dtype"])).eval()
        load_state(runner.neck, state, meta["name"])

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        used = len(runner.neck.in_channels)
        start = dict(meta.get("kwargs") or {}).get("start_level", len(inputs) - used)
        maps = inputs[start : start + used]
        return [x[:, ::step] for x in runner.neck(maps)]

    runner.load, runner.run = load, run
    return runner
