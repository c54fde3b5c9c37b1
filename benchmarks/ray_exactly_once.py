"""`ray_exactly_once`: 10,000 images answered by Ray's workers while processes are killed.

A first run is killed with SIGKILL when a quarter of the shards is there. The second goes on with
the rest; when half are there, a worker that is busy with a shard is killed with SIGKILL. The value
is 1 if the file then holds every image exactly once, with the answer of a single process.

    python benchmarks/ray_exactly_once.py
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from resume import generated

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.deployment.artifact import make_artifact
from sinet.deployment.predictor import Predictor
from sinet.deployment.ray_predict import Collection
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.loop import train
from sinet.training.recipe import Recipe

IMAGES = 10_000


def make_model(folder: Path) -> Path:
    """A small network that has learned a little: it must not say the same of all."""
    names = [str(i) for i in range(10)]
    splits = {"train": generated(320, 0), "val": generated(64, 1)}
    data = ImageDataset(Path("generated"), "generated", names, list(range(10)), False, splits)
    preprocess = Preprocess(32, 3, (0.5,) * 3, (0.25,) * 3)
    spec, recipe = ModelSpec("minspnet_minimal", 32), Recipe(epochs=5, batch_size=32)
    train(spec, data, recipe, folder, preprocess=preprocess, task=Classify, progress=False)
    return make_artifact(folder, folder / "model.onnx")


def make_photos(folder: Path) -> list[Path]:
    """Small pictures, one file each."""
    folder.mkdir()
    paths = [folder / f"{i:05}.png" for i in range(IMAGES)]
    for pixels, path in zip(np.asarray(generated(IMAGES, 2).items), paths, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def run(model: Path, photos: Path, out: Path) -> None:
    """Answer all, as a process that somebody else will kill."""
    for _ in Collection(model, sorted(photos.iterdir()), out).answered():
        pass


def killed_run(model: Path, photos: Path, out: Path, shards: int) -> int:
    """Start a run, kill it when that many shards are there; how many there were in the end."""
    command = [sys.executable, __file__, str(model), str(photos), str(out)]
    folder = out.parent / f"{out.name}.shards"
    with subprocess.Popen(command) as driver:
        while driver.poll() is None:
            if len(list(folder.glob("[0-9]*.csv"))) >= shards:
                driver.send_signal(signal.SIGKILL)
                driver.wait()
            time.sleep(0.01)
    if driver.returncode != -signal.SIGKILL:
        raise SystemExit("the run ended before it could be killed")
    time.sleep(5)  # its workers notice, and end
    return len(list(folder.glob("[0-9]*.csv")))


def kill_a_worker() -> int:
    """Kill a process that is busy with a shard; its id."""
    while True:
        for entry in Path("/proc").iterdir():
            try:
                busy = entry.name.isdigit() and (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if busy and busy.startswith(b"ray::_write_shard"):
                os.kill(int(entry.name), signal.SIGKILL)
                return int(entry.name)


def resumed_run(model: Path, photos: list[Path], out: Path) -> tuple[int, int]:
    """Go on; kill a worker half-way. The worker's id, and the number of shards."""
    collection = Collection(model, photos, out)
    killed = 0
    for done, _ in enumerate(collection.answered(), start=1):
        if not killed and done >= len(collection) // 2:
            killed = kill_a_worker()
    return killed, len(collection)


def main() -> None:
    """Count what came of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, photos = make_model(folder / "model"), make_photos(folder / "photos")
        out = folder / "results.csv"
        start = time.monotonic()
        shards_before = killed_run(model, folder / "photos", out, 10)
        killed, shards = resumed_run(model, photos, out)
        seconds = time.monotonic() - start
        with out.open(encoding="utf-8", newline="") as file:
            found = [(row["file"], row["label"]) for row in csv.DictReader(file)]
        single = Predictor(model, threads=1).predict(photos)
        expected = [(result.source, result.label) for result in single]
        left = sorted(path.name for path in folder.iterdir())
    once = found == expected and left == ["model", "photos", "results.csv"]
    extra = {
        "images": IMAGES,
        "rows": len(found),
        "different_images": len({name for name, _ in found}),
        "labels": len({label for _, label in found}),
        "shards": shards,
        "shards_when_the_run_was_killed": shards_before,
        "worker_killed": bool(killed),
        "seconds": round(seconds, 1),
    }
    print(record("ray_exactly_once", int(once), "", 1, threads=1, extra=extra), extra)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(*map(Path, sys.argv[1:]))
    else:
        main()
