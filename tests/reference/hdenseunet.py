"""H-DenseUNet's recorded cases: the 2-D network with and without skips, the hybrid, the 3-D one.

The recorded tensors say which network they are of and how wide it is.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import sinet.models

State = dict[str, torch.Tensor]


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """Any network of the family; it is built when its tensors are known."""
    if "dense" not in f"{meta['name']} {meta.get('variant', '')}".lower():
        raise ValueError(f"{meta['name']}: not a network of this family")
    networks: list[nn.Module] = []

    def load(state: State) -> None:
        network = _network(state, meta["name"]).to(getattr(torch, meta["dtype"])).eval()
        sinet.models.load_state(network, state, meta["name"])
        networks[:] = [network]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = networks[0](*inputs)
        return out

    return SimpleNamespace(load=load, run=run)


def _numbers(state: State, prefix: str) -> dict[str, Any]:
    """Depths, growth and width of the first convolution of the recorded network."""
    depths = tuple(
        sum(f"{prefix}conv{block}_{i}_x2.weight" in state for i in range(1, 200))
        for block in (2, 3, 4, 5)
    )
    return {
        "depths": depths,
        "growth": state[f"{prefix}conv2_1_x2.weight"].shape[0],
        "stem_width": state[f"{prefix}conv1.weight"].shape[0],
    }


def _network(state: State, name: str) -> nn.Module:
    planar, volume = "conv1.weight" in state, "3dconv1.weight" in state
    if not planar and not volume:
        raise ValueError(f"{name}: the tensors are not of this family")
    prefix = "" if planar else "3d"
    width = state[f"{prefix}conv_up4.weight"].shape[0]
    if planar and volume:
        return sinet.models.create_network(
            "hdenseunet",
            num_classes=state["2d3dclassifer.weight"].shape[0],
            in_chans=state["conv1.weight"].shape[1] // 3,
            planar=_numbers(state, ""),
            volume=_numbers(state, "3d"),
            width=width,
            skips="line0.weight" in state,
        )
    classes = [v.shape[0] for k, v in state.items() if "classifer" in k and v.ndim > 1]
    options: dict[str, Any] = {"skips": "line0.weight" in state} if planar else {}
    return sinet.models.create_network(
        "hdenseunet_2d" if planar else "hdenseunet_3d",
        num_classes=classes[0] if classes else 0,
        in_chans=state[f"{prefix}conv1.weight"].shape[1],
        width=width,
        **options,
        **_numbers(state, prefix),
    )
