"""The registry of networks that are no classifiers: segmenters, volumes, super-resolution.

timm's registry holds backbones, which all take images and give logits and features; these have
inputs and outputs of their own. A name leads to a builder, as there, which may say what its network
is for and which sides an input may have.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import timm
from torch import nn

from sinet.errors import UsageError, unknown

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])
Options = Mapping[str, Any]

Multiple = int | Callable[[Options], int] | None

MULTIPLE = 32
"""Sides that are multiples of this fit the networks on images that state no rule."""


@dataclass(frozen=True)
class Registered:
    """A builder and what it says about its network.

    Attributes:
        build: makes the network from its options.
        tasks: what it is for, as in `sinet.tasks`; empty = not said.
        multiple: the sides of an input must be multiples of this many pixels, which may depend on
            the options that the network is built with; None = no rule.
    """

    build: Callable[..., nn.Module]
    tasks: tuple[str, ...] = ()
    multiple: Multiple = None

    @property
    def takes_backbone(self) -> bool:
        """Whether the network is a head on any of timm's."""
        return "backbone" in inspect.signature(self.build).parameters

    def step(self, options: Options) -> int | None:
        """What sides are multiples of when the network is built with these options."""
        return self.multiple(options) if callable(self.multiple) else self.multiple


_registered: dict[str, Registered] = {}


def register_for(*tasks: str, multiple: Multiple = None) -> Callable[[Builder], Builder]:
    """Register a function that builds a network for these tasks under the function's own name.

        @register_for("segment", multiple=64)
        def my_network(num_classes: int, in_chans: int = 3) -> nn.Module: ...

    Args:
        tasks: what the network is for; none = not said, so that no task refuses it.
        multiple: as in `Registered`.
    """

    def register(build: Builder) -> Builder:
        _registered[build.__name__] = Registered(build, tasks, multiple)
        return build

    return register


def list_networks(pattern: str = "*", task: str = "") -> list[str]:
    """The registered names that fit a pattern, in alphabetical order.

    Args:
        pattern: wildcards allowed.
        task: leaves out the networks that are for other tasks only.
    """
    importlib.import_module("sinet.heads")  # registers those that are a head on any backbone
    found = sorted(fnmatch.filter(_registered, pattern))
    return [n for n in found if not task or task in (_registered[n].tasks or (task,))]


def registered(name: str) -> Registered:
    """What is known about a network.

    Raises:
        UsageError: no such name; the nearest is offered.
    """
    if name not in list_networks():
        raise unknown("network", name, _registered)
    return _registered[name]


def check_task(name: str, task: str) -> None:
    """Refuse a network that is for other tasks; classifiers are for `classify`.

    Raises:
        UsageError: it is; those that suit the task are named.
    """
    if name in list_networks():
        tasks = _registered[name].tasks
    else:  # a name that nobody knows is explained when the network is built
        tasks = ("classify",) if timm.is_model(name) else ()
    if not tasks or task in tasks:
        return
    suited = [n for n in list_networks() if task in _registered[n].tasks and n[-5:] != "_test"]
    known = f"; for {task} there are {', '.join(suited)}" if suited else ""
    heads = [n for n in suited if _registered[n].takes_backbone]
    if heads and tasks == ("classify",):
        known += f"; as a backbone it is model.backbone={name} of {', '.join(heads)}"
    raise UsageError(f"{name} is a network for {' and '.join(tasks)}, not for {task}{known}")


def create_network(name: str, **kwargs: Any) -> nn.Module:
    """Build a registered network.

    Raises:
        UsageError: no such name; the nearest is offered.
    """
    return registered(name).build(**kwargs)
