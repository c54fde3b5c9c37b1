"""Does the exported file do what the trained model did, and which of the files ships?

One table: eager model, exported FP32 file, INT8 file x metric with its 95% interval, the largest
difference of the network's outputs, the latency as its user will run it, file size, peak memory.
The FP32 file must agree with the eager model; INT8 ships only if it loses little and is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import nn

from sinet.data.dataset import Split
from sinet.data.inputs import Input
from sinet.errors import DataError, GateError
from sinet.measurement.latency import (
    Latency,
    compare_files,
    default_threads,
    peak_memory_mb,
    session,
)
from sinet.tasks.signatures import Facts, Scorer, Signature, signature

FP32_TOLERANCE = 1e-3
"""Largest allowed difference of the network's FP32 outputs, on the scale of outputs of size 1."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One link of the chain.

    Attributes:
        name: "eager", "fp32" or "int8".
        metric: of the task, such as top-1 as 0..1.
        low: lower end of the 95% interval of `metric`.
        high: upper end.
        max_difference: largest difference of an output of the network to eager, divided by the
            eager outputs' root mean square where that is above 1.
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
class Verdict:
    """The table, what ships and why.

    Attributes:
        rows: eager, fp32 and, where one was made, int8.
        metric_name: of the task, such as "val/top1".
        shipped: name of the row whose file ships.
        why: in words.
        images: how many were judged.
        unreadable: how many images of the split could not be decoded and were left out.
        within_budget: whether the shipped file's median keeps the latency limit.
        used: indices of the samples that were judged.
        scorer: what the shipped file's outputs came to.
    """

    rows: tuple[Row, ...]
    metric_name: str
    shipped: str
    why: str
    images: int
    unreadable: int
    within_budget: bool
    used: list[int] = field(repr=False)
    scorer: Scorer = field(repr=False)

    @property
    def row(self) -> Row:
        """The row of the file that ships."""
        return next(r for r in self.rows if r.name == self.shipped)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the counts, for chain.json."""
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
    network: nn.Module,
    facts: Facts,
    files: Mapping[str, Path | None],
    split: Split,
    *,
    max_drop: float = 0.5,
    budget_ms: float | None = None,
    threads: int | None = None,
    spinning: bool = True,
    seconds: float = 4.0,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Run all links of the chain over a split and decide which file ships.

    Args:
        network: the trained model; used in evaluation mode.
        facts: about it: its task, classes and preprocessing.
        files: {"fp32": path, "int8": path or None}, assembled.
        split: labelled samples.
        max_drop: points of the metric that INT8 may lose against the eager model.
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
    task = signature(facts)
    chain = _Chain(task, network.eval(), paths, threads)
    used: list[int] = []
    for indices, samples in _batches(split, task.input, 64 if task.batched else 1):
        chain.run(samples, [task.truth(split, i) for i in indices])
        used += indices
        if progress is not None:
            progress(indices[-1] + 1, len(split))
    if not used:
        raise DataError("none of the images to verify with can be read; see `sinet inspect`")
    gaps = chain.gaps()
    if not gaps["fp32"] <= FP32_TOLERANCE:
        raise GateError(
            f"{paths['fp32']} differs from the trained model by {gaps['fp32']:.2g} (allowed: "
            f"{FP32_TOLERANCE:g}); nothing ships. Export again; if it stays, choose another model"
        )
    image = task.input.feed(task.input.load(split, used[0]))
    latency = compare_files(
        paths, image, threads=threads, spinning=spinning, seconds=seconds, outputs=task.names
    )
    rows = []
    for name, scorer in chain.scorers.items():
        note = chain.reordered if name in paths else ""
        row = Row(name, scorer.value(), *scorer.interval(), gaps[name], note=note)
        if name in paths:
            row = _with_file(row, paths[name], latency[name], image.shape, threads)
        rows.append(row)
    shipped, why = decide({r.name: r for r in rows}, max_drop, task)
    ms = latency[shipped].median_ms
    return Verdict(
        rows=tuple(rows),
        metric_name=task.metric,
        shipped=shipped,
        why=why,
        images=len(used),
        unreadable=len(split) - len(used),
        within_budget=budget_ms is None or ms <= budget_ms,
        used=used,
        scorer=chain.scorers[shipped],
    )


class _Chain:
    """Eager model and files side by side: their scores, and how far they are from one another."""

    def __init__(
        self,
        task: Signature,
        network: nn.Module,
        paths: Mapping[str, Path],
        threads: int,
    ) -> None:
        self.task, self.eager = task, task.eager(network, task.input.front())
        self.reordered = task.reordered(network)
        self.opened = {name: session(path, threads) for name, path in paths.items()}
        self.scorers = {name: task.scorer() for name in ("eager", *paths)}
        self._worst = dict.fromkeys(self.scorers, 0.0)
        self._squares, self._count = 0.0, 0

    def run(self, samples: Any, truths: Sequence[Any]) -> None:
        """All links on one batch of samples, as `Input.stack` gives it."""
        names = [*self.task.raw, *self.task.names]
        eager = self.task.through(self._eagerly, samples, names)
        self.scorers["eager"].update(eager, truths)
        for part in self.task.raw:
            self._squares += float(np.square(eager[part], dtype=np.float64).sum())
            self._count += eager[part].size
        for name, opened in self.opened.items():
            found = self.task.through(partial(_asked, opened), samples, names)
            self.scorers[name].update(found, truths)
            gap = self.task.gap(found, eager, self.reordered)
            # numpy's maximum keeps a NaN, which must stop everything
            self._worst[name] = float(np.max([self._worst[name], gap]))

    def _eagerly(self, images: Array, names: Sequence[str]) -> dict[str, Array]:
        with torch.inference_mode():
            found = self.eager(torch.from_numpy(images))
        return {name: found[name].numpy() for name in names}

    def gaps(self) -> dict[str, float]:
        """Largest difference of each link to eager, on the scale of outputs of size 1."""
        scale = max(1.0, float(np.sqrt(self._squares / max(self._count, 1))))
        return {name: worst / scale for name, worst in self._worst.items()}


def decide(rows: Mapping[str, Row], max_drop: float, task: Signature) -> tuple[str, str]:
    """(name of the file that ships, why): INT8 if it loses at most `max_drop` points and is faster.

    Args:
        rows: "eager", "fp32" and, where one was made, "int8".
        max_drop: points of the metric, per cent or what the task counts in.
        task: what the metric's numbers mean.
    """
    fp32, int8 = rows["fp32"], rows.get("int8")
    if int8 is None:
        return "fp32", "FP32 ships: no INT8 file was made"
    if fp32.latency is None or int8.latency is None:
        raise ValueError("both files must have been timed")
    drop = (rows["eager"].metric - int8.metric) * task.scale
    gain = fp32.latency.median_ms / int8.latency.median_ms
    points = "points" if task.unit == "%" else task.unit
    facts = (
        f"INT8 {'loses' if drop >= 0 else 'gains'} {abs(drop):.2f} {points} (allowed loss: "
        f"{max_drop:g}) and takes {int8.latency.median_ms:.2f} ms against "
        f"{fp32.latency.median_ms:.2f} ms"
    )
    if drop > max_drop + 1e-9:
        return "fp32", f"FP32 ships: {facts}"
    if gain <= 1:
        return "fp32", f"FP32 ships: {facts}, so it is no faster"
    return "int8", f"INT8 ships: {facts}, {gain:.2f} times as fast"


def _asked(opened: ort.InferenceSession, images: Array, names: Sequence[str]) -> dict[str, Array]:
    return dict(zip(names, opened.run(names, {"images": images}), strict=True))


def _batches(split: Split, reader: Input, limit: int) -> Iterator[tuple[list[int], Any]]:
    """Neighbouring samples of one shape as (indices, stack); unreadable ones left out."""
    indices: list[int] = []
    images: list[Any] = []
    for i in range(len(split)):
        try:
            image = reader.load(split, i)
        except DataError:  # damage in the middle of a file is only found when it is decoded
            continue
        if images and (len(images) == limit or image.shape != images[0].shape):
            yield indices, reader.stack(images)
            indices, images = [], []
        indices.append(i)
        images.append(image)
    if images:
        yield indices, reader.stack(images)


def _with_file(row: Row, path: Path, latency: Latency, shape: tuple[int, ...], threads: int) -> Row:
    memory = peak_memory_mb(path, shape, threads)
    values = asdict(row) | {
        "latency": latency,
        "file_mb": path.stat().st_size / 1e6,
        "memory_mb": memory,
    }
    return Row(**values)
