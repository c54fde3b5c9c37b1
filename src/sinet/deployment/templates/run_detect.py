"""Find objects: `python run.py photo.jpg ...`; needs only onnxruntime, numpy and pillow.

Prints label, score and corners (x1 y1 x2 y2, pixels) of each, and draws `photo.boxes.png`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

THRESHOLD = 0.3  # the file gives weaker boxes too
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


for path in sys.argv[1:]:
    try:
        pixels = read(path)
        found = session.run(["boxes", "scores", "labels"], {"images": pixels})
    except Exception as error:
        print(path, "error", error, sep="\t")
        continue
    picture = Image.fromarray(pixels[0].squeeze()).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for box, score, label in zip(*(part[0] for part in found), strict=True):
        if score >= THRESHOLD:
            name = facts["classes"][label]
            print(path, name, f"{score:.4f}", *(f"{value:.1f}" for value in box), sep="\t")
            pen.rectangle(box.tolist(), outline="red", width=2)
            pen.text((float(box[0]) + 3, float(box[1]) + 1), f"{name} {score:.2f}", fill="red")
    picture.save(Path(path).with_suffix(".boxes.png"))
