"""Steps 4 to 7: shrink, export, verify, hand over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from sinet.compression.quantize import QuantizeReport, quantize_best
from sinet.data import EvalImages, ImageDataset, PreprocessModule
from sinet.deployment.export import assemble, describe, export_network
from sinet.deployment.ship import Card, ship
from sinet.errors import BudgetError
from sinet.files import atomic_path, read_json, write_json
from sinet.measurement.latency import session
from sinet.measurement.layers import layer_times
from sinet.measurement.machine import machine
from sinet.measurement.verify import Verdict, metric, verify
from sinet.report import save_predictions
from sinet.road.run import Run
from sinet.training.trained import Trained

CALIBRATION_IMAGES = 256
"""Training images whose activations set the ranges of INT8."""


def shrink_and_verify(run: Run, data: ImageDataset, trained: Trained) -> tuple[Path, Verdict]:
    """Steps 4 to 6: export, quantize, and judge both files on held-out images."""
    work, network = run.folder / "work", trained.model()
    body = export_network(network, trained.preprocess.size, trained.channels, work / "network.onnx")
    run.say("quantize", "INT8: looking for the cheapest calibration that keeps the accuracy")
    report = _quantize(run, data, trained, body, work / "network-int8.onnx")
    for attempt in report.attempts:
        run.say("quantize", str(attempt))
    files = {
        name: assemble(
            part, trained.preprocess, describe(trained, precision=name), work / f"{name}.onnx"
        )
        for name, part in (("fp32", body), ("int8", report.path))
    }
    with run.bar("verify") as bar:
        verdict = verify(
            network,
            PreprocessModule(trained.preprocess),
            files,
            data.test,
            channels=trained.channels,
            multilabel=trained.multilabel,
            max_drop=run.config.max_drop,
            budget_ms=run.config.limits.ms,
            threads=run.config.threads or None,
            progress=bar,
        )
    write_json(run.folder / "chain.json", verdict.to_dict())
    run.chain(verdict)
    run.say("verify", verdict.why)
    return files[verdict.shipped], verdict


def _quantize(
    run: Run, data: ImageDataset, trained: Trained, network: Path, out: Path
) -> QuantizeReport:
    """INT8 by calibration on training images; attempts are judged on validation images."""
    seen = EvalImages(data.val, trained.preprocess)
    some = np.unique(np.linspace(0, len(data.train) - 1, CALIBRATION_IMAGES).astype(int))
    calibration = EvalImages(data.train.subset(some), trained.preprocess)
    threads = run.config.threads or None

    def score(file: Path) -> float:
        running = session(file, threads)
        pairs = [
            (running.run(None, {"input": images.numpy()})[0], labels.numpy())
            for images, labels in seen.batches(64)
        ]
        logits, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return metric(logits, labels, trained.multilabel)

    batches = [images.numpy() for images, _ in calibration.batches(32)]
    return quantize_best(network, out, batches, score, score(network), run.config.max_drop)


def hand_over(run: Run, data: ImageDataset, trained: Trained, file: Path, verdict: Verdict) -> None:
    """Step 7: the file that ships, what it needs, and what the report shows of it."""
    found = verdict.predictions
    save_predictions(run.folder, found.names, found.labels, found.probability,
                     lambda i: data.test.image(i, trained.channels))  # fmt: skip
    image = data.test.image(0, trained.channels)[None]
    layers = layer_times(file, image, machine(), run.config.threads or None)
    write_json(run.folder / "layers.json", [layer.to_dict() for layer in layers])
    with atomic_path(run.folder / "model.onnx") as temporary:
        temporary.write_bytes(file.read_bytes())
    folder = ship(run.folder / "ship", file, _card(run, data, trained, verdict))
    write_json(run.folder / "card.json", read_json(folder / "card.json"))
    run.say("ship", f"{folder}: model.onnx, labels.txt, card.json, README.md, run.py")
    limits, row = run.config.limits, verdict.row
    broken = limits.why_not(
        row.latency.median_ms if row.latency else None, row.file_mb, row.memory_mb
    )
    if broken and not run.config.profile:
        raise BudgetError(
            f"the file that ships breaks the budget ({broken}); {verdict.why}. Allow more, or let "
            "INT8 lose more with --max-drop"
        )


def _card(run: Run, data: ImageDataset, trained: Trained, verdict: Verdict) -> Card:
    """What was measured, for the model card."""
    row = verdict.row
    known = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    return Card(
        name=f"{trained.spec.label} on {Path(run.config.data).name}",
        data=f"{Path(run.config.data).name}: {len(data.train)} training images, "
        f"{data.num_classes} classes",
        metric_name=verdict.metric_name,
        metric=row.metric,
        low=row.low,
        high=row.high,
        images=verdict.images,
        latency=str(row.latency),
        hardware=machine().hardware,
        init=trained.spec.weights or "scratch",
        command=known["command"],
    )
