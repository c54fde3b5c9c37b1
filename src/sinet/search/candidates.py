"""Which networks could do the job within the budget: exported, timed, before anything is trained.

Latency needs no trained weights, so each candidate (network x resolution x precision) is exported
with random ones, assembled with its preprocessing as it would ship, and timed here, one session
alive at a time. The table is kept per machine, engine versions and image size.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from sinet.compression.quantize import quantize_onnx
from sinet.data.preprocess import Preprocess
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.errors import SinetError, UsageError
from sinet.files import read_json, write_json
from sinet.measurement.bench import settled
from sinet.measurement.cost import Cost, cost
from sinet.measurement.latency import Latency, compare_files, default_threads, peak_memory_mb
from sinet.measurement.machine import cache_dir, describe, fingerprint, machine
from sinet.measurement.profile import DeviceProfile
from sinet.models.spec import ModelSpec
from sinet.search.budget import Budget
from sinet.tasks.signatures import signature

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Candidate:
    """A network at a resolution and precision, with what it costs here.

    Attributes:
        spec: the network.
        precision: "fp32" or "int8".
        latency: of one image through the assembled file; None when it could not be timed.
        params: parameters.
        macs: multiply-adds an image.
        file_mb: MB of 1,000,000 bytes.
        memory_mb: peak resident memory of a process that runs it; None unless the budget asks.
        fits: keeps every limit of the budget.
        why: why not, in words; "" when it fits.
    """

    spec: ModelSpec
    precision: str
    latency: Latency | None
    params: int
    macs: int
    file_mb: float
    memory_mb: float | None
    fits: bool
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for candidates.json."""
        latency = self.latency.to_dict() if self.latency else None
        return {**asdict(self), "spec": self.spec.to_dict(), "latency": latency}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_dict`."""
        latency = Latency.from_dict(values["latency"]) if values["latency"] else None
        spec = ModelSpec.from_dict(values["spec"])
        return cls(**{**values, "spec": spec, "latency": latency})

    def held_against(self, budget: Budget) -> Candidate:
        """The same candidate judged by a budget.

        The upper quartile must keep the latency limit, not only the median, so that repeated runs
        of the shipped file keep it too.
        """
        if self.latency is None:
            return replace(self, fits=False)
        why = budget.why_not(self.latency.q3_ms, self.file_mb, self.memory_mb)
        return replace(self, fits=not why, why=why)

    def excess(self, budget: Budget) -> float:
        """The worst ratio of cost to limit; infinite when it could not be timed."""
        if self.latency is None:
            return float("inf")
        return budget.excess(self.latency.q3_ms, self.file_mb, self.memory_mb)


Preprocessing = Callable[[ModelSpec], Preprocess]
"""What a network does with an image."""

Progress = Callable[[int, int, Sequence[Candidate]], None]
"""Called with (specs done, specs in all, the candidates of this spec)."""


def near_misses(candidates: Sequence[Candidate], budget: Budget, count: int = 5) -> list[Candidate]:
    """The candidates that break the budget by least, nearest first."""
    missed = [c for c in candidates if not c.fits and c.latency is not None]
    return sorted(missed, key=lambda c: c.excess(budget))[:count]


def time_candidates(
    specs: Sequence[ModelSpec],
    budget: Budget,
    *,
    image_hw: tuple[int, ...],
    channels: int = 3,
    num_classes: int = 10,
    task: str = "classify",
    preprocess: Preprocessing | None = None,
    threads: int | None = None,
    spinning: bool = True,
    seconds: float = 180.0,
    progress: Progress | None = None,
    cache: bool = True,
    profile: DeviceProfile | None = None,
    mirrored: bool = False,
) -> list[Candidate]:
    """Time each spec in FP32 and INT8, in the order given.

    What would break the budget even at the machine's peak is only timed at the end, smallest first,
    so that an impossible budget still gets its nearest misses.

    Args:
        specs: networks to time, the most promising first.
        budget: what the model may cost; candidates that break it are returned too, with the reason.
        image_hw: height and width of a typical image, or the sides of another sample.
        channels: of the input.
        num_classes: outputs.
        task: what the networks are for.
        preprocess: from a spec to its preprocessing; None = the centre square.
        threads: intra-operator threads, `default_threads()` if None.
        spinning: as the user's session is set; ONNX Runtime spins by default.
        seconds: no new network is begun after this time; those not reached are left out.
        progress: told after each spec.
        cache: read and extend the table in the user's cache folder.
        profile: another device's table, to be read instead of timing here.
        mirrored: the files will look at the mirrored image too, as a recipe's `tta` asks.

    Raises:
        UsageError: a profile, which has times of one look only, and `mirrored`.
    """
    if profile is not None and mirrored:
        raise UsageError(
            "tta=true doubles what a network costs, which this profile has no times of; leave out "
            "tta=true or --profile"
        )
    if profile is not None:
        return [c.held_against(budget) for s in specs for c in _from_profile(s, profile)]
    bench = _Bench(
        budget,
        image_hw,
        channels,
        num_classes,
        task,
        threads or default_threads(),
        spinning,
        preprocess or partial(_square, channels=channels),
        mirrored,
    )
    table = bench.load() if cache else {}
    start = time.monotonic()
    found: dict[ModelSpec, list[Candidate]] = {}
    postponed: list[tuple[int, ModelSpec]] = []

    def told(spec: ModelSpec, rows: list[Candidate]) -> None:
        found[spec] = rows
        if progress is not None:
            progress(len(found), len(specs), rows)

    def visit(spec: ModelSpec, last_chance: bool) -> None:
        known = table.get(bench.key(spec), [])
        if not bench.complete(known):
            if time.monotonic() - start > seconds:
                return
            try:
                network, facts = bench.build(spec)
            except SinetError as error:  # not kept: it may go with another extra or version
                told(spec, [_failed(spec, str(error))])
                return
            if not last_chance and bench.ideal_ms(facts.macs) > (budget.ms or np.inf):
                postponed.append((facts.macs, spec))
                return
            known = bench.time(spec, network, facts)
            table[bench.key(spec)] = known
            if cache:
                bench.save(table)
        told(spec, [replace(c, spec=spec).held_against(budget) for c in known])

    for spec in specs:
        visit(spec, last_chance=False)
    for _, spec in sorted(postponed, key=lambda entry: entry[0]):
        visit(spec, last_chance=True)
    return [c for spec in specs for c in found.get(spec, [])]


def _failed(spec: ModelSpec, why: str, params: int = 0, macs: int = 0) -> Candidate:
    """A network that cannot be timed."""
    return Candidate(spec, "fp32", None, params, macs, 0.0, None, fits=False, why=why)


def _square(spec: ModelSpec, channels: int) -> Preprocess:
    stats = (0.5,) * channels
    return Preprocess(spec.size, channels, stats, stats)


def _from_profile(spec: ModelSpec, profile: DeviceProfile) -> Iterator[Candidate]:
    for precision in PRECISIONS:
        row = profile.find(spec.name, spec.size, spec.kwargs, precision)
        if row is not None:
            yield Candidate(
                spec, precision, row.latency, row.params, row.macs, row.file_mb, row.memory_mb,
                fits=False, why="",
            )  # fmt: skip


@dataclass
class _Bench:
    """Exports and times specs under one set of conditions; knows the table kept for them."""

    budget: Budget
    image_hw: tuple[int, ...]
    channels: int
    num_classes: int
    task: str
    threads: int
    spinning: bool
    preprocess: Preprocessing
    mirrored: bool

    def key(self, spec: ModelSpec) -> str:
        """What decides the latency of a spec: everything but its weights."""
        known = {"name": spec.name, "size": spec.size, "kwargs": dict(spec.kwargs)}
        return fingerprint(known | signature(self.facts(spec)).input.conditions())

    @property
    def path(self) -> Path:
        """The table of this machine, these engines, this image size."""
        identity = describe()
        versions = {k: identity["versions"].get(k) for k in ("sinet", "timm", "onnxruntime")}
        conditions = {f.name: getattr(self, f.name) for f in fields(self)}
        del conditions["budget"], conditions["preprocess"]
        which = {"cpu": identity["cpu"], "cores": identity["cores"], **versions, **conditions}
        return cache_dir() / f"candidates-{fingerprint(which)}.json"

    def load(self) -> dict[str, list[Candidate]]:
        """The kept table; empty when there is none or it was cut short."""
        try:
            stored = read_json(self.path)
            return {k: [Candidate.from_dict(c) for c in rows] for k, rows in stored.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SinetError):
            return {}

    def save(self, table: Mapping[str, Sequence[Candidate]]) -> None:
        """Keep the table; a folder that cannot be written costs only the next run's time."""
        with contextlib.suppress(SinetError):
            write_json(self.path, {k: [c.to_dict() for c in rows] for k, rows in table.items()})

    def complete(self, known: Sequence[Candidate]) -> bool:
        """Whether the kept rows answer this budget too (memory and slow INT8 may be missing)."""
        if not known:
            return False
        if self.budget.memory_mb is not None and any(
            c.latency is not None and c.memory_mb is None for c in known
        ):
            return False
        fp32 = known[0].latency
        return len(known) == len(PRECISIONS) or fp32 is None or self.hopeless(fp32)

    def hopeless(self, fp32: Latency) -> bool:
        """INT8 is at most four times as fast, so this network cannot keep the budget."""
        return self.budget.ms is not None and fp32.median_ms > 4 * self.budget.ms

    def build(self, spec: ModelSpec) -> tuple[nn.Module, Cost]:
        """The network with random weights but activations of a usual size, and its cost.

        Raises:
            SinetError: it cannot be built, or does not take its input.
        """
        shape = self.preprocess(spec).shape
        network = spec.create(self.num_classes, self.channels, load=False)
        if self.mirrored:
            network = signature(self.facts(spec)).mirrored(network)
        try:
            return settled(network, shape, self.channels), cost(network, shape, self.channels)
        except RuntimeError as error:  # heads that are not ours leave it to torch to refuse
            raise UsageError(f"{spec.label} cannot be run: {str(error)[:200]}") from error

    def ideal_ms(self, macs: int) -> float:
        """What no file of so many multiply-adds can beat: all of them at the INT8 peak."""
        return 2 * macs / (machine().peak(self.threads).int8 * 1e9) * 1e3

    def time(self, spec: ModelSpec, network: nn.Module, facts: Cost) -> list[Candidate]:
        """FP32 and, unless hopeless, INT8; one row with the reason when it cannot be exported."""
        blank = _failed(spec, "", facts.params, facts.macs)
        with tempfile.TemporaryDirectory() as folder:
            body = Path(folder) / "network.onnx"
            try:
                shape = self.preprocess(spec).shape
                names = signature(self.facts(spec)).raw
                export_network(network, shape, self.channels, body, names)
                first = self._timed(blank, body)
                if first.latency is None or self.hopeless(first.latency):
                    return [first]
                shrunk = quantize_onnx(body, Path(folder) / "int8.onnx", self._noise(shape))
                return [first, self._timed(replace(blank, precision="int8"), shrunk)]
            except SinetError as error:
                return [replace(blank, why=str(error))]

    def _timed(self, blank: Candidate, network: Path) -> Candidate:
        """Assemble a network as it would ship and time it on one image."""
        facts = self.facts(blank.spec, blank.precision)
        made = network.with_suffix(".assembled.onnx")
        file = assemble(network, facts.preprocess, facts, made)
        task = signature(facts)
        image = task.input.example(self.image_hw)
        latency = compare_files(
            {"file": file},
            image,
            threads=self.threads,
            spinning=self.spinning,
            seconds=0.5,
            rounds=1,
            outputs=task.names,
        )["file"]
        memory = None
        if self.budget.memory_mb is not None:
            memory = peak_memory_mb(file, image.shape, self.threads)
        size = file.stat().st_size / 1e6
        return replace(blank, latency=latency, file_mb=size, memory_mb=memory)

    def facts(self, spec: ModelSpec, precision: str = "fp32") -> Metadata:
        """What the file would say about itself."""
        ids: list[int | str] = list(range(self.num_classes))
        return Metadata(
            classes=[str(i) for i in ids],
            class_ids=ids,
            preprocess=self.preprocess(spec),
            model=spec.label,
            task=self.task,
            precision=precision,
        )

    def _noise(self, shape: tuple[int, ...]) -> list[npt.NDArray[np.float32]]:
        """Two random inputs: ranges do not change the speed, so calibration may be this short."""
        rng = np.random.default_rng(0)
        return [rng.standard_normal((1, self.channels, *shape), dtype=np.float32) for _ in range(2)]
