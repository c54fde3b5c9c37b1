"""Do published weights of CFSR give the published figures, through this library's own road?

    python benchmarks/cfsr_tables.py CFSR_x4.pth testsets/

`testsets/` holds Set5, Set14, BSD100, Urban100, Manga109 (those that are there are measured), each
with its large pictures inside or in a folder HR or GTmod12 below. The small pictures are made by
`sinet.data.bicubic`; Urban100's own are the largest that there are (in SelfExSR's copy those of
scale 4). Writes docs/results/cfsr_x4_set5_psnr.json and its like: luma, `scale` pixels
of border cut off. Targets are the figures of arXiv 2401.05633 less what another way of making the
small pictures may cost (`TOLERANCE`); where we know no published figure, those of bicubic.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

import sinet
from sinet.data.bicubic import cropped, shrink
from sinet.data.image import SUFFIXES, read_image
from sinet.errors import DataError, UsageError
from sinet.measurement.results import record
from sinet.models import create_network
from sinet.tasks.signatures.superres import Pair

NAMES = {
    "set5": "set5", "set14": "set14", "bsd100": "bsd100", "b100": "bsd100",
    "urban100": "urban100", "manga109": "manga109",
}  # fmt: skip
TOLERANCE = {"psnr": 0.02, "ssim": 0.001}
PUBLISHED = {
    2: {"urban100": (32.28, 0.0)},  # 0.39 dB above ShuffleMixer's 31.89 (abstract)
    4: {
        "set5": (32.33, 0.8964), "set14": (28.73, 0.7842), "bsd100": (27.63, 0.7381),
        "urban100": (26.21, 0.7897), "manga109": (30.72, 0.9111),
    },
}  # fmt: skip


def main(
    weights: Annotated[Path, typer.Argument(help="File of weights, such as CFSR_x4.pth.")],
    testsets: Annotated[Path, typer.Argument(help="Folder of test sets.")],
    scale: Annotated[int, typer.Option(help="Default: the number behind x in the name.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Default: docs/results.")] = None,
) -> None:
    """Measure each set and record it."""
    named = re.search(r"x([234])", weights.stem.lower())
    scale = scale or (int(named[1]) if named else 0)
    if scale not in (2, 3, 4):
        raise UsageError(f"{weights.name} names no enlargement; say it with --scale 2, 3 or 4")
    network = create_network(f"cfsr_x{scale}")
    sinet.load_weights(network, weights)
    fused: nn.Module = network.eval().fuse()  # type: ignore[operator]
    folders = [path for path in sorted(testsets.iterdir()) if path.name.lower() in NAMES]
    found = {path: NAMES[path.name.lower()] for path in folders}
    if not found:
        raise DataError(f"{testsets} holds none of {', '.join(NAMES)}; give the folder above them")
    for folder, name in found.items():
        values, plain = measured(fused, pictures(folder), scale)
        command = f"python benchmarks/cfsr_tables.py {weights.name} testsets/"
        published = PUBLISHED.get(scale, {}).get(name, (0.0, 0.0))
        for i, (kind, unit, digits) in enumerate((("psnr", "dB", 2), ("ssim", "", 4))):
            title, value, bicubic = f"cfsr_x{scale}_{name}_{kind}", *means(values, plain, i, digits)
            target = published[i] - TOLERANCE[kind] if published[i] else bicubic
            extra = {"pictures": len(values), "bicubic": bicubic, "published": published[i] or None}
            record(title, value, unit, round(target, 4), command=command, extra=extra, out=out)
            typer.echo(f"{title} {value} (published: {published[i] or 'not known here'})")


def means(ours: np.ndarray, plain: np.ndarray, column: int, digits: int) -> tuple[float, float]:
    """Of one metric over the pictures, ours and bicubic's, rounded as papers do."""
    return round(float(ours[:, column].mean()), digits), round(
        float(plain[:, column].mean()), digits
    )


def pictures(folder: Path) -> list[Path]:
    """The large pictures of a test set."""
    inside = [folder / name for name in ("HR", "GTmod12", "GT", "original")]
    chosen = next((path for path in inside if path.is_dir()), folder)
    inside = [path for path in chosen.iterdir() if path.suffix.lower() in SUFFIXES]
    found = sorted(path for path in inside if "LR" not in path.stem)
    if not found:
        raise DataError(f"no pictures in {chosen}; unpack the test set")
    return found


def measured(network: nn.Module, paths: list[Path], scale: int) -> tuple[np.ndarray, np.ndarray]:
    """(PSNR, SSIM) of the network and of bicubic interpolation, a row a picture."""
    ours, plain = [], []
    for path in paths:
        large = cropped(read_image(path), scale)
        small = shrink(large, scale)
        planes = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            output = (network(planes).clamp(0, 1) * 255).round()[0].permute(1, 2, 0)
        truth = Pair(small, large)
        ours.append(truth.quality(output.to(torch.uint8).numpy()))
        plain.append(truth.bicubic)
    return np.array(ours), np.array(plain)


if __name__ == "__main__":
    typer.run(main)
