"""Ours, built as a reference case of DCLS describes it: a ConvNeXt, or layers alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch import nn

from sinet.layers.dcls import DCLS1d, DCLS2d, DCLS2dFlat, DCLS3d
from sinet.models import load_state

State = dict[str, torch.Tensor]

KINDS = ("Dcls1d", "Dcls2d", "Dcls3d", "Dcls2dK1d")
_SIZES = "(tiny|small|base|t|s|b)"


def _spread(state: State, window: Mapping[str, Any]) -> State:
    """What a header's `prepare` asks for: positions and widths that fill the window."""
    out = {}
    for name, value in state.items():
        prefix, _, leaf = name.rpartition(".")
        scale = prod(value.shape[1:]) ** 0.5
        if leaf == "P":
            limit = _sides(window[prefix], value.shape[0])
            # equal sides as in every case with more than one axis, so their order is no matter
            value = torch.stack(
                [
                    (3.5 * scale * row).clamp(-(k // 2), k // 2)
                    for row, k in zip(value, limit, strict=True)
                ]
            )
        elif leaf == "SIG":
            value = 0.5 * scale * value
        out[name] = value
    return out


def _sides(size: Any, dims: int) -> tuple[int, ...]:
    return (size,) * dims if isinstance(size, int) else tuple(size)[-dims:]


def _network(meta: Mapping[str, Any]) -> SimpleNamespace:
    kwargs = dict(meta.get("kwargs") or {})
    for text in (meta["name"].lower(), meta.get("variant", "").lower()):
        if found := re.search(
            r"convnext[-_ ]?(?:dcls[-_ ]?)?(tiny|small|base|t|s|b)(?![a-z])", text
        ):
            break
    else:
        raise ValueError(f"no variant of ConvNeXt-dcls in {meta['name']!r}")
    size = {"t": "tiny", "s": "small", "b": "base"}[found[1][0]]
    options = {k: kwargs[k] for k in ("num_classes", "in_chans") if k in kwargs}
    model = timm.create_model(f"convnext_dcls_{size}", **options).eval()
    model = model.to(getattr(torch, meta["dtype"]))

    def load(state: State) -> None:
        if meta.get("prepare"):
            prefixes = {name.rpartition(".")[0] for name in state if name.endswith(".P")}
            state = _spread(state, dict.fromkeys(prefixes, 17))
        load_state(model, state, meta["name"])

    return SimpleNamespace(load=load, run=lambda *inputs: model(*inputs))


class _Layers:
    """Layers on their own: what a header does not say is read from tensors and inputs."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self.meta = meta
        self.kwargs = dict(meta.get("kwargs") or {})
        self.state: dict[str, State] = {}

    def options(self, prefix: str) -> dict[str, Any]:
        """What the header says of one layer: in words, for all layers, for this one alone."""
        text = str(self.meta.get("variant", ""))
        told = _in_words(text, [prefix], self.state) or _in_words(text, [self.kind(prefix)], KINDS)
        for key, value in self.kwargs.items():
            if not isinstance(value, dict):
                told[key] = value
            elif prefix in value:  # an option that differs between layers
                told[key] = value[prefix]
        own = self.kwargs.get(prefix)
        if isinstance(own, str):
            own = _in_words(f"{prefix} {own}", [prefix], [])
        return told | own if isinstance(own, dict) else told

    def kind(self, prefix: str) -> str:
        """The authors' class of a layer, as its name and its tensors tell."""
        if re.search(r"flat|k1d", prefix.lower()):
            return "Dcls2dK1d"
        return f"Dcls{self.state[prefix]['P'].shape[0]}d"

    def window(self, prefix: str) -> Any:
        options = self.options(prefix)
        for key in ("dilated_kernel_size", "window", "size", "kernel_size"):
            if key in options:
                return options[key]
        raise ValueError(f"no window for layer {prefix!r} in {self.kwargs}")

    def load(self, state: State) -> None:
        for name, value in state.items():
            prefix, _, leaf = name.rpartition(".")
            self.state.setdefault(prefix, {})[leaf] = value
        if self.meta.get("prepare"):
            spread = _spread(state, {prefix: self.window(prefix) for prefix in self.state})
            for prefix, tensors in self.state.items():
                tensors |= {leaf: spread[f"{prefix}.{leaf}"] for leaf in tensors}

    def version(self, prefix: str) -> str:
        """As the layer is called; else as the header says; else the usual one with its tensors."""
        known = ("gauss", "max") if "SIG" in self.state[prefix] else ("v1", "v0")
        given = str(self.options(prefix).get("version"))
        named = [v for v in known if v in prefix.lower()]
        return [*named, *(v for v in known if v == given), *known][0]

    def flat(self, prefix: str) -> bool:
        """A kernel with positions on one axis, for maps."""
        return self.kind(prefix) == "Dcls2dK1d" or "flat_dim" in self.options(prefix)

    def layer(self, prefix: str, x: torch.Tensor) -> nn.Module:
        tensors, options = self.state[prefix], self.options(prefix)
        out_chs, per_group, count = tensors["weight"].shape
        dims = tensors["P"].shape[0]
        size = self.window(prefix)
        shared = {
            "stride": options.get("stride", 1),
            "padding": options.get("padding", 0),
            "groups": x.shape[1] // per_group,
            "bias": "bias" in tensors,
            "version": self.version(prefix),
        }
        if dims == 1 and x.ndim == 4:
            side = size if isinstance(size, int) else size[0]
            row = options.get("flat_dim", 0) == 1
            made: nn.Module = DCLS2dFlat(x.shape[1], out_chs, count, side, row=row, **shared)
        else:
            kind = {1: DCLS1d, 2: DCLS2d, 3: DCLS3d}[dims]
            made = kind(x.shape[1], out_chs, count, size, **shared)
        made = made.to(x.dtype).eval()
        made.load_state_dict(tensors)
        return made

    def run(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for i, (prefix, tensors) in enumerate(self.state.items()):
            dims = tensors["P"].shape[0]
            spatial = 2 if self.flat(prefix) else dims
            if len(inputs) == len(self.state):
                x = inputs[i]
            else:  # one input for all layers of as many axes
                fitting = [x for x in inputs if x.ndim - 2 == spatial]
                x = (fitting or [x for x in inputs if x.ndim == 4 and dims == 1])[0]
            outputs.append(self.layer(prefix, x)(x))
        return outputs


_VALUE = r"(\w+)\s*=\s*(\([\d, ]+\)|\[[\d, ]+\]|['\"]?[\w.]+)"
_WORDS = (
    ("dilated_kernel_size", r"(?:window|kernel size|kernel|size|\bk)\s+(?:of\s+)?(\d+(?:x\d+)*)"),
    ("dilated_kernel_size", r"(\d+(?:x\d+)+)\s+(?:window|kernel)"),
    ("stride", r"stride\s+(\d+(?:x\d+)*)"),
    ("padding", r"padding\s+(\d+(?:x\d+)*)"),
    ("flat_dim", r"flat_dim\s+(\d)"),
    ("version", r"\b(v0|v1|max|gauss)\b"),
)


def _in_words(text: str, names: Iterable[str], others: Iterable[str]) -> dict[str, Any]:
    """Options of the layer of these names in a sentence such as `d1: Dcls1d(4, 8, 5, stride=2)`."""
    names = set(names)
    starts = sorted(
        (found.start(), found.end(), name)
        for name in {*names, *others}
        for found in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    )
    own = ""
    for i, (_, end, name) in enumerate(starts):
        if name in names:
            own += text[end : starts[i + 1][0] if i + 1 < len(starts) else None] + " "
    told: dict[str, Any] = {}
    for key, pattern in _WORDS:
        if found := re.search(pattern, own):
            told.setdefault(key, _value(found[1]))
    return told | {key: _value(value) for key, value in re.findall(_VALUE, own)}


def _value(text: str) -> Any:
    """A number, several, or a word."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", text))
    if re.fullmatch(r"\d+", text):
        return numbers[0]
    return numbers if re.fullmatch(r"[\d, x()\[\]]+", text) else text.strip("'\"")


def build(meta: Mapping[str, Any]) -> SimpleNamespace:
    """The network, or the layers in the order of the recorded names."""
    if "convnext" in meta["name"].lower():
        return _network(meta)
    layers = _Layers(meta)
    return SimpleNamespace(load=layers.load, run=layers.run)
