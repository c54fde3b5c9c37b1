"""The C library's memory, kept instead of given back between steps.

glibc gives blocks above 32 MB back to the system as soon as they are free, and their pages come
back empty, one page fault each: a training step whose activations are that large spends up to half
its time on it (tf_efficientnet_lite0 at 128 px, batch 64: 55 images/s without this, 79 with).
"""

from __future__ import annotations

import ctypes
import functools
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""glibc's names, see mallopt(3)."""
_NEVER = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process reuse what it frees; whether the C library could be told (glibc only)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, such as musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
