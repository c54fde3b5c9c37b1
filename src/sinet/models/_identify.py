"""Whose weights are these? Asked when a file does not fit the model it was given to."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

import timm
import torch

Shapes = dict[str, tuple[int, ...]]
ALIKE = 0.8
"""Least share of parameter names, block numbers aside, that makes a file look like a family."""


def identify(state: Mapping[str, torch.Tensor]) -> str | None:
    """The registered model whose weights these are, else the family they look like, else None.

    Args:
        state: tensors by name, in this library's naming or in the authors'.
    """
    likely = {module: _likeness(module, names, state) for module, names in _families().items()}
    best = max(likely, key=lambda module: likely[module])
    if likely[best] < ALIKE:
        return None
    given = _of(_renamed(best, state))
    same = [name for name in _families()[best] if _shapes(name) == given]
    return same[0] if same else f"the family {best.rpartition('.')[2]}"


def _likeness(module: str, names: Sequence[str], state: Mapping[str, torch.Tensor]) -> float:
    """Share of names, numbers left out, that the file and the family's smallest network share."""
    small = next((name for name in names if name.endswith("_test")), names[0])
    files, ours = (
        {re.sub(r"\d+", "#", key) for key in shapes}
        for shapes in (_of(_renamed(module, state)), _shapes(small))
    )
    return len(files & ours) / max(len(files | ours), 1)


def _families() -> dict[str, list[str]]:
    """Module of this library -> the names that it registers."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__
        if module.startswith("sinet.models."):
            found.setdefault(module, []).append(name)
    return found


def _renamed(module: str, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The state in this library's naming, as far as the family's converter can tell."""
    convert = getattr(sys.modules[module], "convert", None)
    if convert is None:
        return state
    try:
        renamed: dict[str, torch.Tensor] = convert(dict(state))
    except Exception:  # another family's names may be anything to a converter
        return state
    return renamed


def _of(state: Mapping[str, torch.Tensor]) -> Shapes:
    return {key: tuple(v.shape) for key, v in state.items() if v.is_floating_point()}


def _shapes(name: str) -> Shapes:
    with torch.device("meta"):
        return _of(timm.create_model(name).state_dict())
