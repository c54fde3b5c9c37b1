"""Values of a recipe: what is allowed, and how text becomes a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import yaml

from sinet.errors import UsageError, unknown


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`; an open end is not itself allowed."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"from {self.low:g}"
        return f"{low} to {'below ' if self.open_high else ''}{self.high:g}"


def check(name: str, value: Any, allowed: Choice | Range | None) -> None:
    """Raise UsageError if `value` is not what the field `name` allows."""
    if isinstance(allowed, Choice) and value not in allowed.values:
        if isinstance(value, str):
            raise unknown(name, value, map(str, allowed.values))
        raise UsageError(f"{name}: {value!r} is not one of {', '.join(map(str, allowed.values))}")
    if isinstance(allowed, Range) and value not in allowed:
        raise UsageError(f"{name}: {value!r} is out of range; expected a number {allowed}")


def coerce(name: str, value: Any, kind: type) -> Any:
    """`value` as a `kind` (bool, int, float or str), parsing text as YAML does.

    Raises:
        UsageError: the value is of another type (nothing is rounded or guessed).
    """
    if isinstance(value, str) and kind is not str:
        try:  # YAML 1.1 reads 1e-3 as text, Python as a number
            value = yaml.safe_load(value) if kind is bool else float(value)
        except (ValueError, yaml.YAMLError) as error:
            raise _wrong(name, value, kind) from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _wrong(name, value, kind)
    return value


def _wrong(name: str, value: Any, kind: type) -> UsageError:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    return UsageError(f"{name}: {value!r} is not {words[kind]}")
