"""How long a file or a function takes: warm-up, interleaved repeats, median with quartiles.

Two things are only compared when they were measured in turn in one run (A B A B ...), so that
what else the machine does hits both alike. Idle ONNX Runtime thread pools that keep spinning
steal the cores from each other (3 ms became 12 ms with several sessions alive), hence sessions
here do not spin unless asked to; ask only where one session is alive at a time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from sinet.errors import UsageError


@dataclass(frozen=True)
class Latency:
    """Time of one call in milliseconds, and under which conditions it was taken."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    runs: int
    threads: int
    batch: int = 1
    spinning: bool = False
    engine: str = "onnxruntime"

    @classmethod
    def of(cls, seconds: Sequence[float], **conditions: Any) -> Latency:
        """Summarise the times of single calls, in seconds."""
        q1, median, q3 = np.percentile(np.asarray(seconds) * 1e3, [25, 50, 75])
        return cls(float(median), float(q1), float(q3), len(seconds), **conditions)

    def __str__(self) -> str:
        return f"{self.median_ms:.2f} ms ({self.q1_ms:.2f}-{self.q3_ms:.2f})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Latency:
        """The inverse of `to_dict`."""
        return cls(**values)


def default_threads() -> int:
    """Threads that a measurement uses when nobody says: the cores this process may use, at most 4.

    More than four threads rarely help a network of a few milliseconds and make its time erratic.
    """
    import os

    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return max(1, min(4, cores))


def session(
    file: str | Path | bytes, threads: int | None = None, spinning: bool = False
) -> ort.InferenceSession:
    """Open an ONNX file on the CPU with stated threads.

    Args:
        file: path or the serialised model.
        threads: intra-operator threads, `default_threads()` if None.
        spinning: whether idle threads spin while waiting for work. Faster for one session alone,
            ruinous when several sessions are alive.

    Raises:
        UsageError: the file does not exist or is not a whole ONNX model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    return open_session(file, options)


def open_session(file: str | Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """Open an ONNX file on the CPU; failures say which file and what to do."""
    if not isinstance(file, bytes):
        if not Path(file).is_file():
            raise UsageError(f"no such ONNX file: {file}; give the path of an exported model")
        file = str(file)
    try:
        return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        name = "the serialised model" if isinstance(file, bytes) else file
        raise UsageError(
            f"{name} is not an ONNX model that ONNX Runtime {ort.__version__} can run: {error}; "
            "export it again with `sinet export`"
        ) from error


def feed(
    opened: ort.InferenceSession, batch: int = 1, hw: tuple[int, int] = (224, 224), seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """Random inputs that fit a session: free dimensions get the batch, then height and width.

    Images of dtype uint8 are (N, H, W, C) and clips (N, T, H, W, C), floats (N, C, H, W); fixed
    dimensions, such as the frames T, stay as they are.
    """
    rng = np.random.default_rng(seed)
    inputs: dict[str, npt.NDArray[Any]] = {}
    for entry in opened.get_inputs():
        is_bytes = entry.type == "tensor(uint8)"
        frames = [1] * (len(entry.shape) - 4)
        free = [batch, *frames, *hw, 3] if is_bytes else [batch, 3, *hw]
        shape = [d if isinstance(d, int) else f for d, f in zip(entry.shape, free, strict=False)]
        if is_bytes:
            inputs[entry.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        else:
            inputs[entry.name] = rng.standard_normal(shape, dtype=np.float32)
    return inputs


def compare(
    runners: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 2.0,
    runs: int | None = None,
    warmup: int = 3,
    threads: int | None = None,
    batch: int = 1,
    spinning: bool = False,
    engine: str = "onnxruntime",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Time functions in turn: A B A B ..., so that competing load hits all of them alike.

    Args:
        runners: name -> function of one call.
        seconds: time to spend in all when `runs` is None; at least 5 rounds are made.
        runs: rounds, each calling every function once.
        warmup: untimed rounds first.
        threads: what the functions use (`default_threads()` if None). This and the next three are
            recorded, not enforced.
        batch: images a call.
        spinning: whether idle threads spin.
        engine: what runs the functions.
        clock: seconds, monotonic.

    Raises:
        UsageError: nothing to time.
    """
    if not runners:
        raise UsageError("nothing to time; name at least one model")
    for _ in range(warmup):
        for run in runners.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runners}
    start, done = clock(), 0
    while done < runs if runs is not None else (done < 5 or clock() - start < seconds):
        for name, run in runners.items():
            before = clock()
            run()
            times[name].append(clock() - before)
        done += 1
    conditions = {
        "threads": threads or default_threads(),
        "batch": batch,
        "spinning": spinning,
        "engine": engine,
    }
    return {name: Latency.of(seconds_, **conditions) for name, seconds_ in times.items()}


