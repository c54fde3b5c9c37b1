"""How long a candidate of a search takes: exported as it would ship, in turn with a fixed network.

Other workers of the search use the same machine, so a candidate's time alone would say how busy
they are. Each is timed in turn (A B A B ...) with the space's smallest network, and their ratio
multiplies that network's own time, which was taken once for the whole search.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sinet.data.dataset import ImageDataset
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.errors import UsageError
from sinet.files import atomic_path
from sinet.measurement.bench import settled
from sinet.measurement.cost import cost
from sinet.measurement.latency import Latency, compare_files, peak_memory_mb
from sinet.models.spec import ModelSpec
from sinet.search.budget import Budget
from sinet.tasks.base import ImageTask
from sinet.tasks.signatures import signature

SECONDS = 1.0
"""Of timing a candidate and the reference together."""
ROUNDS = 5
TOLERANCE = 1.3
"""A candidate is timed unless its predicted time is so many times the budget."""
ENOUGH = 8
"""Timed candidates that a prediction wants."""


@dataclass(frozen=True)
class Taken:
    """What a candidate costs: milliseconds and MB of its file, MB of memory if they were asked."""

    ms: float
    mb: float
    memory_mb: float | None = None

    def excess(self, budget: Budget) -> float:
        """The worst ratio of cost to limit, less one: above zero breaks the budget."""
        return budget.excess(self.ms, self.mb, self.memory_mb) - 1

    def why_not(self, budget: Budget) -> str:
        """Which limits it breaks, in words."""
        return budget.why_not(self.ms, self.mb, self.memory_mb)


class Stopwatch:
    """Times networks for a data set.

    Args:
        data: the images.
        task: what is learned from them.
        reference: what every candidate is timed in turn with.
        folder: keeps the reference's file.
        threads: of the runtime, `default_threads()` if None.
    """

    def __init__(
        self,
        data: ImageDataset,
        task: type[ImageTask],
        reference: ModelSpec,
        folder: Path,
        threads: int | None = None,
    ) -> None:
        self.data, self.task, self.threads = data, task, threads
        self.stats = task.stats(data)
        self.file = folder / "reference.onnx"
        self.names = signature(self._facts(reference)).names
        self.image = signature(self._facts(reference)).input.example(task.typical(data))
        if not self.file.is_file():
            with atomic_path(self.file) as temporary:
                self.export(reference, temporary)

    def own_ms(self) -> float:
        """Upper quartile of the reference alone, which repeated runs of it keep too."""
        return self._times({"reference": self.file})["reference"].q3_ms

    def __call__(self, spec: ModelSpec, reference_ms: float, memory: bool = False) -> Taken:
        """What a network costs.

        Args:
            spec: the network; its weights do not matter.
            reference_ms: `own_ms`, as taken for the whole search.
            memory: measure the peak memory too.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = self.export(spec, Path(folder) / "candidate.onnx")
            times = self._times({"reference": self.file, "candidate": file})
            ratio = times["candidate"].median_ms / times["reference"].median_ms
            peak = peak_memory_mb(file, self.image.shape, self.threads) if memory else None
            return Taken(ratio * reference_ms, file.stat().st_size / 1e6, peak)

    def export(self, spec: ModelSpec, path: Path) -> Path:
        """The network with random weights, as it would ship."""
        facts = self._facts(spec)
        network = settled(
            spec.create(self.data.num_classes, self.data.channels, load=False),
            facts.preprocess.shape,
            self.data.channels,
        )
        with tempfile.TemporaryDirectory() as folder:
            body = export_network(
                network,
                facts.preprocess.shape,
                self.data.channels,
                Path(folder) / "network.onnx",
                signature(facts).raw,
            )
            return assemble(body, facts.preprocess, facts, path)

    def macs(self, spec: ModelSpec) -> int:
        """Multiply-adds of an image, counted without computing any.

        Raises:
            UsageError: the network does not take images of its size.
        """
        shape = self._facts(spec).preprocess.shape
        try:
            with torch.device("meta"):
                network = spec.create(self.data.num_classes, self.data.channels, load=False)
            return cost(network, shape, self.data.channels).macs
        except RuntimeError as error:
            raise UsageError(f"{spec.label} cannot be run: {str(error)[:200]}") from error

    def _times(self, files: dict[str, Path]) -> dict[str, Latency]:
        return compare_files(
            files,
            self.image,
            threads=self.threads,
            seconds=SECONDS,
            rounds=ROUNDS,
            outputs=self.names,
        )

    def _facts(self, spec: ModelSpec) -> Metadata:
        return Metadata(
            classes=list(self.data.classes),
            class_ids=list(self.data.class_ids),
            multilabel=self.data.multilabel,
            preprocess=self.task.preprocessing(spec, self.data, self.stats),
            model=spec.name,
            task=self.task.name,
        )


def features(spec: ModelSpec, macs: int) -> list[float]:
    """What the time of a SiNet depends on: multiply-adds, blocks, and blocks with attention."""
    options: dict[str, Any] = dict(spec.kwargs)
    return [1.0, macs / 1e6, sum(options["depths"]), sum(options["attention"])]


def predicted(known: Sequence[tuple[list[float], float]], wanted: list[float]) -> float | None:
    """Milliseconds by a line through what was timed; a filter only, never the constraint.

    Least squares of relative errors, so that the slow ones do not decide about the fast.

    Args:
        known: features and milliseconds of timed candidates; None comes back while they are few.
        wanted: the features of another.
    """
    if len(known) < ENOUGH:
        return None
    ms = np.array([time for _, time in known])
    rows = np.array([row for row, _ in known]) / ms[:, None]
    weights, *_ = np.linalg.lstsq(rows, np.ones(len(ms)), rcond=None)
    return float(np.array(wanted) @ weights)
