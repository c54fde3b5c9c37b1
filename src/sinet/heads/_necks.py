"""The registry of necks: what turns the maps of a backbone into a pyramid of one width.

A name leads to a builder, as in timm's registry of backbones; every builder takes the channels of
the maps it will get and the channels it shall give, and the neck maps a list to a list, finest
first.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from sinet.errors import unknown

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_builders: dict[str, Callable[..., nn.Module]] = {}


def register_neck(build: Builder) -> Builder:
    """Register `build(in_channels, out_channels, **kwargs)` under the function's own name."""
    _builders[build.__name__] = build
    return build


def list_necks(pattern: str = "*") -> list[str]:
    """The registered names that fit a pattern, in alphabetical order."""
    return sorted(fnmatch.filter(_builders, pattern))


def builder(name: str) -> Callable[..., nn.Module]:
    """What builds a neck.

    Raises:
        UsageError: no such name; the nearest is offered.
    """
    if name not in _builders:
        raise unknown("neck", name, _builders)
    return _builders[name]


def create_neck(
    name: str, in_channels: Sequence[int], out_channels: int = 256, **kwargs: Any
) -> nn.Module:
    """Build a registered neck.

        backbone = timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3, 4))
        neck = create_neck("catnet", backbone.feature_info.channels())
        maps = neck(backbone(images))

    Args:
        name: one of `list_necks()`.
        in_channels: channels of each map, finest first.
        out_channels: channels of every output.
        kwargs: the neck's own arguments.

    Returns:
        A module from a list of maps to a list of maps, with `in_channels`, `out_channels` and
        `num_outs`.

    Raises:
        UsageError: no such name (the nearest is offered), or the neck cannot take these maps.
    """
    return builder(name)(list(in_channels), out_channels, **kwargs)