def compare_files(
    files: Mapping[str, str | Path],
    image: npt.NDArray[Any],
    *,
    threads: int | None = None,
    spinning: bool = True,
    seconds: float = 2.0,
    rounds: int = 4,
    outputs: Sequence[str] | None = None,
) -> dict[str, Latency]:
    """Time exported files in turn as their user will run them: one session alive at a time.

    Each round opens, warms, times and closes every file once, so a spinning thread pool has no
    neighbour to steal from.

    Args:
        files: name -> path of an assembled file ("images" in).
        image: one batch as the files take it, for pictures uint8 (N, H, W, C).
        threads: intra-operator threads, `default_threads()` if None.
        spinning: as the user's session is set; ONNX Runtime spins by default.
        seconds: time to spend in all.
        rounds: turns a file.
        outputs: names of those that are asked for; all if None.
    """
    threads = threads or default_threads()
    share = seconds / (rounds * len(files))
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds):
        for name, path in files.items():
            times[name] += _block(session(path, threads, spinning), image, share, outputs)
    return {
        name: Latency.of(t, threads=threads, batch=len(image), spinning=spinning)
        for name, t in times.items()
    }


def _block(
    opened: ort.InferenceSession,
    image: npt.NDArray[Any],
    seconds: float,
    outputs: Sequence[str] | None,
) -> list[float]:
    """Seconds of single calls: warmed by a quarter of the time and 3 calls, at least 3 timed."""
    inputs = {opened.get_inputs()[0].name: image}
    start, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - start < seconds / 4:
        opened.run(outputs, inputs)
        calls += 1
    times: list[float] = []
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        opened.run(outputs, inputs)
        times.append(time.perf_counter() - before)
    return times


# Runs with onnxruntime and numpy only, as a shipped file does. VmHWM is the peak of this process
# image; ru_maxrss would start from the peak of the parent that forked it.
_PEAK_MEMORY = """
import sys, numpy, onnxruntime as ort
path, threads, *shape = sys.argv[1:]
options = ort.SessionOptions()
options.intra_op_num_threads = int(threads)
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
entry = session.get_inputs()[0]
kind = {"tensor(uint8)": "uint8", "tensor(int64)": "int64"}.get(entry.type, "float32")
image = numpy.zeros([int(s) for s in shape], kind)
for _ in range(3):
    session.run(None, {entry.name: image})
try:
    lines = open("/proc/self/status").read().splitlines()
    print(next(int(l.split()[1]) for l in lines if l.startswith("VmHWM")) / 1024)
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10))
"""


def peak_memory_mb(file: str | Path, shape: tuple[int, ...], threads: int | None = None) -> float:
    """Peak resident memory, MB, of a process that has only onnxruntime, numpy and this file.

    Args:
        file: an assembled file ("images" in).
        shape: of the batch, for pictures (N, H, W, C).
        threads: intra-operator threads, `default_threads()` if None.

    Raises:
        UsageError: the file cannot be run in a process of its own.
    """
    arguments = [str(file), str(threads or default_threads()), *map(str, shape)]
    done = subprocess.run(
        [sys.executable, "-c", _PEAK_MEMORY, *arguments], capture_output=True, text=True
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"{file} cannot be run on an image of shape {shape}: {reason}")
    return float(done.stdout)
