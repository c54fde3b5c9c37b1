"""Steps 4 to 7: shrink, export, verify, hand over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from onnxruntime import InferenceSession
from torch import Tensor, nn

from sinet.compression.depth import shallowest
from sinet.compression.quantize import QuantizeReport, quantize_best
from sinet.data import ImageDataset
from sinet.deployment.export import assemble, describe, export_network, shipped
from sinet.deployment.ship import Card, ship
from sinet.errors import BudgetError
from sinet.files import atomic_path, read_json, write_json
from sinet.measurement.latency import session
from sinet.measurement.layers import layer_times
from sinet.measurement.machine import machine
from sinet.measurement.verify import Verdict, verify
from sinet.report import save_evidence
from sinet.road.run import Run
from sinet.tasks import learner
from sinet.tasks.signatures import signature
from sinet.training.evaluate import evaluate
from sinet.training.loader import eval_batches
from sinet.training.trained import Trained

CALIBRATION_IMAGES = 256
"""Training images whose activations set the ranges of INT8."""


def shrink_and_verify(run: Run, data: ImageDataset, trained: Trained) -> tuple[Path, Verdict]:
    """Steps 4 to 6: export, quantize, and judge both files on held-out images."""
    work, judge = run.folder / "work", Judge(data, trained)
    network = shipped(trained, _cut(run, trained, judge))
    names, shape = signature(trained).raw, trained.preprocess.shape
    body = export_network(network, shape, trained.channels, work / "network.onnx", names)
    run.say("quantize", "INT8: looking for the cheapest calibration that keeps the accuracy")
    report = _quantize(run, data, judge, body, work / "network-int8.onnx")
    for attempt in report.attempts:
        run.say("quantize", f"{attempt}: {signature(trained).shown(attempt.metric)}")
    files = {
        name: assemble(
            part, trained.preprocess, describe(trained, precision=name), work / f"{name}.onnx"
        )
        for name, part in (("fp32", body), ("int8", report.path))
    }
    with run.bar("verify") as bar:
        verdict = verify(
            network,
            trained,
            files,
            data.test,
            max_drop=run.config.max_drop,
            budget_ms=run.config.limits.ms,
            threads=run.config.threads or None,
            progress=bar,
        )
    write_json(run.folder / "chain.json", verdict.to_dict())
    run.chain(verdict, signature(trained))
    run.say("verify", verdict.why)
    return files[verdict.shipped], verdict


class Judge:
    """What a trained network is worth on the validation samples, in whatever form it is.

    It looks as often as its graph does: the recipe's `tta` is in what ships, not in the judge.

    Args:
        data: the data set.
        trained: what learned from it.
    """

    def __init__(self, data: ImageDataset, trained: Trained) -> None:
        once = trained.recipe.replace(tta=False)
        made = learner(trained.task)(nn.Identity(), data, once, trained.preprocess)
        self.task = made.eval()
        self._seen = eval_batches(self.task.val_source(), 32)

    def __call__(self, network: nn.Module) -> float:
        """The task's metric."""
        return evaluate(self.task, network, self._seen)[self.task.signature.metric]


def _cut(run: Run, trained: Trained, judge: Judge) -> nn.Module:
    """The trained network, at the shallowest depth that keeps its metric if it has several."""
    task = judge.task.signature
    network, metrics = shallowest(trained.model(), judge, run.config.max_drop / task.scale)
    if metrics:
        said = ", ".join(f"{i}: {task.shown(metric)}" for i, metric in enumerate(metrics, 1))
        run.say("prune", f"depth {network.depth} of {len(metrics)} is enough ({said})")
    return network


def _quantize(
    run: Run, data: ImageDataset, judge: Judge, network: Path, out: Path
) -> QuantizeReport:
    """INT8 by calibration on training images; attempts are judged on validation images."""
    some = np.unique(np.linspace(0, len(data.train) - 1, CALIBRATION_IMAGES).astype(int))
    threads = run.config.threads or None

    def score(file: Path) -> float:
        return judge(OnnxNetwork(session(file, threads)))

    batches = list(judge.task.calibration(data.train.subset(some)))
    drop = run.config.max_drop / judge.task.signature.scale * 100  # `quantize_best` counts per cent
    return quantize_best(network, out, batches, score, score(network), drop)


class OnnxNetwork(nn.Module):
    """An exported network in the place of the one that it was exported from."""

    def __init__(self, opened: InferenceSession) -> None:
        super().__init__()
        self.opened = opened

    def forward(self, images: Tensor) -> Any:
        """Run it: float32 (N, C, height, width) -> its output, or a tuple of them."""
        outputs = self.opened.run(None, {"input": images.numpy()})
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors


def hand_over(run: Run, data: ImageDataset, trained: Trained, file: Path, verdict: Verdict) -> None:
    """Step 7: the file that ships, what it needs, and what the report shows of it."""
    save_evidence(run.folder, signature(trained), data.test, verdict, file)
    reader = signature(trained).input
    image = reader.feed(reader.load(data.test, 0))
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
