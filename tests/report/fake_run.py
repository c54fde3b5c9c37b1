"""A run folder as a real run leaves it, with plausible numbers; tests render it, people look at it.

python tests/report/fake_run.py /tmp/run && sinet report /tmp/run
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import yaml

from sinet.report.predictions import save_predictions

CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip

LITE = "package:efficientnet-lite0"

# name, size, weights, precision, ms, MACs (M), parameters (M), top-1 by rung
MODELS = [
    ("sinet_tiny", 32, None, "int8", 0.42, 21, 2.1, (0.842,)),
    ("sinet_tiny", 64, None, "int8", 0.93, 58, 2.1, (0.861, 0.884)),
    ("sinet_small", 32, None, "int8", 0.88, 76, 5.2, (0.866, 0.889, 0.902)),
    ("sinet_small", 64, None, "int8", 2.41, 231, 5.2, (0.858, 0.881)),
    ("sinet_base", 32, None, "fp32", 3.9, 310, 13.4, (0.848,)),
    ("efficientnet_lite0", 64, LITE, "int8", 1.31, 34, 3.4, (0.853, 0.879)),
    ("efficientnet_lite0", 96, LITE, "int8", 2.2, 77, 3.4, (0.867, 0.896, 0.911)),
    ("mobilenetv4_conv_small", 64, None, "fp32", 1.1, 17, 2.5, (0.801,)),
    ("mobilenetv4_conv_small", 128, None, "fp32", 2.05, 62, 2.5, (0.792,)),
    ("hgnetv2_b0", 64, None, "int8", 1.25, 28, 4.6, (0.83,)),
    ("resnet18", 32, None, "int8", 1.02, 37, 11.2, (0.855, 0.878)),
    ("resnet18", 64, None, "int8", 2.9, 148, 11.2, (0.84,)),
    ("efficientnet_lite0", 128, LITE, "int8", 3.4, 127, 3.4, ()),
    ("mobilenetv3_large_100", 128, None, "fp32", 2.9, 72, 4.2, ()),
    ("sinet_base", 64, None, "int8", 5.9, 905, 13.4, ()),
    ("sinet_large", 64, None, "int8", 12.6, 2400, 41.0, ()),
    ("resnet50", 64, None, "fp32", 9.8, 334, 23.5, ()),
    ("convnext_tiny", 64, None, "fp32", 14.9, 364, 27.8, ()),
    ("vit_base_patch16_224", 224, None, "int8", 78.5, 17560, 85.8, ()),
]  # fmt: skip


def make_run(folder: Path, classes: list[str] = CLASSES, budget_ms: float = 3.0) -> Path:
    """Write every file of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    config = {
        "data": "examples/fashion-mnist",
        "budget": {"ms": budget_ms, "mb": 6.0, "memory_mb": None},
        "minutes": 3.0,
        "seed": 0,
        "command": "sinet fit examples/fashion-mnist --budget 3ms,6MB --minutes 3 --out runs/demo",
        "started": "2026-11-21T10:20:00+00:00",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    _json(folder / "dataset.json", _dataset(classes))
    _json(folder / "candidates.json", [_candidate(m, budget_ms) for m in MODELS])
    _json(folder / "trials.json", _trials(budget_ms))
    _json(folder / "chain.json", _chain(budget_ms))
    _json(folder / "layers.json", _layers())
    _json(folder / "machine.json", _machine())
    _json(folder / "card.json", _card(classes))
    _curve(folder / "metrics.csv", rng)
    labels, probability = _answers(rng, len(classes))
    names = [f"test/{i:05d}.png" for i in range(len(labels))]
    save_predictions(folder, names, labels, probability, lambda i: _drawing(int(labels[i]), i))
    return folder


def make_failed_run(folder: Path) -> Path:
    """Write what a run leaves that found no candidate within its budget."""
    make_run(folder, budget_ms=0.1)
    kept = {"config.yaml", "dataset.json", "candidates.json", "machine.json"}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    return folder


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _dataset(classes: list[str]) -> dict[str, object]:
    return {
        "root": "examples/fashion-mnist",
        "format": "class folders",
        "classes": classes,
        "class_ids": list(range(len(classes))),
        "multilabel": False,
        "channels": 1,
        "samples": {"train": 1000 * len(classes), "val": 200 * len(classes)},
        "counts": {"train": [1000] * len(classes), "val": [200] * len(classes)},
        "notes": ["train/ and test/ folders found; val is test/"],
        "unreadable": [["train/Bag/00017.png", "truncated"]],
        "warnings": ["3 images of val are also in train: val/00012.png = train/Coat/00413.png"],
        "fingerprint": "3f9c21d0",
    }  # fmt: skip


def _latency(ms: float) -> dict[str, object]:
    return {"median_ms": ms, "q1_ms": ms * 0.97, "q3_ms": ms * 1.06, "runs": 121, "threads": 2,
            "batch": 1, "spinning": False, "engine": "onnxruntime"}  # fmt: skip


def _spec(model: tuple[object, ...]) -> dict[str, object]:
    return {"name": model[0], "size": model[1], "kwargs": {}, "weights": model[2]}


def _candidate(model: tuple, budget_ms: float) -> dict[str, object]:
    _, _, _, precision, ms, macs, params, _ = model
    size = params * (1.05 if precision == "int8" else 4.05)
    late, big = ms > budget_ms, size > 6
    why = "; ".join([f"{ms:.3g} ms > {budget_ms:g}"] * late + [f"{size:.3g} MB of file > 6"] * big)
    return {"spec": _spec(model), "precision": precision, "latency": _latency(ms),
            "params": params * 1e6, "macs": macs * 1e6, "file_mb": size, "memory_mb": 90 + size * 2,
            "fits": not why, "why": why}  # fmt: skip


def _trials(budget_ms: float) -> list[dict[str, object]]:
    rows = []
    for model in MODELS:
        scores = model[7]
        for rung, score in enumerate(scores):
            rows.append(
                {"label": f"{model[0]}@{model[1]}", "spec": _spec(model), "rung": rung,
                 "kept": rung + 1 < len(scores) or score > 0.905, "minutes": 0.1 * 2**rung,
                 "epochs": 1.5 * 2**rung, "latency_ms": model[4],
                 "metrics": {"val/top1": score, "val/loss": 1 - score},
                 "init": "pretrained" if model[2] and not rung else "scratch"
                 if not model[2] else "pretrained"}
            )  # fmt: skip
    return rows


def _chain(budget_ms: float) -> dict[str, object]:
    return {
        "rows": [
            {"name": "eager", "metric": 0.9165, "low": 0.9036, "high": 0.9278,
             "max_difference": 0.0, "latency": None, "file_mb": None,
             "memory_mb": None, "note": ""},
            {"name": "fp32", "metric": 0.9165, "low": 0.9036, "high": 0.9278,
             "max_difference": 3.1e-5, "latency": _latency(3.05), "file_mb": 13.7,
             "memory_mb": 118.0, "note": ""},
            {"name": "int8", "metric": 0.9140, "low": 0.9009, "high": 0.9255,
             "max_difference": 0.41, "latency": _latency(2.18), "file_mb": 3.8,
             "memory_mb": 96.0, "note": "percentile calibration, 2 layers left in float"},
        ],
        "metric_name": "val/top1",
        "images": 2000,
        "within_budget": True,
        "shipped": "int8",
        "why": "INT8 ships: INT8 loses 0.25 points (allowed loss: 0.5) and takes 2.18 ms against "
        "3.05 ms, 1.40 times as fast",
    }  # fmt: skip


def _layers() -> list[dict[str, object]]:
    rows = [(f"/blocks/{i}/conv_pw/Conv_quant", "QLinearConv", 0.21 * 0.8**i, 0.75 - 0.05 * i, 9e6)
            for i in range(9)]  # fmt: skip
    rows += [(f"/blocks/{i}/conv_dw/Conv_quant", "QLinearConv", 0.09 * 0.85**i, 0.09, 1e5)
             for i in range(9)]  # fmt: skip
    rows += [
        ("/preprocess/Resize", "Resize", 0.24, 0.0, 0),
        ("/head/Gemm", "QGemm", 0.02, 0.2, 1e4),
    ]
    total = sum(r[2] for r in rows)
    return [{"name": n, "op": o, "ms": ms, "share": ms / total, "macs": int(m), "gflops": 90.0,
             "efficiency": e, "dtype": "int8" if o[0] == "Q" else "f32"}
            for n, o, ms, e, m in sorted(rows, key=lambda r: -r[2])]  # fmt: skip


def _machine() -> dict[str, object]:
    return {
        "cpu": "AMD EPYC 9554", "cores": 2, "flags": ["avx512f", "avx512_vnni"], "memory_gb": 24.0,
        "system": "Linux x86_64", "gpu": "",
        "versions": {"python": "3.11.7", "sinet": "0.1.0", "torch": "2.15.0", "timm": "1.0.31",
                     "onnxruntime": "1.31.0"},
        "peaks": [{"threads": 1, "f32": 118.0, "bf16": 20.0, "int8": 390.0, "bandwidth_gbs": 11.0},
                  {"threads": 2, "f32": 231.0, "bf16": 38.0, "int8": 744.0, "bandwidth_gbs": 17.5}],
        "hardware": "AMD EPYC 9554, 2 cores, 24 GB, avx512_vnni",
    }  # fmt: skip


def _card(classes: list[str]) -> dict[str, object]:
    return {
        "task": "classify", "model": "efficientnet_lite0@96", "precision": "int8",
        "classes": classes, "multilabel": False, "licence": "Apache-2.0",
        "preprocess": {"size": 96, "channels": 1, "mean": [0.5], "std": [0.5], "crop_pct": 1.0},
        "created": "2026-11-21T10:24:12+00:00", "version": "0.1.0",
    }  # fmt: skip


def _curve(path: Path, rng: np.random.Generator) -> None:
    lines = ["step,epoch,train/loss,val/loss,val/top1,lr"]
    for step in range(0, 700, 5):
        loss = 0.55 + 1.75 * math.exp(-step / 90) + rng.normal(0, 0.05)
        lines.append(f"{step},{step / 100:.4f},{loss:.4f},,,0.001")
        if step and step % 100 == 95:
            top1 = 0.914 - 0.16 * math.exp(-step / 130)
            lines.append(f"{step},{(step + 5) / 100:.4f},,{1.1 - top1 + 0.08:.4f},{top1:.4f},")
    path.write_text("\n".join(lines) + "\n")


def _answers(rng: np.random.Generator, classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, classes, 2000)
    logits = rng.normal(0, 1, (2000, classes))
    logits[np.arange(2000), labels] += rng.gamma(6, 1.1, 2000)
    for one, other in ((0, 6), (2, 4), (4, 6), (6, 0), (3, 0), (7, 9), (5, 7)):
        if max(one, other) < classes:
            mixed = np.flatnonzero((labels == one) & (rng.random(2000) < 0.16))
            logits[mixed, other] += rng.gamma(7, 1.0, len(mixed))
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def _drawing(label: int, seed: int) -> np.ndarray:
    """A grey 28 x 28 shape that differs by label."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    shape = np.abs(x) ** (1 + label / 3) + np.abs(y) ** (4 - label / 3) < 0.5 + 0.2 * rng.random()
    noise = 40 * rng.random((28, 28))
    return (shape * (150 + 60 * rng.random()) + noise).astype(np.uint8)[..., None]


if __name__ == "__main__":
    from sinet.report import render

    print(render(make_run(Path(sys.argv[1]))))
