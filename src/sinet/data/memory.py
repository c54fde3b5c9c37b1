"""How much memory is left, without a dependency."""

from __future__ import annotations

import os
from pathlib import Path


def available_bytes() -> int:
    """Memory that can still be used: what the system says, or less where a container limits it."""
    limits = [_system()]
    try:  # cgroup v2: a container that is given less than the machine has
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        limits.append(int(limit) - used)
    except (OSError, ValueError):  # no cgroup, or "max"
        pass
    return max(0, min(limits))


def _system() -> int:
    try:  # Linux: counts the page cache as free, which sysconf does not
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
