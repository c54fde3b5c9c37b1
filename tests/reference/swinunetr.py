"""Swin UNETR's recorded cases: any of MONAI's arguments, and the merging that was recorded."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch

import sinet.models

_WORDS = {
    "in_channels": "in_chans",
    "out_channels": "num_classes",
    "feature_size": "width",
    "dropout_path_rate": "drop_path_rate",
}
_IGNORED = {"img_size", "downsample", "merging", "use_checkpoint"}


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes."""
    given = dict(meta.get("kwargs") or {})
    options = {_WORDS.get(k, k): v for k, v in given.items() if k not in _IGNORED}
    words = f"{meta['name']} {meta.get('variant', '')}".lower()
    if "use_v2" not in options and re.search(r"use_v2|_v2\b|\bv2\b|swin ?unetr[- ]?v2", words):
        options["use_v2"] = True
    for name, usual in (("in_chans", 4), ("num_classes", 3)):
        options.setdefault(name, usual)
    model = sinet.models.create_network("swin_unetr", merging=_merging(meta, given), **options)
    model = model.to(getattr(torch, meta["dtype"])).eval()

    def load(state: dict[str, torch.Tensor]) -> None:
        sinet.models.load_state(model, state, meta["name"])

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model(*inputs)
        return out

    return SimpleNamespace(load=load, run=run, model=model)


def _merging(meta: dict[str, Any], given: dict[str, Any]) -> str:
    """Which sub-grids were taken: said by an argument, in words, or by the version of MONAI."""
    argument = str(given.get("downsample", given.get("merging", ""))).lower()
    words = f"{argument} {meta['name']} {meta.get('variant', '')}".lower()
    if re.search(r"legacy|duplicate|twice|0\.9|1\.4\b|original merging|old merging", words):
        return "legacy"
    if re.search(r"merging_?-? ?v2", words) or argument == "v2":
        return "v2"
    if argument in ("", "merging", "patchmerging", "corrected"):
        version = re.search(r"MONAI@v?(\d+)\.(\d+)", meta.get("source", ""))
        old = version and (int(version[1]), int(version[2])) < (1, 5) and "correct" not in words
        return "legacy" if old else "corrected"
    raise ValueError(f"{meta['name']}: unknown merging {argument!r}")
