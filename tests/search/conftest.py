"""A cache folder of its own for each test, and peaks that take no time to measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from sinet.measurement import machine
from sinet.measurement.machine import Peak


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "measure_peak", lambda threads: Peak(threads, 100, 10, 400, 10))
