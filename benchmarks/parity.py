"""Do our networks give the numbers of their authors' code? Every reference case, in its own type.

    python benchmarks/parity.py

Writes docs/results/parity_cases_passed.json with the largest relative error of each case.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from sinet.measurement.results import record

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS.parent))
TOLERANCE = 1e-6


def error_of(path: Path) -> float:
    """Largest error of our outputs relative to the scale of the recorded ones."""
    golden: Any = importlib.import_module("tests.reference.golden")
    case = golden.Case.load(path)
    builder: Any = importlib.import_module(f"tests.reference.{case.meta['name'].split('_')[0]}")
    runner = builder.build(case.meta)
    runner.load(case.state_dict())
    with torch.inference_mode():
        return float(case.check(runner.run(*case.inputs()), rtol=float("inf")))


def main() -> None:
    """Check and record."""
    errors: dict[str, float] = {}
    for path in track(sorted((TESTS / "golden").glob("*.json.gz")), "cases"):
        errors[path.name.removesuffix(".json.gz")] = error_of(path)
    passed = sum(error <= TOLERANCE for error in errors.values())
    record("parity_cases_passed", passed, f"cases within {TOLERANCE:g} of the authors' code",
           len(errors), extra={"largest_relative_error": errors})  # fmt: skip
    for name, error in errors.items():
        print(f"{name:40} {error:.1e}")


if __name__ == "__main__":
    main()
