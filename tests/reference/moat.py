"""MOAT as a record describes it: the classifier, or the maps where the record has no head."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sinet.models import load_state
from sinet.models.moat import MOAT

FIGURES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "tiny0": (32, (32, 64, 128, 256), (2, 3, 7, 2)),
    "tiny1": (40, (40, 80, 160, 320), (2, 3, 7, 2)),
    "tiny2": (56, (56, 112, 224, 448), (2, 3, 7, 2)),
    "tiny3": (80, (80, 160, 320, 640), (2, 3, 7, 2)),
    "0": (64, (96, 192, 384, 768), (2, 3, 7, 2)),
    "1": (64, (96, 192, 384, 768), (2, 6, 14, 2)),
    "2": (128, (128, 256, 512, 1024), (2, 6, 14, 2)),
    "3": (160, (160, 320, 640, 1280), (2, 12, 28, 2)),
    "4": (256, (256, 512, 1024, 2048), (2, 12, 28, 2)),
}


def figures(meta: dict[str, Any]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    kwargs = meta.get("kwargs") or {}
    stem = kwargs.get("stem", kwargs.get("stem_size"))
    dims = kwargs.get("dims", kwargs.get("hidden_size"))
    depths = kwargs.get("depths", kwargs.get("num_blocks"))
    if stem and dims and depths:
        return (stem[0] if isinstance(stem, list) else stem), tuple(dims), tuple(depths)
    for text in (meta.get("variant", ""), meta["name"]):
        if match := re.search(r"(tiny)?[-_ ]*(?:moat)?[-_ ]*(tiny)?[-_ ]*(\d)\b", text.lower()):
            key = ("tiny" if match[1] or match[2] else "") + match[3]
            if key in FIGURES:
                return FIGURES[key]
    raise ValueError(f"{meta['name']}: no size of MOAT in it; known: {sorted(FIGURES)}")


def last_two(value: Any) -> list[Any]:
    """What the last two stages have, from one value for both, one each or one for all four."""
    if value is None:
        return [None, None]
    value = list(value)
    if len(value) == 2 and all(isinstance(v, int) for v in value):
        return value
    return value[-2:]


def build(meta: dict[str, Any]) -> SimpleNamespace:
    kwargs = meta.get("kwargs") or {}
    stem, dims, depths = figures(meta)
    windows = last_two(kwargs.get("window", kwargs.get("window_size")))
    if any(isinstance(w, int) for w in windows):  # [14, 7]: square windows
        windows = [None if w is None else (w, w) for w in windows]
    made: list[nn.Module] = []
    headless: list[bool] = []

    def load(state: dict[str, torch.Tensor]) -> None:
        tables = {
            name.split(".")[1]: (value.shape[-1] + 1) // 2
            for name, value in state.items()
            if name.endswith("relative_position_embedding")
        }
        classes = state["logits_head.weight"].shape[0] if "logits_head.weight" in state else 0
        model = MOAT(
            stem,
            dims,
            depths,
            position_sizes=[tables[stage] for stage in sorted(tables)],
            windows=[None if w is None else tuple(w) for w in windows],
            pool_size=kwargs.get("pool_size", 2),
            num_classes=classes,
            in_chans=state["stem.conv_0.weight"].shape[1],
        )
        model = model.to(getattr(torch, meta["dtype"])).eval()
        headless[:] = [not classes]
        if not classes and not any(name.startswith("final_layer_norm") for name in state):
            model.head.norm = nn.Identity()
        load_state(model, state, meta["name"])
        made[:] = [model]

    def maps(x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = made[0].stem(x)
        found = {"stage1": x}
        for i, stage in enumerate(made[0].stages):
            x = stage(x)
            found[f"stage{i + 2}"] = x
        return {**found, **{n.replace("stage", "res"): F.gelu(v) for n, v in found.items()}}

    def run(*inputs: torch.Tensor) -> Any:
        if not headless[0]:
            return made[0](*inputs)
        found = maps(*inputs)
        asked = kwargs.get("outputs", kwargs.get("endpoints"))
        if not asked:
            text = f"{meta.get('variant', '')} {meta.get('note', '')} {kwargs}"
            asked = [n for n in re.findall(r"(?:res|stage)[1-5]", text) if n in found]
            for kind, first, last in re.findall(
                r"(res|stage)(\d)\s*(?:\.\.|-|to)\s*\w*?(\d)", text
            ):
                asked = [f"{kind}{i}" for i in range(int(first), int(last) + 1)]
        return [found[name] for name in asked or [f"res{i}" for i in range(1, 6)]]

    return SimpleNamespace(load=load, run=run)
