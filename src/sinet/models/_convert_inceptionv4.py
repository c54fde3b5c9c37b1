"""Inception-ResNet-v2 in the names of Cadene's port (`last_linear`) -> timm's (`classif`)."""

from __future__ import annotations

import torch


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the classifier; weights in timm's naming pass unchanged."""
    return {name.replace("last_linear.", "classif."): v for name, v in state_dict.items()}
