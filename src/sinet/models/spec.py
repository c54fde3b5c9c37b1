"""A network as a person would name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import yaml
from torch import nn

from sinet.errors import UsageError, unknown
from sinet.models._networks import MULTIPLE, create_network, list_networks, registered
from sinet.models.weights import load_weights


@dataclass(frozen=True)
class ModelSpec:
    """Registered name, input size, options and starting weights: all it takes to build a network.

    Attributes:
        name: any name registered with timm, ours included; or one of `list_networks()`.
        size: height of the input in pixels; its width too, unless the preprocessing says otherwise.
        kwargs: options of the model, such as `{"stem_stride": 1}`; `{"backbone": "resnet18"}` for
            networks that are built on one.
        weights: None = from scratch, else what `load_weights` takes: "hub:timm/NAME",
            "package:NAME" or a path; of the backbone where there is one.
    """

    name: str
    size: int
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    weights: str | None = None

    def create(
        self, num_classes: int, in_chans: int = 3, *, load: bool = True, **kwargs: Any
    ) -> nn.Module:
        """Build the network.

        Args:
            num_classes: outputs; 0 for pooled features.
            in_chans: image channels; pretrained first layers adapt.
            load: False leaves out the starting weights (when others are loaded anyway).
            **kwargs: more options, stronger than `self.kwargs`.

        Raises:
            UsageError: unknown name or option, or weights that cannot be had.
        """
        options = {**self.kwargs, **kwargs}
        if self.name in list_networks():
            return self._network(num_classes, in_chans, load, options)
        cfg = timm.get_pretrained_cfg(self.name) if timm.is_model(self.name) else None
        if cfg is None:
            raise unknown("model", self.name, [*timm.list_models(), *list_networks()])
        if cfg.fixed_input_size:  # such as ViT: the position embedding is built for one size
            options.setdefault("img_size", self.size)
        try:
            model: nn.Module = timm.create_model(
                self.name, num_classes=num_classes, in_chans=in_chans, **options
            )
        except TypeError as error:
            raise UsageError(
                f"model {self.name!r} cannot be built with {options}: {error}; "
                "leave that option out or correct it"
            ) from error
        if load and self.weights is not None:
            load_weights(model, self.weights)
        return model

    def _network(
        self, num_classes: int, in_chans: int, load: bool, options: Mapping[str, Any]
    ) -> nn.Module:
        """A network that is no classifier."""
        start = {"weights": self.weights} if load and self.weights and self.on_backbone else {}
        try:
            model = create_network(
                self.name, num_classes=num_classes, in_chans=in_chans, **options, **start
            )
        except TypeError as error:
            raise UsageError(
                f"network {self.name!r} cannot be built with {dict(options)}: {error}; "
                "leave that option out or correct it"
            ) from error
        if load and self.weights is not None and not self.on_backbone:
            load_weights(model, self.weights)
        return model

    def side(self, pixels: float, multiple: int = MULTIPLE) -> int:
        """The nearest side of an input that the network takes, pixels.

        Args:
            pixels: the side that is wanted.
            multiple: what sides are multiples of if the network states no rule of its own.
        """
        own = registered(self.name).step(self.kwargs) if self.name in list_networks() else None
        step = own or multiple
        return max(step, round(pixels / step) * step)

    @property
    def on_backbone(self) -> bool:
        """Whether the network is built on one of timm's."""
        return "backbone" in self.kwargs

    @property
    def backbone(self) -> str:
        """The name that pretrained weights go by."""
        return str(self.kwargs.get("backbone", self.name))

    @property
    def label(self) -> str:
        """For tables: `sinet_small@64` or `sinet_small+unet@256`, then options, " pretrained"."""
        name = f"{self.backbone}+{self.name}" if self.on_backbone else self.name
        options = "".join(f" {k}={_short(v)}" for k, v in self.kwargs.items() if k != "backbone")
        return f"{name}@{self.size}{options}" + (" pretrained" if self.weights else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON and YAML."""
        return {
            "name": self.name,
            "size": self.size,
            "kwargs": dict(self.kwargs),
            "weights": self.weights,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Undo `to_dict`.

        Raises:
            UsageError: a key that is not a field.
        """
        known = tuple(cls.__dataclass_fields__)
        for key in values:
            if key not in known:
                raise unknown("model option", key, known)
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelSpec:
        """Read a spec, `to_dict` as YAML or JSON.

        Raises:
            UsageError: no such file, or no spec in it.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"cannot read the model {path}: {error}") from error
        if not isinstance(values, dict) or not {"name", "size"} <= set(values):
            raise UsageError(f"the model {path} lacks `name` or `size`; write it as search does")
        return cls.from_dict(values)


def _short(value: Any) -> str:
    """An option's value as one word: (1, 2, 2, 2) -> 1,2,2,2."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
