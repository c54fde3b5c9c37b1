"""What a file says about itself, so that whoever receives it needs no side knowledge.

Every field travels as JSON under `sinet.<field>`: in the metadata of an ONNX file, in the runtime
information of an OpenVINO file. JSON keeps the type of class ids: 7 is not "7".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from typing import Any

from sinet import __version__
from sinet.data.inputs import preprocess_from
from sinet.data.preprocess import Preprocess
from sinet.errors import UsageError

PREFIX = "sinet."


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Metadata:
    """The facts that an exported file carries."""

    classes: list[str]
    """Names in the order of the outputs."""
    class_ids: list[int | str]
    """The user's own ids in the same order, with their types."""
    preprocess: Preprocess
    """How an image becomes the network's input; it is also nodes of the graph."""
    model: str
    """The network and its input size, such as `sinet_small@224`."""
    multilabel: bool = False
    """Whether an image may have several labels (sigmoid instead of softmax)."""
    task: str = "classify"
    """What the outputs mean."""
    precision: str = "fp32"
    """`fp32` or `int8`."""
    licence: str = "unstated"
    """Licence of the weights."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """The training recipe, resolved."""
    version: str = __version__
    """The sinet that wrote the file."""
    created: str = field(default_factory=_now)
    """Date and time of the export, UTC."""

    def __post_init__(self) -> None:
        """Hold names and ids to one length."""
        if len(self.classes) != len(self.class_ids):
            raise UsageError(
                f"{len(self.classes)} class names but {len(self.class_ids)} class ids; "
                "give each class one of both"
            )

    def replace(self, **changes: Any) -> Metadata:
        """A copy with other values, such as `precision="int8"`."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {**plain, "preprocess": self.preprocess.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Metadata:
        """The inverse of `to_dict`; fields of a later version are passed over."""
        known = {entry.name for entry in fields(cls)}
        plain = {name: value for name, value in values.items() if name in known}
        return cls(**{**plain, "preprocess": preprocess_from(plain["preprocess"])})

    def to_props(self) -> dict[str, str]:
        """One string a field, as ONNX and OpenVINO files store them."""
        return {
            PREFIX + name: json.dumps(value, ensure_ascii=False)
            for name, value in self.to_dict().items()
        }

    @classmethod
    def from_props(cls, props: Mapping[str, str], source: object = "the file") -> Metadata:
        """The inverse of `to_props`.

        Raises:
            UsageError: another program made the file, or its metadata are damaged.
        """
        own = {name: text for name, text in props.items() if name.startswith(PREFIX)}
        if not own:
            raise UsageError(
                f"{source} carries no SiNet metadata (class names, preprocessing); "
                "export it with `sinet export`"
            )
        try:
            return cls.from_dict(
                {name.removeprefix(PREFIX): json.loads(text) for name, text in own.items()}
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"the SiNet metadata of {source} are damaged ({error!r}); export it again"
            ) from error
