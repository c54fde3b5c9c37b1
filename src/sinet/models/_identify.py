"""Whose weights are these? Asked when a file does not fit the model it was given to."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

import timm
import torch

Shapes = dict[str, tuple[int, ...]]
ALIKE, SURE = 0.8, 0.95
"""Least shares of parameter names, block numbers aside, that make a file look like a family, and
that spare asking timm's families too, which takes ten seconds."""


def identify(state: Mapping[str, torch.Tensor]) -> str | None:
    """The registered model whose weights these are, else the family they look like, else None.

    Args:
        state: tensors by name, in this library's naming, in the authors' or in timm's.
    """
    best, likeness = "", 0.0
    for origin in ("sinet.models.", "timm.models."):
        for module, names in _families(origin).items():
            if likeness < SURE and (alike := _likeness(module, names, state)) > likeness:
                best, likeness = module, alike
    if likeness < ALIKE:
        return None
    family = best.rpartition(".")[2]
    if best.startswith("timm."):
        return f"timm's family {family}"
    given = _of(_renamed(best, state))
    same = [name for name in _families("sinet.models.")[best] if _shapes(name) == given]
    return same[0] if same else f"the family {family}"


def _likeness(module: str, names: Sequence[str], state: Mapping[str, torch.Tensor]) -> float:
    """Share of names, numbers left out, that the file and the family's smallest network share."""
    small = next((name for name in names if name.endswith("_test")), names[0])
    files, ours = (
        {re.sub(r"\d+", "#", key) for key in shapes}
        for shapes in (_of(_renamed(module, state)), _shapes(small))
    )
    return len(files & ours) / max(len(files | ours), 1)


def _families(origin: str) -> dict[str, list[str]]:
    """Module whose name begins like this -> the names that it registers."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__
        if module.startswith(origin):
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
