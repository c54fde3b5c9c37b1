"""Does the exported file do what the trained model did, and which of the files ships?

One table: eager model, exported FP32 file, INT8 file x metric with its 95% interval, the largest
difference of the logits, the latency as its user will run it, file size, peak memory. The FP32 file
must agree with the eager model; INT8 ships only if it loses little and is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sinet.errors import DataError, GateError
from sinet.measurement.latency import (
    Latency,
    compare_files,
    default_threads,
    peak_memory_mb,
    session,
)

FP32_TOLERANCE = 1e-3
"""Largest allowed difference of FP32 logits, on the scale of logits of size 1."""

Array = npt.NDArray[Any]


class Images(Protocol):
    """What `verify` needs of a split of a data set."""

    labels: Array
    names: list[str]

    def __len__(self) -> int:
        """How many images."""
        ...

    def image(self, i: int, channels: int) -> npt.NDArray[np.uint8]:
        """Image i, (H, W, channels)."""
        ...


@dataclass(frozen=True)
class Row:
    """One link of the chain.

    Attributes:
        name: "eager", "fp32" or "int8".
        metric: top-1, or mean average precision for multi-label data, 0..1.
        low: lower end of the 95% interval of `metric`.
        high: upper end.
        max_difference: largest difference of a logit to eager, divided by the eager logits' root
            mean square where that is above 1.
        latency: of one image through the file, None for eager.
        file_mb: MB of 1,000,000 bytes, None for eager.
        memory_mb: peak resident memory of a process that runs only this file, None for eager.
        note: what a reader should know about the row.
    """

    name: str
    metric: float
    low: float
    high: float
    max_difference: float
    latency: Latency | None = None
    file_mb: float | None = None
    memory_mb: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Predictions:
    """What the shipped file said about each image."""

    names: list[str]
    labels: Array
    probability: Array


@dataclass(frozen=True)
class Verdict:
    """The table, what ships and why.

    Attributes:
        rows: eager, fp32 and, where one was made, int8.
        metric_name: "val/top1" or "val/map".
        shipped: name of the row whose file ships.
        why: in words.
        images: how many were judged.
        unreadable: how many images of the split could not be decoded and were left out.
        within_budget: whether the shipped file's median keeps the latency limit.
        predictions: of the shipped file.
    """

    rows: tuple[Row, ...]
    metric_name: str
    shipped: str
    why: str
    images: int
    unreadable: int
    within_budget: bool
    predictions: Predictions

    @property
    def row(self) -> Row:
        """The row of the file that ships."""
        return next(r for r in self.rows if r.name == self.shipped)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, for chain.json."""
        return {
            "shipped": self.shipped,
            "why": self.why,
            "metric_name": self.metric_name,
            "images": self.images,
            "unreadable": self.unreadable,
            "within_budget": self.within_budget,
            "rows": [asdict(r) for r in self.rows],
        }


