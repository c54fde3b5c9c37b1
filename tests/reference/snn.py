"""Self-normalizing networks: the tutorials' networks, fully connected ones of any widths."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sinet.models import load_state
from sinet.models.snn import SNN, convert

State = dict[str, torch.Tensor]


def _swap_activation(model: nn.Module) -> nn.Module:
    """The tutorials' baseline: ReLU in place of SELU."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SELU):
                setattr(module, name, nn.ReLU())
    return model


def _network(state: State, image: tuple[int, ...]) -> SNN:
    """All widths are in the state; pooling, which is not, is the tutorial's."""
    kernels = [v for name, v in state.items() if name.startswith("convs.") and v.ndim == 4]
    hidden = [v for name, v in state.items() if name.startswith("layers.") and v.ndim == 2]
    pools = (2, 2, 1)[: len(kernels)]
    return SNN(
        [len(weight) for weight in hidden],
        [(len(v), v.shape[-1], pool) for v, pool in zip(kernels, pools, strict=True)],
        num_classes=len(state["fc.weight"]),
        in_chans=image[0],
        img_size=(image[1], image[2]),
    )


def build(meta: dict[str, Any]) -> SimpleNamespace:
    """The network that the header describes; it is made at the first run, for the images' size."""
    kwargs = dict(meta.get("kwargs") or {})
    recorded: State = {}
    built: list[nn.Module] = []

    def load(state: State) -> None:
        recorded.clear()
        recorded.update(convert(state))
        built.clear()

    def run(x: torch.Tensor) -> torch.Tensor:
        x = x[:, None, None] if x.ndim == 2 else x  # images that were flattened already
        if not built:
            with torch.inference_mode(False):
                model = _network(recorded, tuple(x.shape[1:]))
                if not kwargs.get("use_selu", True):
                    _swap_activation(model)
                model = model.to(getattr(torch, meta["dtype"])).eval()
                load_state(model, recorded, meta["name"])
                built.append(model)
        out: torch.Tensor = built[0](x)
        return out

    return SimpleNamespace(load=load, run=run)
