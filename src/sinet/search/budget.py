"""What the finished model may cost: milliseconds, megabytes of file, megabytes of memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

from sinet.errors import UsageError

_ACCEPTED = (
    "accepted: a latency (10ms, 0.5s or 30fps), a file size (4MB, 900KB or 0.1GB), a memory size "
    "(200MB-ram), or several separated by commas or spaces, such as 10ms,4MB,200MB-ram"
)
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|fps|kb|mb|gb)(-ram)?", re.IGNORECASE)
_MEGABYTES = {"kb": 1e-3, "mb": 1.0, "gb": 1e3}


@dataclass(frozen=True)
class Budget:
    """Upper limits; None = no limit. 1 MB is 1,000,000 bytes.

    Attributes:
        ms: latency of one image through the shipped file, milliseconds.
        mb: size of the shipped file, MB.
        memory_mb: peak resident memory of a process that runs it, MB.
    """

    ms: float | None = None
    mb: float | None = None
    memory_mb: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "10ms", "30fps", "4MB", "200MB-ram", or several by comma or space.

        Raises:
            UsageError: not understood, not positive, or one limit given twice.
        """
        limits: dict[str, float] = {}
        rest = _PART.sub(lambda match: _add(limits, match, text), text)
        if rest.strip(" ,\t") or not limits:
            raise UsageError(f"budget {text!r} is not understood; {_ACCEPTED}")
        return cls(**limits)

    def why_not(
        self, ms: float | None = None, mb: float | None = None, memory_mb: float | None = None
    ) -> str:
        """Which limits these values break, in words; "" when none. A None is not checked."""
        given = {"ms": ms, "mb": mb, "memory_mb": memory_mb}
        units = {"ms": "ms", "mb": "MB of file", "memory_mb": "MB of memory"}
        broken = []
        for name, value in given.items():
            limit = getattr(self, name)
            if limit is not None and value is not None and value > limit:
                broken.append(f"{value:.3g} {units[name]} > {limit:g}")
        return "; ".join(broken)

    def excess(
        self, ms: float | None = None, mb: float | None = None, memory_mb: float | None = None
    ) -> float:
        """The worst ratio of value to limit: above 1 breaks the budget, 1.1 is a near miss."""
        pairs = ((ms, self.ms), (mb, self.mb), (memory_mb, self.memory_mb))
        ratios = [v / limit for v, limit in pairs if v is not None and limit is not None]
        return max(ratios, default=0.0)

    def __str__(self) -> str:
        units = {"ms": "ms", "mb": "MB", "memory_mb": "MB-ram"}
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return ",".join(f"{v!r}{units[n]}" for n, v in values.items() if v is not None)


def _add(limits: dict[str, float], match: re.Match[str], text: str) -> str:
    """Put one part into `limits`; returns the empty text that replaces it."""
    value, unit, ram = float(match[1]), match[2].lower(), match[3]
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"budget {text!r}: {match[0]!r} is not above zero; {_ACCEPTED}")
    if unit in _MEGABYTES:
        name, limit = ("memory_mb" if ram else "mb"), value * _MEGABYTES[unit]
    elif ram:
        raise UsageError(f"budget {text!r}: {match[0]!r} mixes time and memory; {_ACCEPTED}")
    else:
        name, limit = "ms", {"ms": value, "s": value * 1e3, "fps": 1e3 / value}[unit]
    if name in limits:
        raise UsageError(f"budget {text!r} limits the same thing twice; give each limit once")
    limits[name] = limit
    return ""
