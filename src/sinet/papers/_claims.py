"""Checks that several papers share: equal-recipe accuracy, latency ratios, what INT8 costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sinet.compression.quantize import quantize_onnx
from sinet.data import open_dataset
from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.deployment.export import assemble, describe, export_network
from sinet.errors import UsageError
from sinet.measurement.bench import BenchRow, bench
from sinet.measurement.proxy import equal_recipe, paired_gain, shortened
from sinet.measurement.results import results_dir
from sinet.measurement.verify import verify
from sinet.models.spec import ModelSpec
from sinet.papers.base import Finding, judged
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

TIE = 0.02
"""Latencies within 2% count as equal."""


def images(data: Path | None, quick: bool, most: int) -> ImageDataset:
    """The images for accuracy claims: `data`, or the bundled ones; fewer when quick.

    Raises:
        UsageError: none given, and no bundled images here.
    """
    source = data or results_dir().parents[1] / "examples" / "fashion-mnist"
    if not source.exists():
        raise UsageError(f"{source} does not exist; say with --data which images to use")
    found = shortened(open_dataset(source), 1500 if quick else most)
    if quick:
        few = np.arange(min(len(found.val), 500))
        found.splits = {**found.splits, "val": found.val.subset(few)}
    return found


def short_recipe(quick: bool) -> Recipe:
    """The one recipe of all accuracy claims; only `epochs` differs between quick and full."""
    return Recipe(epochs=3 if quick else 6, batch_size=64, lr=2e-3, warmup=0.2)


def not_less_accurate(
    claim: str,
    paper: str,
    ours: tuple[str, ModelSpec],
    other: tuple[str, ModelSpec],
    data: ImageDataset,
    recipe: Recipe,
    work: Path,
    seeds: tuple[int, ...],
    device: str,
) -> Finding:
    """Whether the first network is at least as accurate as the second at equal recipe."""
    results = equal_recipe(dict((ours, other)), data, recipe, work, seeds=seeds, device=device)
    gain, low, high = paired_gain(results[ours[0]], results[other[0]])
    measured = {
        **{f"{name}_top1": values for name, values in results.items()},
        "gain_points": gain,
        "interval": [low, high],
        "train_images": len(data.train),
        "val_images": len(data.val),
        "epochs": recipe.epochs,
        "size": ours[1].size,
    }
    why = (
        f"{ours[0]} is {gain:+.2f} points ({low:+.2f} to {high:+.2f}) against {other[0]} after "
        f"{recipe.epochs:g} epochs on {len(data.train)} images, {len(seeds)} seed(s)"
    )
    if len(seeds) < 2:
        return Finding(claim, paper, measured, "not decided", f"{why}: one decides nothing")
    return Finding(claim, paper, measured, judged(low, high), why)


def not_slower(
    claim: str, paper: str, ours: str, other: str, target: float, quick: bool, **options: Any
) -> Finding:
    """Whether the first network takes at most `target` x the time of the second."""
    mine, theirs = bench([ours, other], seconds=3 if quick else 20, **options)
    ratio = mine.latency.median_ms / theirs.latency.median_ms
    measured = {**facts(mine), **facts(theirs), "ratio": ratio, "target": target}
    verdict = "confirmed" if ratio <= target * (1 + TIE) else "refuted"
    why = f"{mine.name} {mine.latency} against {theirs.name} {theirs.latency}: {ratio:.2f} x"
    return Finding(claim, paper, measured, verdict, why)  # type: ignore[arg-type]


def facts(row: BenchRow) -> dict[str, Any]:
    """Latency, parameters and multiply-adds of a bench row, named after it."""
    values: dict[str, Any] = {f"{row.name}_ms": row.latency.median_ms}
    if row.cost is not None:
        values |= {f"{row.name}_params": row.cost.params, f"{row.name}_macs": row.cost.macs}
    return values


def int8_pays(
    claim: str, paper: str, folder: Path, data: ImageDataset, limit: float, work: Path
) -> Finding:
    """Whether INT8 loses at most `limit` points and is faster, for a finished training."""
    trained = Trained.load(folder)
    network, preprocess = trained.model(), trained.preprocess
    twin = PreprocessModule(preprocess)
    body = export_network(network, trained.spec.size, trained.channels, work / "network.onnx")
    shrunk = quantize_onnx(body, work / "network.int8.onnx", _calibration(twin, data, preprocess))
    files: Mapping[str, Path] = {
        name: assemble(part, preprocess, describe(trained, precision=name), work / f"{name}.onnx")
        for name, part in (("fp32", body), ("int8", shrunk))
    }
    verdict = verify(network, trained, files, data.val, max_drop=limit)
    rows = {r.name: r for r in verdict.rows}
    measured = {f"{n}_top1": r.metric * 100 for n, r in rows.items()} | {
        f"{n}_ms": r.latency.median_ms for n, r in rows.items() if r.latency is not None
    }
    outcome = "confirmed" if verdict.shipped == "int8" else "refuted"
    return Finding(claim, paper, measured, outcome, verdict.why)  # type: ignore[arg-type]


def _calibration(twin: PreprocessModule, data: ImageDataset, preprocess: Preprocess) -> list[Any]:
    """Sixty-four training images as the network sees them, one at a time."""
    count = min(64, len(data.train))
    batches = (data.train.image(i, preprocess.channels)[None] for i in range(count))
    with torch.inference_mode():
        return [twin(torch.from_numpy(batch.copy())).numpy() for batch in batches]