def verify(
    eager: nn.Module,
    preprocess: nn.Module,
    files: Mapping[str, Path | None],
    split: Images,
    *,
    channels: int = 3,
    multilabel: bool = False,
    max_drop: float = 0.5,
    budget_ms: float | None = None,
    threads: int | None = None,
    spinning: bool = True,
    seconds: float = 4.0,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Run all links of the chain over a split and decide which file ships.

    Args:
        eager: the trained model, (N, C, size, size) -> logits; used in evaluation mode.
        preprocess: uint8 (N, H, W, C) -> what `eager` takes.
        files: {"fp32": path, "int8": path or None}, assembled: "images" -> "logits",
            "probabilities".
        split: images with labels, (N,) integers or (N, classes) of 0 and 1.
        channels: 1 or 3, as the files expect.
        multilabel: average precision instead of top-1.
        max_drop: points (of 100) of the metric that INT8 may lose against the eager model.
        budget_ms: latency that the shipped file should keep; it does not change the gate.
        threads: of the user's session, `default_threads()` if None.
        spinning: of the user's session.
        seconds: spent timing, over both files.
        progress: called with (images done, images in all).

    Raises:
        GateError: the FP32 file disagrees with the eager model by more than `FP32_TOLERANCE`.
        DataError: no image can be read.
    """
    threads = threads or default_threads()
    paths = {name: Path(path) for name, path in files.items() if path is not None}
    outputs, reference, used = _run_all(
        eager, preprocess, paths, split, channels, threads, progress
    )
    labels = np.asarray(split.labels)[used]
    scale = max(1.0, float(np.sqrt(np.mean(np.square(reference, dtype=np.float64)))))
    logits = {"eager": reference, **{name: out[0] for name, out in outputs.items()}}
    gaps = {name: float(np.abs(value - reference).max()) / scale for name, value in logits.items()}
    if not gaps["fp32"] <= FP32_TOLERANCE:
        raise GateError(
            f"{paths['fp32']} differs from the trained model by {gaps['fp32']:.2g} (allowed: "
            f"{FP32_TOLERANCE:g}); nothing ships. Export again; if it stays, choose another model"
        )
    image = split.image(used[0], channels)[None]
    latency = compare_files(paths, image, threads=threads, spinning=spinning, seconds=seconds)
    rows = []
    for name, value in logits.items():
        low, high = interval(value, labels, multilabel)
        row = Row(name, metric(value, labels, multilabel), low, high, gaps[name])
        if name in paths:
            row = _with_file(row, paths[name], latency[name], image.shape, threads)
        rows.append(row)
    shipped, why = decide({r.name: r for r in rows}, max_drop)
    ms = latency[shipped].median_ms
    names = [str(split.names[i]) for i in used]
    return Verdict(
        rows=tuple(rows),
        metric_name="val/map" if multilabel else "val/top1",
        shipped=shipped,
        why=why,
        images=len(used),
        unreadable=len(split) - len(used),
        within_budget=budget_ms is None or ms <= budget_ms,
        predictions=Predictions(names, labels, outputs[shipped][1]),
    )


def decide(rows: Mapping[str, Row], max_drop: float) -> tuple[str, str]:
    """(name of the file that ships, why): INT8 if it loses at most `max_drop` points and is faster.

    Args:
        rows: "eager", "fp32" and, where one was made, "int8".
        max_drop: points of 100.
    """
    fp32, int8 = rows["fp32"], rows.get("int8")
    if int8 is None:
        return "fp32", "FP32 ships: no INT8 file was made"
    if fp32.latency is None or int8.latency is None:
        raise ValueError("both files must have been timed")
    drop = (rows["eager"].metric - int8.metric) * 100
    gain = fp32.latency.median_ms / int8.latency.median_ms
    facts = (
        f"INT8 {'loses' if drop >= 0 else 'gains'} {abs(drop):.2f} points (allowed loss: "
        f"{max_drop:g}) and takes {int8.latency.median_ms:.2f} ms against "
        f"{fp32.latency.median_ms:.2f} ms"
    )
    if drop > max_drop + 1e-9:
        return "fp32", f"FP32 ships: {facts}"
    if gain <= 1:
        return "fp32", f"FP32 ships: {facts}, so it is no faster"
    return "int8", f"INT8 ships: {facts}, {gain:.2f} times as fast"


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share seen in `count` trials (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    # Rounding must not push the interval off its own share at 0 and 1.
    return float(max(0.0, min(share, centre - half))), float(min(1.0, max(share, centre + half)))


def mean_average_precision(scores: Array, labels: Array) -> float:
    """Mean over the classes that occur of the area under precision/recall (steps, no smoothing).

    Args:
        scores: (N, classes), larger = surer.
        labels: (N, classes) of 0 and 1.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(labels > 0, order, axis=0)
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    found = hits.sum(axis=0)
    each = (precision * hits).sum(axis=0)[found > 0] / found[found > 0]
    return float(each.mean()) if len(each) else 0.0


def metric(logits: Array, labels: Array, multilabel: bool) -> float:
    """Top-1, or mean average precision for multi-label data, 0..1."""
    if multilabel:
        return mean_average_precision(logits, labels)
    return float((logits.argmax(1) == labels).mean())


def interval(logits: Array, labels: Array, multilabel: bool) -> tuple[float, float]:
    """95% interval of the metric: Wilson's for top-1, a bootstrap over images for mAP."""
    if not multilabel:
        return wilson(metric(logits, labels, False), len(labels))
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(labels), len(labels)) for _ in range(200)]
    values = [mean_average_precision(logits[d], labels[d]) for d in draws]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _batches(
    split: Images, channels: int, limit: int = 64
) -> Iterator[tuple[list[int], npt.NDArray[np.uint8]]]:
    """Neighbouring images of one shape as (indices, (N, H, W, C)); unreadable ones left out."""
    indices: list[int] = []
    images: list[npt.NDArray[np.uint8]] = []
    for i in range(len(split)):
        try:
            image = split.image(i, channels)
        except DataError:  # damage in the middle of a file is only found when it is decoded
            continue
        if images and (len(images) == limit or image.shape != images[0].shape):
            yield indices, np.stack(images)
            indices, images = [], []
        indices.append(i)
        images.append(image)
    if images:
        yield indices, np.stack(images)


def _run_all(
    eager: nn.Module,
    preprocess: nn.Module,
    paths: Mapping[str, Path],
    split: Images,
    channels: int,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, tuple[Array, Array]], Array, list[int]]:
    """File -> (logits, probabilities), the eager model's logits, and which images could be read."""
    opened = {name: session(path, threads) for name, path in paths.items()}
    parts: dict[str, list[tuple[Array, Array]]] = {name: [] for name in paths}
    reference: list[Array] = []
    used: list[int] = []
    eager, preprocess = eager.eval(), preprocess.eval()
    for indices, images in _batches(split, channels):
        used += indices
        for name, file in opened.items():
            parts[name].append(tuple(file.run(["logits", "probabilities"], {"images": images})))
        with torch.inference_mode():
            reference.append(eager(preprocess(torch.from_numpy(images))).float().numpy())
        if progress is not None:
            progress(indices[-1] + 1, len(split))
    if not used:
        raise DataError("none of the images to verify with can be read; see `sinet inspect`")
    outputs = {
        name: (np.concatenate([p[0] for p in part]), np.concatenate([p[1] for p in part]))
        for name, part in parts.items()
    }
    return outputs, np.concatenate(reference), used


def _with_file(row: Row, path: Path, latency: Latency, shape: tuple[int, ...], threads: int) -> Row:
    n, h, w, c = shape
    memory = peak_memory_mb(path, (n, h, w, c), threads)
    values = asdict(row) | {
        "latency": latency,
        "file_mb": path.stat().st_size / 1e6,
        "memory_mb": memory,
    }
    return Row(**values)
