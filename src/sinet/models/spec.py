"""A network as a person would name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
from torch import nn

from sinet.errors import UsageError, unknown
from sinet.models.weights import load_weights


@dataclass(frozen=True)
class ModelSpec:
    """Registered name, input size, options and starting weights: all it takes to build a network.

    Attributes:
        name: any name registered with timm, ours included.
        size: height = width of the input in pixels.
        kwargs: options of the model, such as `{"stem_stride": 1}`.
        weights: None = from scratch, else what `load_weights` takes: "hub:timm/NAME",
            "package:NAME" or a path.
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
        cfg = timm.get_pretrained_cfg(self.name) if timm.is_model(self.name) else None
        if cfg is None:
            raise unknown("model", self.name, timm.list_models())
        options = {**self.kwargs, **kwargs}
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

    @property
    def label(self) -> str:
        """For tables: `sinet_small@64`, then options and " pretrained" where there are any."""
        options = "".join(f" {k}={_short(v)}" for k, v in self.kwargs.items())
        return f"{self.name}@{self.size}{options}" + (" pretrained" if self.weights else "")

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


def _short(value: Any) -> str:
    """An option's value as one word: (1, 2, 2, 2) -> 1,2,2,2."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
