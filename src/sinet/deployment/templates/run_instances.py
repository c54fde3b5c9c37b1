"""Find objects and their pixels: `python run.py photo.jpg ...`; needs onnxruntime, numpy, pillow.

Prints label, score, corners (x1 y1 x2 y2, pixels) and pixels of each, and draws `photo.masks.png`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

THRESHOLD = 0.3  # the file gives weaker answers too
COLOURS = np.array([[230, 60, 60], [60, 180, 75], [70, 110, 230], [240, 180, 40], [170, 70, 200]])
session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
props = session.get_modelmeta().custom_metadata_map.items()
facts = {key.removeprefix("sinet."): json.loads(text) for key, text in props}
mode = "RGB" if facts["preprocess"]["channels"] == 3 else "L"


def read(path: str) -> np.ndarray:
    """Pixels uint8 (1, height, width, channels) as in training: upright, alpha on white."""
    image: Image.Image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits a pixel
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert(mode))
    return pixels.reshape(1, *pixels.shape[:2], -1)


def spread(low: float, high: float, count: int, side: int) -> np.ndarray:
    """What each of `side` pixels takes of `count` positions between low and high."""
    centres = np.arange(side) + 0.5
    places = ((centres - low) / max(high - low, 1e-9) * count - 0.5).clip(0, count - 1)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count)))
    weights[(centres < low) | (centres >= high)] = 0
    return np.asarray(weights)


for path in sys.argv[1:]:
    try:
        pixels = read(path)
        names = ["boxes", "scores", "labels", "masks"]
        found = session.run(names, {"images": pixels})
    except Exception as error:
        print(path, "error", error, sep="\t")
        continue
    canvas = np.broadcast_to(pixels[0], (*pixels.shape[1:3], 3)).astype(float)
    texts = []
    for i, (box, score, label, mask) in enumerate(zip(*(part[0] for part in found), strict=True)):
        if score >= THRESHOLD:
            rows = spread(box[1], box[3], mask.shape[0], canvas.shape[0])
            columns = spread(box[0], box[2], mask.shape[1], canvas.shape[1])
            inside = rows @ mask @ columns.T >= 0.5
            canvas[inside] = (canvas[inside] + COLOURS[i % len(COLOURS)]) / 2
            box = np.minimum(box, [canvas.shape[1], canvas.shape[0]] * 2)
            corners = [f"{value:.1f}" for value in box]
            name = facts["classes"][label]
            print(path, name, f"{score:.4f}", *corners, int(inside.sum()), sep="\t")
            texts.append((box.tolist(), f"{name} {score:.2f}"))
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for corner, text in texts:
        pen.rectangle(corner, outline="red")
        pen.text((corner[0] + 3, corner[1] + 1), text, fill="red")
    picture.save(Path(path).with_suffix(".masks.png"))
