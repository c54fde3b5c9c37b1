"""Ours, built as a reference case of CATNet describes it: necks, one part of them, or HRoIE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sinet.heads.catnet import SCP, CATNeck, DenseFPN, HRoIE
from sinet.models import load_state

State = dict[str, torch.Tensor]


def _neck(state: State, prefix: str) -> dict[str, Any]:
    """The arguments of a DenseFPN, as its tensors tell."""
    laterals = [v for k, v in state.items() if re.match(rf"{prefix}lateral_convs\.\d+\.conv\.w", k)]
    extras = [k for k in state if re.match(rf"{prefix}extra_convs\.\d+\.conv\.w", k)]
    stages = {found[1] for k in state if (found := re.match(rf"{prefix}stages\.(\d+)\.", k))}
    norms = [k for k in state if re.search(r"\.(bn|gn)\.weight$", k)]
    batch = any(k.endswith("running_mean") for k in state)
    return {
        "in_channels": [v.shape[1] for v in laterals],
        "out_channels": laterals[0].shape[0],
        "num_outs": len(laterals) + len(extras),
        "stages": len(stages),
        "norm_layer": "batchnorm" if batch else "groupnorm" if norms else None,
    }


def _direction(meta: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str:
    said = kwargs.get("direction") or f"{meta['name']} {meta.get('variant', '')}"
    for direction in ("bottom_up", "top_down"):
        if direction in re.sub(r"[-\s]", "_", str(said).lower()):
            return direction
    raise ValueError(f"no direction of HRoIE in {meta['name']!r}")


def _extractor(meta: Mapping[str, Any], state: State) -> HRoIE:
    kwargs = dict(meta.get("kwargs") or {})
    size = kwargs.get("output_size", 7)
    return HRoIE(
        state["atts.0.conv.weight"].shape[0],
        size if isinstance(size, int) else tuple(size),
        kwargs.get("featmap_strides") or kwargs.get("strides") or (4, 8, 16, 32),
        _direction(meta, kwargs),
        kwargs.get("sampling_ratio", 0),
    )


def _module(meta: Mapping[str, Any], state: State) -> nn.Module:
    """What the names of the tensors belong to."""
    if "atts.0.conv.weight" in state:
        return _extractor(meta, state)
    if any(k.startswith("0.lateral_convs.") for k in state):
        return CATNeck(**_neck(state, r"0\."))
    if any(k.startswith("lateral_convs.") for k in state):
        return DenseFPN(**_neck(state, ""))
    maps = [v for k, v in state.items() if re.fullmatch(r"(1\.)?blocks\.\d+\.m\.conv\.weight", k)]
    if maps:
        return SCP(maps[0].shape[0], len(maps))
    raise ValueError(f"{meta['name']!r} is neither a neck of CATNet's nor its extractor")


def build(meta: Mapping[str, Any]) -> SimpleNamespace:
    """Everything is built when the tensors are known, for they say most of it."""
    runner = SimpleNamespace()
    thinned = re.search(r"out\[:, ::(\d+)\]", str(meta.get("note", "")))
    step = int(thinned[1]) if thinned else 1

    def load(state: State) -> None:
        module = _module(meta, state)
        if isinstance(module, SCP):
            state = {k.removeprefix("1."): v for k, v in state.items()}
        runner.module = module.to(getattr(torch, meta["dtype"])).eval()
        load_state(runner.module, state, meta["name"])

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        maps = list(inputs)
        if isinstance(runner.module, HRoIE):
            rois = dict(meta.get("kwargs") or {}).get("rois")
            boxes = maps.pop() if rois is None else torch.tensor(rois, dtype=maps[0].dtype)
            return [runner.module(maps, boxes)[:, ::step]]
        if not isinstance(runner.module, SCP):  # start_level leaves the finest maps out
            used = len(runner.module.in_channels)
            start = dict(meta.get("kwargs") or {}).get("start_level", len(maps) - used)
            maps = maps[start : start + used]
        return [x[:, ::step] for x in runner.module(maps)]

    runner.load, runner.run = load, run
    return runner
