"""Does every network of this library export to ONNX and agree in ONNX Runtime?

    python benchmarks/names_exported.py

Each name is built with random weights, exported, and run beside PyTorch on the same image, small
where the design allows. Writes docs/results/names_exported.json.
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
from sinet.measurement.latency import session
from sinet.measurement.results import record

TOLERANCE = 2e-4
SMALL = 64


def difference(name: str, folder: Path) -> float:
    """Largest difference of the logits, relative to their scale."""
    cfg = timm.get_pretrained_cfg(name)
    channels, own, _ = cfg.input_size
    size = own if cfg.fixed_input_size else min(own, SMALL)
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    path = export_network(network, size, channels, folder / "network.onnx")
    image = torch.randn(1, channels, size, size)
    with torch.inference_mode():
        expected = network(image).numpy()
    (logits,) = session(path, 2).run(None, {"input": image.numpy()})
    return float(np.abs(logits - expected).max() / max(np.abs(expected).max(), 1e-3))


def main() -> None:
    """Export all and record."""
    ours = [n for n in timm.list_models() if timm.model_entrypoint(n).__module__[:6] == "sinet."]
    found: dict[str, float | str] = {}
    for name in track(ours, "exporting"):
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[name] = difference(name, Path(folder))
            except Exception as error:
                found[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        gc.collect()
    agree = [n for n, d in found.items() if isinstance(d, float) and d <= TOLERANCE]
    for name in sorted(set(found) - set(agree)):
        print(f"{name}: {found[name]}")
    record("names_exported", len(agree), f"names agree within {TOLERANCE:g} of the logits' scale",
           len(found), extra={"difference": found})  # fmt: skip


if __name__ == "__main__":
    main()
