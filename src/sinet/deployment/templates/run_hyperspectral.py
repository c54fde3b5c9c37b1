"""Classify the pixels of scenes: `python run.py scene.npy ...`, arrays (height, width, bands).

Needs only onnxruntime, numpy and pillow (scipy for .mat files). Writes `scene.classes.png` beside
each scene: the class number of every pixel, with a palette.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
props = session.get_modelmeta().custom_metadata_map.items()
facts = {key.removeprefix("sinet."): json.loads(text) for key, text in props}
how = facts["preprocess"]
sides, classes = how["sides"], len(facts["classes"])
palette = [(i * step) % 256 for i in range(256) for step in (97, 57, 151)]


def read(path: str) -> np.ndarray:
    """Normalised values float32 (bands, height, width)."""
    if path.endswith(".mat"):
        from scipy.io import loadmat

        held = [v for v in loadmat(path).values() if getattr(v, "ndim", 0) == 3]
        cube = max(held, key=lambda v: v.size)
    else:
        cube = np.load(path)
    values = (cube.astype(np.float32) - how["mean"]) / how["std"]
    return np.ascontiguousarray(np.moveaxis(values, -1, 0), np.float32)


def run(patches: np.ndarray) -> np.ndarray:
    """Logits of patches."""
    logits: np.ndarray = session.run(["logits"], {"images": np.ascontiguousarray(patches)})[0]
    return logits


def by_pixel(values: np.ndarray) -> np.ndarray:
    """Logits of the pixel in the middle of each patch, a row of the scene at a time."""
    rim = [(n // 2, n - 1 - n // 2) for n in sides]
    padded = np.pad(values, [(0, 0), *rim])
    views = np.lib.stride_tricks.sliding_window_view(padded, sides, (1, 2))
    rows = [run(row).reshape(-1, classes).T for row in views.transpose(1, 2, 0, 3, 4)]
    return np.stack(rows, 1)


def by_window(values: np.ndarray) -> np.ndarray:
    """Logits of windows that slide, their answers weighed by a Gaussian."""
    spare = [max(0, n - given) for n, given in zip(sides, values.shape[1:], strict=True)]
    padded = np.pad(values, [(0, 0), *((s // 2, s - s // 2) for s in spare)])
    starts = []
    for given, n in zip(padded.shape[1:], sides, strict=True):
        step = n if n == given else max(1, int(n * (1 - how["overlap"])))
        count = -(-(given - n) // step) + 1
        starts.append([min(i * step, given - n) for i in range(count)])
    bells = [np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / (2 * (0.125 * n) ** 2)) for n in sides]
    weight = np.outer(*bells).astype(np.float32)
    weight = np.maximum(weight, max(weight.min(), 1e-3))
    total = np.zeros((classes, *padded.shape[1:]), np.float32)
    weights = np.zeros(padded.shape[1:], np.float32)
    for y, x in itertools.product(*starts):
        place = (slice(y, y + sides[0]), slice(x, x + sides[1]))
        total[(slice(None), *place)] += run(padded[(slice(None), *place)][None])[0] * weight
        weights[place] += weight
    inside = tuple(slice(s // 2, s // 2 + n) for s, n in zip(spare, values.shape[1:], strict=True))
    whole: np.ndarray = (total / weights)[(slice(None), *inside)]
    return whole


for path in sys.argv[1:]:
    try:
        values = read(path)
        logits = by_pixel(values) if how["centre"] else by_window(values)
        found = logits.argmax(0).astype(np.uint8)
    except Exception as error:
        print(path, "error", error, sep="\t")
        continue
    picture = Image.fromarray(found)
    picture.putpalette(palette)
    picture.save(Path(path).with_suffix(".classes.png"))
    for i in np.unique(found):
        print(path, facts["classes"][i], f"{(found == i).mean():.4f}", sep="\t")
