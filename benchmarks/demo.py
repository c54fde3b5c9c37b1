"""Does a fresh clone reach a finished demo in time, and how good is its INT8 file?

    python benchmarks/demo.py

Clones the committed repository into a temporary folder, runs `make demo` there (all set-up
included, nothing from the cache) and writes demo_minutes, demo_int8_top1 and
export_fp32_max_diff to docs/results. Takes about six minutes and 6 GB of disk.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from sinet.files import read_json
from sinet.measurement.results import record


def main() -> None:
    """Clone, run, record."""
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "sinet"
        subprocess.run(["git", "clone", "--quiet", str(here), str(clone)], check=True)
        start = time.monotonic()
        environment = {**os.environ, "SINET_CACHE": str(Path(folder) / "cache")}
        subprocess.run(["make", "demo"], cwd=clone, env=environment, check=True)
        minutes = (time.monotonic() - start) / 60
        chain = read_json(clone / "runs" / "demo" / "chain.json")
    rows = {row["name"]: row for row in chain["rows"]}
    facts = {"shipped": chain["shipped"], "why": chain["why"], "images": chain["images"]}
    facts["latency_ms"] = {n: r["latency"]["median_ms"] for n, r in rows.items() if r["latency"]}
    facts["top1"] = {name: 100 * row["metric"] for name, row in rows.items()}
    int8, fp32 = rows["int8"], rows["fp32"]
    spread = (100 * int8["low"], 100 * int8["high"])
    record("demo_minutes", minutes, "minutes", 8, "lower", extra=facts)
    record("demo_int8_top1", 100 * int8["metric"], "%", 88, seeds=[0], spread=spread, extra=facts)
    record(
        "export_fp32_max_diff",
        fp32["max_difference"],
        "of the logits' scale",
        1e-3,
        "lower",
        extra={"images": chain["images"], "model": "the demo's"},
    )


if __name__ == "__main__":
    main()
