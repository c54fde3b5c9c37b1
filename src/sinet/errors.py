"""What a person sees when something is wrong: what was given, what was expected, what to do next.

Each error carries the exit code that the command line ends with.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class SinetError(Exception):
    """Failure in the run (exit code 1)."""

    exit_code = 1


class UsageError(SinetError):
    """Wrong usage or configuration: unknown name, malformed YAML, missing extra (exit code 2)."""

    exit_code = 2


class DataError(SinetError):
    """The data set cannot be used as it is (exit code 3).

    Args:
        said: what was given, what was expected, what to do next.
        faults: what is wrong with which samples, to be drawn; each a `sinet.data.remarks.Remark`.
    """

    exit_code = 3

    def __init__(self, said: str, faults: Sequence[Any] = ()) -> None:
        super().__init__(said)
        self.faults = tuple(faults)


class BudgetError(SinetError):
    """No candidate keeps the budget; the report is still written (exit code 4)."""

    exit_code = 4


class GateError(SinetError):
    """An exported file differs too much from the trained model (exit code 5)."""

    exit_code = 5


def unknown(kind: str, given: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest names that do."""
    known = list(known)
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(repr(n) for n in near)}?"
        if near
        else (f"known: {', '.join(sorted(known)[:12])}{' ...' if len(known) > 12 else ''}")
    )
    return UsageError(f"unknown {kind} {given!r}; {hint}")


def missing_extra(package: str, extra: str) -> UsageError:
    """The error for an optional dependency that is not installed."""
    return UsageError(f"{package} is not installed; run: pip install 'sinet[{extra}]'")
