"""Does the shipped folder give the same predictions where neither torch nor sinet is installed?

    python benchmarks/standalone.py runs/demo examples/fashion-mnist

Makes an environment with onnxruntime, numpy and pillow alone, runs `ship/run.py` there on images
of the test split, and compares with the predictions of the verified file (predictions.npz).
Writes standalone_agreement.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sinet.data import open_dataset
from sinet.files import read_json
from sinet.measurement.results import record


def main(run: Path, data: Path, images: int = 500) -> None:
    """Write the images as PNG files, classify them twice, compare."""
    known = np.load(run / "predictions.npz")
    classes = read_json(run / "card.json")["classes"]
    split = open_dataset(data).test
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "onnxruntime", "numpy", "pillow"]
        subprocess.run(pip, check=True)
        absent = (
            "import importlib.util as u; assert not (u.find_spec('torch') or u.find_spec('sinet'))"
        )
        subprocess.run([str(python), "-c", absent], check=True, cwd=folder)
        files = []
        for i in range(min(images, len(split))):
            files.append(Path(folder) / f"{i:05}.png")
            Image.fromarray(split.image(i).squeeze()).save(files[-1])
        script = (run / "ship" / "run.py").resolve()
        done = subprocess.run(
            [str(python), str(script), *map(str, files)], capture_output=True, text=True, check=True
        )
    said = [line.split("\t")[1] for line in done.stdout.splitlines()]
    wanted = [classes[i] for i in known["probability"][: len(files)].argmax(1)]
    same = sum(a == b for a, b in zip(said, wanted, strict=True))
    record("standalone_agreement", 100 * same / len(files), "%", 100, extra={"images": len(files)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
