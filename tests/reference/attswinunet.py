"""Att-SwinU-Net and Swin-Unet as a record of the released code describes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sinet.models import load_state
from sinet.models.attswinunet import AttSwinUNet, convert

State = dict[str, torch.Tensor]


class Twice(nn.Module):
    """A skip joined twice with the same layer: the released plain mode, spatial attention on."""

    def __init__(self, skip: nn.Module) -> None:
        super().__init__()
        self.skip = skip

    def forward(self, decoder: torch.Tensor, encoder: torch.Tensor) -> torch.Tensor:
        return self.skip(self.skip(decoder, encoder), encoder)


def build(meta: dict[str, Any]) -> SimpleNamespace:
    kwargs = meta.get("kwargs") or {}
    mode = str(kwargs.get("mode", "cross_contextual_attention"))
    if mode not in ("cross_contextual_attention", "swin"):
        raise ValueError(f"{meta['name']}: no mode {mode!r} of Att-SwinU-Net is known")
    plain = mode == "swin"
    made: list[AttSwinUNet] = []

    def load(state: State) -> None:
        ours = convert(dict(state))
        model = AttSwinUNet(
            embed_dim=int(ours["norm_up.weight"].shape[0]),
            depths=tuple(kwargs.get("depths", (2, 2, 6, 2))),
            num_heads=tuple(kwargs.get("num_heads", (3, 6, 12, 24))),
            window_size=int(kwargs.get("window_size", 7)),
            img_size=int(kwargs.get("image_size", kwargs.get("img_size", 224))),
            cross_skips=0 if plain else int(kwargs.get("skip_num", 3)),
            num_classes=int(ours["head.weight"].shape[0]),
            in_chans=int(ours["patch_embed.weight"].shape[1]),
        )
        model = model.to(getattr(torch, meta["dtype"])).eval()
        # cross-attention layers may be in the file at skips that do not use them
        has = model.state_dict().keys()
        used = {name: value for name, value in ours.items() if ".cross." not in name or name in has}
        load_state(model, used, meta["name"])
        if plain and str(kwargs.get("spatial_attention", "0")) == "1":
            model.skips = nn.ModuleList(Twice(skip) for skip in model.skips)
        made[:] = [model]

    return SimpleNamespace(load=load, run=lambda *inputs: made[0](*inputs))
