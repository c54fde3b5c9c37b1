"""The registry of networks that are no classifiers: segmenters, volumes, super-resolution.

timm's registry holds backbones, which all take images and give logits and features; these have
inputs and outputs of their own. A name leads to a builder, as there.
"""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from sinet.errors import unknown

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_builders: dict[str, Callable[..., nn.Module]] = {}


def register_network(build: Builder) -> Builder:
    """Register a function that builds a network under the function's own name."""
    _builders[build.__name__] = build
    return build


def list_networks(pattern: str = "*") -> list[str]:
    """The registered names that fit a pattern, in alphabetical order."""
    importlib.import_module("sinet.heads")  # registers those that are a head on any backbone
    return sorted(fnmatch.filter(_builders, pattern))


def create_network(name: str, **kwargs: Any) -> nn.Module:
    """Build a registered network.

    Raises:
        UsageError: no such name; the nearest is offered.
    """
    if name not in list_networks():
        raise unknown("network", name, _builders)
    return _builders[name](**kwargs)
