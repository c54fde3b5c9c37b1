"""Does every network of this library export to ONNX and agree in ONNX Runtime?

    python benchmarks/names_exported.py

All names of the papers' cards and of this library. Each is built with random weights, its norms and
scales set so that no branch is silent, exported, and run beside PyTorch on the same image, small
where the design allows. Writes docs/results/names_exported.json; names that it says agree are not
tried again (delete it to start anew).
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from rich.progress import track

import sinet.models  # noqa: F401  registers ours with timm
from sinet.deployment.export import export_network
from sinet.files import read_json
from sinet.measurement.bench import settled
from sinet.measurement.latency import session
from sinet.measurement.results import record, results_dir
from sinet.papers.base import papers

TOLERANCE = 2e-4
SMALL = 64


def difference(name: str, folder: Path) -> float:
    """Largest difference of the logits, relative to their scale."""
    cfg = timm.get_pretrained_cfg(name)
    channels, own, _ = cfg.input_size
    least = cfg.min_input_size[-1] if cfg.min_input_size else 0
    size = own if cfg.fixed_input_size else max(min(own, SMALL), least)
    torch.manual_seed(0)
    network = settled(timm.create_model(name), size, channels)
    path = export_network(network, size, channels, folder / "network.onnx")
    image = torch.randn(1, channels, size, size)
    with torch.inference_mode():
        expected = network(image).numpy()
    (logits,) = session(path, 2).run(None, {"input": image.numpy()})
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def agrees(difference: float | str) -> bool:
    """Whether it is a small number, not an error."""
    return isinstance(difference, float) and difference <= TOLERANCE


def main() -> None:
    """Export all and record."""
    registered = timm.list_models()
    named = {name for paper in papers().values() for name in paper.CARD.models}
    ours = [
        n
        for n in registered
        if n in named or timm.model_entrypoint(n).__module__.startswith("sinet.")
    ]
    path = results_dir() / "names_exported.json"
    known = read_json(path)["extra"]["difference"] if path.is_file() else {}
    found = {n: d for n, d in known.items() if n in ours and agrees(d)}
    for name in track([n for n in ours if n not in found], "exporting"):
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[name] = difference(name, Path(folder))
            except Exception as error:
                found[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        gc.collect()
    agree = [n for n, d in found.items() if agrees(d)]
    for name in sorted(set(found) - set(agree)):
        print(f"{name}: {found[name]}")
    record("names_exported", len(agree), f"names agree within {TOLERANCE:g} of the logits' scale",
           len(found), extra={"difference": found})  # fmt: skip


if __name__ == "__main__":
    main()
