"""Measured numbers that the documentation claims: one JSON file each, written by what measured it.

    record("sinet_base_int8_speedup", 2.4, "x", target=2, better="higher", seeds=[0])

writes docs/results/sinet_base_int8_speedup.json with the command, the hardware, threads, versions
and date; `render_table` turns the folder into the table of the documentation.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from sinet.errors import DataError, UsageError
from sinet.files import read_json, write_json
from sinet.measurement.latency import default_threads
from sinet.measurement.machine import machine

FIELDS = (
    "name", "value", "unit", "target", "better", "passed", "command", "hardware", "threads",
    "versions", "date", "seeds", "spread", "extra",
)  # fmt: skip


def record(
    name: str,
    value: float,
    unit: str,
    target: float,
    better: Literal["higher", "lower"] = "higher",
    *,
    command: str | None = None,
    threads: int | None = None,
    seeds: Sequence[int] = (),
    spread: Sequence[float] | None = None,
    extra: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> Path:
    """Write one measured number with everything needed to judge and repeat it.

    Args:
        name: file name without suffix: letters, digits, underscores.
        value: what was measured.
        unit: of the value, such as "ms", "%", "x".
        target: the bar it is held against.
        better: whether passing means at least or at most the target.
        command: what to type to repeat it; this process's own command line if None.
        threads: threads used, `default_threads()` if None.
        seeds: random seeds, where any were used.
        spread: (low, high): quartiles, an interval or the range over the seeds.
        extra: further plain values that explain the number.
        out: folder, docs/results of the repository around the working directory if None.

    Raises:
        UsageError: the name is not a plain file name, the value not finite, or no repository here.
    """
    if not name.replace("_", "").isalnum():
        raise UsageError(f"result name {name!r}: use letters, digits and underscores only")
    if not math.isfinite(value):
        raise UsageError(f"result {name} is {value}; record only finite numbers")
    found = machine()
    passed = value >= target if better == "higher" else value <= target
    path = (out or results_dir()) / f"{name}.json"
    return write_json(
        path,
        {
            "name": name,
            "value": value,
            "unit": unit,
            "target": target,
            "better": better,
            "passed": bool(passed),
            "command": command or own_command(),
            "hardware": found.hardware,
            "threads": threads or default_threads(),
            "versions": found.versions,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seeds": list(seeds),
            "spread": list(spread) if spread is not None else None,
            "extra": dict(extra or {}),
        },
    )


def own_command() -> str:
    """The command line of this process as a person would type it from the repository."""
    program = Path(sys.argv[0])
    if program.suffix == ".py":
        parts = program.parts
        name = (
            "/".join(parts[parts.index("benchmarks") :]) if "benchmarks" in parts else str(program)
        )
        return " ".join(["python", name, *sys.argv[1:]])
    return shlex.join([program.name, *sys.argv[1:]])


def results_dir(start: Path | None = None) -> Path:
    """docs/results of the repository that holds `start` (the working directory if None).

    Raises:
        UsageError: no SiNet checkout here.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "src" / "sinet").is_dir():
            return folder / "docs" / "results"
    raise UsageError(f"{start} is not inside a SiNet checkout; say where to write with --out")


def read_results(folder: Path) -> Iterator[dict[str, Any]]:
    """Every result of a folder, by name.

    Raises:
        DataError: a file is not a result.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            result = read_json(path)
        except ValueError as error:
            raise DataError(f"{path} is not JSON ({error}); run its command again") from error
        missing = [f for f in FIELDS if not isinstance(result, dict) or f not in result]
        if missing:
            raise DataError(f"{path} lacks {', '.join(missing)}; write it with results.record")
        yield result


def render_table(folder: Path) -> str:
    """A markdown table of every result in a folder, for the documentation."""
    lines = [
        "| result | measured | target | | spread | hardware | command |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in read_results(folder):
        sign = ">=" if r["better"] == "higher" else "<="
        spread = " to ".join(f"{s:.4g}" for s in r["spread"]) if r["spread"] else ""
        lines.append(
            f"| {r['name']} | {r['value']:.4g} {r['unit']} | {sign} {r['target']:g} "
            f"| {'kept' if r['passed'] else '**missed**'} | {spread} "
            f"| {r['hardware']}, {r['threads']} threads | `{r['command']}` |"
        )
    return "\n".join(lines) + "\n"
