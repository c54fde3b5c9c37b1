"""Collections that outgrow one machine: answered in shards by Ray's workers, each exactly once.

The files are cut into shards by their order. A worker writes the rows of a shard under a temporary
name and renames them when they are complete, so that a shard is there whole or not at all: that of
a worker that dies is done again by another, and a run that is killed goes on with the shards that
are missing. When none is, they are joined to the file that was asked for.

On several machines all of them must see the model, the files and the place of the output by the
same paths.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sinet.deployment.engines._onnx import find_model
from sinet.deployment.footage import Watcher
from sinet.deployment.predictor import Predictor
from sinet.deployment.records import CsvFile
from sinet.errors import SinetError, UsageError, missing_extra
from sinet.files import atomic_path, read_json, write_json

SHARD = 256
"""Files a shard: minutes of work at most, so that little is lost with a worker."""
RETRIES = 3
"""Times that a shard is done again whose worker died."""
STORE_BYTES = 200_000_000
"""Of Ray's object store on this machine: nothing but names goes through it."""


class Collection:
    """Files that Ray's workers answer about.

    Args:
        model: `model.onnx`, or a run or ship folder.
        sources: images and videos; no cameras.
        out: the CSV file; its shards lie in a folder beside it until it is whole.
        top: as of `Rows`.
        moving: as of `Rows`.
        threads: of each worker; Ray starts as many workers as the cores allow. None = 1.

    Raises:
        UsageError: Ray is not installed, `out` is no CSV file, or shards of another run lie there.
    """

    def __init__(
        self,
        model: Path,
        sources: Sequence[Path],
        out: Path | None,
        *,
        top: int = 1,
        moving: bool = False,
        threads: int | None = None,
    ) -> None:
        if out is None or out.suffix != ".csv":
            raise UsageError(f"engine ray writes rows: give --out NAME.csv, not {out or 'nothing'}")
        self.ray = _imported()
        self.sources, self.out = list(sources), out
        self.bad = 0
        self.folder = out.parent / f"{out.name}.shards"
        self._task = (str(Path.cwd()), str(model), top, moving, threads or 1)
        self._begin({
            "model": _digest(find_model(model).read_bytes()),
            "sources": _digest("\n".join(map(str, self.sources)).encode()),
            "top": top,
            "shard": SHARD,
        })  # fmt: skip

    def __len__(self) -> int:
        """Number of shards."""
        return -(-len(self.sources) // SHARD)

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:06d}.csv"

    def answered(self) -> Iterator[int]:
        """Answer all, then join the shards; gives the number of each shard that is there.

        Raises:
            SinetError: workers died again and again over the same shard.
        """
        done = [number for number in range(len(self)) if self.shard(number).is_file()]
        yield from done
        missing = sorted(set(range(len(self))) - set(done))
        if missing:
            with _running(self.ray):
                yield from self._answer(missing)
        self._join()

    def _begin(self, plan: dict[str, Any]) -> None:
        """Say in the folder what the shards are of, or see that they are of the same."""
        noted = self.folder / "plan.json"
        if not noted.is_file():
            write_json(noted, plan)
            return
        saved = read_json(noted)
        if saved != plan:
            from sinet.training.checkpoint import difference  # with all that trains: not in workers

            changed = difference(saved, plan, [key for key in plan if saved.get(key) != plan[key]])
            raise UsageError(
                f"{self.folder} holds answers of another run: {changed}; delete it, or choose "
                "another --out"
            )

    def _answer(self, missing: Sequence[int]) -> Iterator[int]:
        """Hand out the shards, never many more than there are workers."""
        threads = self._task[-1]
        work = self.ray.remote(num_cpus=threads, max_retries=RETRIES)(_write_shard)
        at_once = 2 * max(1, int(self.ray.cluster_resources().get("CPU", 1)) // threads)
        waiting: dict[Any, int] = {}
        for number in missing:
            if len(waiting) >= at_once:
                yield self._next(waiting)
            names = [str(path) for path in self.sources[number * SHARD : (number + 1) * SHARD]]
            waiting[work.remote(*self._task, names, str(self.shard(number)))] = number
        while waiting:
            yield self._next(waiting)

    def _next(self, waiting: dict[Any, int]) -> int:
        """Wait for a shard."""
        (reference,), _ = self.ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(reference)
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SinetError):
                raise error.cause from error
            raise
        except self.ray.exceptions.RayError as error:
            first = number * SHARD
            raise SinetError(
                f"workers died again and again over {self.sources[first]} and the {SHARD} files "
                f"from there on ({type(error).__name__}); is there memory enough? Take out the "
                "file that kills them, or run the same command again: finished shards are kept"
            ) from error
        return number

    def _join(self) -> None:
        """One file of all shards, in order; then they are no longer needed."""
        self.bad = 0
        with (
            atomic_path(self.out) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer: csv.DictWriter[str] | None = None
            for number in range(len(self)):
                with self.shard(number).open(newline="", encoding="utf-8") as part:
                    for row in csv.DictReader(part):
                        if writer is None:
                            writer = csv.DictWriter(file, list(row))
                            writer.writeheader()
                        writer.writerow(row)
                        self.bad += bool(row["error"])
            if writer is None:  # videos without a frame
                csv.writer(file).writerow(["file", "error"])
        shutil.rmtree(self.folder)


def _write_shard(
    place: str, model: str, top: int, moving: bool, threads: int, names: list[str], out: str
) -> None:
    """What a worker does: the rows of a shard, whole or not at all."""
    os.chdir(place)  # names may be relative
    with CsvFile(Path(out), top, moving) as file:
        for answer in _watcher(model, threads).answers(map(Path, names)):
            file.add(answer)


@functools.cache
def _watcher(model: str, threads: int) -> Watcher:
    """The model, opened once a worker."""
    path = Path(model)
    return Watcher(Predictor(path, threads=threads, spinning=False), path, threads)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _imported() -> Any:
    """Ray, which reports nothing to its makers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of its future
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "distributed") from error
    return ray


@contextmanager
def _running(ray: Any) -> Iterator[None]:
    """The cluster that RAY_ADDRESS names or that is connected already; else one on this machine."""
    if ray.is_initialized():
        yield
        return
    local = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    there = os.environ.get("RAY_ADDRESS")
    ray.init(log_to_driver=False, logging_level="ERROR", **({} if there else local))
    try:
        yield
    finally:
        ray.shutdown()
