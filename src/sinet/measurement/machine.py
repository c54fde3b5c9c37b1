"""This machine: what it is and what it reaches at best, measured once and kept.

The peaks are measured, not looked up: matrix products for f32, bf16 and int8 and a STREAM-like copy
for memory, each by the engines that will run the networks. They are the denominators of every
"fraction of the machine's peak" that this library prints.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from sinet.errors import DataError, SinetError
from sinet.files import read_json, write_json
from sinet.measurement.latency import default_threads, session

_TELLING_FLAGS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
_PACKAGES = ("torch", "timm", "onnx", "onnxruntime", "openvino", "numpy")


@dataclass(frozen=True)
class Peak:
    """Best rates seen with a number of threads; 1 multiply-add = 2 FLOP, copies count both ways.

    Attributes:
        threads: threads used.
        f32: GFLOP/s of a matrix product, the better of PyTorch and ONNX Runtime.
        bf16: GFLOP/s of PyTorch's bfloat16 matrix product (0 where it has none).
        int8: giga-operations/s of ONNX Runtime's uint8 x int8 matrix product.
        bandwidth_gbs: GB/s of copying arrays larger than the caches.
        steady: the products' times hardly varied, so nothing else was running.
    """

    threads: int
    f32: float
    bf16: float
    int8: float
    bandwidth_gbs: float
    steady: bool = True

    def best_of(self, other: Peak) -> Peak:
        """The better of two measurements in each rate: a peak is the best that was ever seen."""
        rates = ("f32", "bf16", "int8", "bandwidth_gbs")
        best = {rate: max(getattr(self, rate), getattr(other, rate)) for rate in rates}
        return Peak(self.threads, **best, steady=self.steady or other.steady)


@dataclass(frozen=True)
class Machine:
    """What a measurement was taken on."""

    cpu: str
    cores: int
    flags: tuple[str, ...]
    memory_gb: float
    system: str
    gpu: str
    versions: dict[str, str]
    peaks: tuple[Peak, ...]

    def peak(self, threads: int | None = None) -> Peak:
        """The peak with this many threads; between two measured counts, the next lower one."""
        threads = threads or default_threads()
        below = [p for p in self.peaks if p.threads <= threads]
        return max(below or self.peaks, key=lambda p: p.threads)

    @property
    def gflops_f32(self) -> float:
        """GFLOP/s in float32 with the default threads."""
        return self.peak().f32

    @property
    def gflops_int8(self) -> float:
        """Giga-operations/s in int8 with the default threads."""
        return self.peak().int8

    @property
    def bandwidth_gbs(self) -> float:
        """GB/s with the default threads."""
        return self.peak().bandwidth_gbs

    @property
    def hardware(self) -> str:
        """One line that goes beside every number measured here."""
        flags = [f for f in self.flags if f in ("avx512_vnni", "amx_int8", "avx_vnni", "asimddp")]
        cores = f"{self.cores} core" + "s" * (self.cores != 1)
        parts = [f"{self.cpu}, {cores}", f"{self.memory_gb:.0f} GB", *flags]
        return ", ".join(parts + ([self.gpu] if self.gpu else []))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"hardware": self.hardware}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Machine:
        """The inverse of `to_dict`.

        Raises:
            DataError: a field is missing or has the wrong type.
        """
        try:
            known = {k: v for k, v in values.items() if k != "hardware"}
            known["flags"] = tuple(known["flags"])
            known["peaks"] = tuple(Peak(**p) for p in known["peaks"])
            return cls(**known)
        except (KeyError, TypeError) as error:
            raise DataError(f"malformed machine description: {error}") from error


def cache_dir() -> Path:
    """The user's cache folder for SiNet; the environment variable SINET_CACHE overrides it."""
    if chosen := os.environ.get("SINET_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "sinet"


def machine(*, refresh: bool = False) -> Machine:
    """Describe this machine; its peaks are measured on the first call (about 5 s) and then kept.

    The stored copy belongs to this processor and these engine versions: either changes, and the
    peaks are measured anew. What was measured while other programs ran is measured once more in
    the next process, and the better rates are kept. `refresh` measures in any case.
    """
    path = cache_dir() / f"machine-{fingerprint(describe())}.json"
    if refresh:
        _machine.cache_clear()
    return _machine(path, refresh)


@functools.lru_cache
def _machine(path: Path, refresh: bool) -> Machine:
    identity, known = describe(), None
    if path.is_file():
        with contextlib.suppress(DataError, ValueError):  # another version's, or cut short
            known = Machine.from_dict(read_json(path))
    if known is not None and not refresh and all(p.steady for p in known.peaks):
        return known
    counts = sorted({1, default_threads(), identity["cores"]})
    peaks = [measure_peak(threads) for threads in counts]
    if known is not None and len(known.peaks) == len(peaks):
        peaks = [new.best_of(old) for new, old in zip(peaks, known.peaks, strict=True)]
    found = Machine(**identity, peaks=tuple(peaks))
    with contextlib.suppress(SinetError):  # a read-only home costs the next run five seconds
        write_json(path, found.to_dict())
    return found


def fingerprint(values: Mapping[str, Any]) -> str:
    """A short stable hash of plain values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def describe() -> dict[str, Any]:
    """Everything about this machine that needs no measuring: the fields of `Machine` but peaks."""
    cpu, flags = _cpu()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": cpu,
        "cores": len(affinity(0)) if affinity else (os.cpu_count() or 1),
        "flags": flags,
        "memory_gb": round(_memory_gb(), 1),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python, this library and the engines that are installed."""
    found = {"python": platform.python_version(), "sinet": _version("sinet")}
    found |= {name: _version(name) for name in _PACKAGES}
    return {name: version for name, version in found.items() if version}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu() -> tuple[str, tuple[str, ...]]:
    """Name and telling instruction sets of the processor, as the system states them."""
    name, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        text = info.read_text(errors="replace")
        model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
        found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
        name, flags = (model[1] if model else name), (found[1] if found else "")
    elif sys.platform == "darwin":
        query = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(query, capture_output=True, text=True).stdout.strip() or name
    present = set(flags.split())
    return name.strip(), tuple(f for f in _TELLING_FLAGS if f in present)


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return 0.0


def measure_peak(threads: int, seconds: float = 0.3) -> Peak:
    """Measure the best rates with this many threads; `seconds` for each of five kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        f32 = [gemm_torch(torch.float32, seconds), gemm_onnx("f32", threads, seconds)]
        bf16 = gemm_torch(torch.bfloat16, seconds)
        int8 = gemm_onnx("int8", threads, seconds)
        bandwidth = copy_bandwidth(seconds)
    finally:
        torch.set_num_threads(before)
    return Peak(
        threads=threads,
        f32=max(rate.best for rate in f32),
        bf16=bf16.best,
        int8=int8.best,
        bandwidth_gbs=bandwidth.best,
        steady=all(rate.best < 1.25 * rate.median for rate in (*f32, int8)),
    )


class Rate(NamedTuple):
    """Work per second (in units of 1e9) of the fastest and of the median call."""

    best: float
    median: float


def _rate(work: float, call: Callable[[], Any], seconds: float) -> Rate:
    """Rate of calls that each do `work`, called for `seconds` (at least 3 times)."""
    call()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return Rate(work / min(times) / 1e9, work / statistics.median(times) / 1e9)


def gemm_torch(dtype: torch.dtype, seconds: float = 0.3, n: int = 1024) -> Rate:
    """GFLOP/s of PyTorch's n x n matrix product with its current threads."""
    a, b = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
    out = torch.empty(n, n, dtype=dtype)
    return _rate(2 * n**3, lambda: torch.mm(a, b, out=out), seconds)


def gemm_onnx(kind: str, threads: int, seconds: float = 0.3, n: int = 1024) -> Rate:
    """GFLOP/s (or giga-operations/s) of ONNX Runtime's n x n product with constant weights.

    Args:
        kind: "f32" (MatMul) or "int8" (MatMulInteger, uint8 activations x int8 weights).
        threads: intra-operator threads.
        seconds: time to spend.
        n: rows and columns.
    """
    integer = kind == "int8"
    dtype, weights = (np.uint8, np.int8) if integer else (np.float32, np.float32)
    proto, result = (TensorProto.UINT8, TensorProto.INT32) if integer else (TensorProto.FLOAT,) * 2
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if integer else "MatMul", ["a", "b"], ["y"])],
        "gemm",
        [helper.make_tensor_value_info("a", proto, [n, n])],
        [helper.make_tensor_value_info("y", result, [n, n])],
        [numpy_helper.from_array(np.ones((n, n), weights), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    opened = session(model.SerializeToString(), threads, spinning=True)
    inputs = {"a": np.ones((n, n), dtype)}
    return _rate(2 * n**3, lambda: opened.run(None, inputs), seconds)


def copy_bandwidth(seconds: float = 0.3) -> Rate:
    """GB/s of copying an array of 256 MB (less on small machines), read and write both counted."""
    size = min(256 * 2**20, int((_memory_gb() or 4) * 2**30 / 16))
    source, target = torch.ones(size // 4), torch.empty(size // 4)
    return _rate(2 * size, lambda: target.copy_(source), seconds)


def efficiency(macs: int, median_ms: float, peak: float) -> tuple[float, float]:
    """(achieved GFLOP/s, fraction of `peak`) of a network of `macs` that takes `median_ms`."""
    achieved = 2 * macs / (median_ms * 1e-3) / 1e9
    return achieved, achieved / peak if peak else 0.0
