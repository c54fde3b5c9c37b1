from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from sinet.training.memory import keep_freed_memory

FAULTS = """
import resource, sys, torch
from sinet.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(30):
    torch.empty(16_000_000).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_blocks_are_reused() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True,
                           check=True).stdout)
        for mode in ("give back", "keep")
    ]  # fmt: skip
    pages = 16_000_000 * 4 // 4096
    assert faults[0] - faults[1] > 5 * pages, "thirty blocks, most faulted in anew, against one"


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory.__wrapped__()
