"""How much better than bicubic does `sinet fit` make photographs twice as large, in half an hour?

    python benchmarks/superres.py path/to/imagenet1k_samples.tar

Every tenth photograph is held out. Runs the command line as a person would (a killed run goes on
when started again) and writes docs/results/cfsr_x2_gain_db.json: PSNR of the luma of the shipped
file on the held-out photographs, less that of bicubic interpolation.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
import typer

from sinet.data.dataset import open_dataset
from sinet.data.image import SUFFIXES
from sinet.deployment.predictor import Predictor
from sinet.errors import DataError
from sinet.measurement.results import record
from sinet.tasks.signatures.superres import QualityScorer

HELD_OUT = 10  # one of so many


def main(
    photos: Annotated[Path, typer.Argument(help="A tar of photographs.")],
    minutes: Annotated[float, typer.Option(help="Of training.")] = 30,
    model: Annotated[str, typer.Option(help="Any network for super-resolution.")] = "cfsr_x2",
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/superres"),
) -> None:
    """Unpack, fit, measure, record."""
    data = unpacked(photos, out.with_name(f"{out.name}-photos"))
    asked = ["--task", "superres", "--model", model, "--minutes", f"{minutes:g}"]
    program = [sys.executable, "-m", "sinet", "fit", str(data)]
    subprocess.run([*program, *asked, "--out", str(out)], check=True)
    split, predictor = open_dataset(data, task="superres").test, Predictor(out / "model.onnx")
    scorer = predictor.signature.scorer()
    assert isinstance(scorer, QualityScorer)
    for i in range(len(split)):
        image = split.image(i, predictor.metadata.preprocess.channels)
        scorer.update(predictor.run(image[None]), [predictor.signature.truth(split, i)])
    rng, each = np.random.default_rng(0), scorer.gains()
    drawn = [each[rng.integers(0, len(each), len(each))].mean() for _ in range(1000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    record(
        "cfsr_x2_gain_db",
        float(each.mean()),
        "dB",
        1.0,
        command=f"python benchmarks/superres.py {photos.name}",
        seeds=[0],
        spread=(float(low), float(high)),
        extra={
            "fit": " ".join(["sinet", "fit", "photos/", *asked]),
            "model": predictor.metadata.model,
            "precision": predictor.metadata.precision,
            "photographs": len(each),
            "quality": scorer.per_class(),
        },
    )
    typer.echo(f"gain over bicubic: {each.mean():.2f} dB on {len(each)} photographs")


def unpacked(photos: Path, folder: Path) -> Path:
    """`train/` and `test/` of a tar's photographs, in the order of their names."""
    with tarfile.open(photos) as tar:
        members = [m for m in tar.getmembers() if PurePosixPath(m.name).suffix.lower() in SUFFIXES]
        members.sort(key=lambda member: member.name)
        if len(members) < 2 * HELD_OUT:
            raise DataError(f"{photos} holds {len(members)} photographs; give hundreds")
        for i, member in enumerate(members):
            part = folder / ("train" if i % HELD_OUT else "test")
            part.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            if content is not None:
                (part / PurePosixPath(member.name).name).write_bytes(content.read())
    return folder


if __name__ == "__main__":
    typer.run(main)
