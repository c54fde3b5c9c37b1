"""How long do `import sinet` and `sinet --help` take?

    python benchmarks/startup.py

Writes import_ratio (`import sinet, timm` against `import timm`: our models are registered in the
former) and help_seconds, medians of interleaved runs in fresh processes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from sinet.measurement.results import record

COMMANDS = {
    "sinet": [sys.executable, "-c", "import sinet, timm; assert timm.is_model('sinet_small')"],
    "timm": [sys.executable, "-c", "import timm"],
    "help": [sys.executable, "-m", "sinet", "--help"],
}


def main(rounds: int = 7) -> None:
    """Time each command in turn, `rounds` times after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(seconds["sinet"], seconds["timm"], strict=True)]
    spread = {n: statistics.quantiles(v, n=4)[::2] for n, v in seconds.items()}
    low, _, high = statistics.quantiles(ratios, n=4)
    extra = {"seconds": {n: statistics.median(v) for n, v in seconds.items()}, "quartiles": spread}
    ratio = statistics.median(ratios)
    record("import_ratio", ratio, "x", 1.2, "lower", spread=(low, high), extra=extra)
    low, high = spread["help"]
    value = statistics.median(seconds["help"])
    record("help_seconds", value, "s", 1, "lower", spread=(low, high), extra=extra)


if __name__ == "__main__":
    main()
