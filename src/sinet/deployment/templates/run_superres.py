"""Enlarge images: `python run.py photo.jpg ...`; needs only onnxruntime, numpy and pillow.

Writes `photo.x2.png` (or x3, x4) beside each image. Large ones are enlarged in pieces, so that
memory does not grow with them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
props = session.get_modelmeta().custom_metadata_map.items()
facts = {key.removeprefix("sinet."): json.loads(text) for key, text in props}
mode = "RGB" if facts["preprocess"]["channels"] == 3 else "L"
scale = int(facts["class_ids"][0])
PIECE, AROUND = 192, 32  # pixels of a piece, and how many around it are looked at


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


def enlarged(image: np.ndarray) -> np.ndarray:
    """uint8 (1, height, width, channels) -> (scale * height, scale * width, channels)."""
    height, width, channels = image.shape[1:]
    out = np.empty((height * scale, width * scale, channels), np.uint8)
    for top in range(0, height, PIECE):
        for left in range(0, width, PIECE):
            y, x = max(0, top - AROUND), max(0, left - AROUND)
            part = image[:, y : top + PIECE + AROUND, x : left + PIECE + AROUND]
            found = session.run(["pixels"], {"images": np.ascontiguousarray(part)})[0][0]
            inside = found[(top - y) * scale :, (left - x) * scale :]
            target = out[top * scale :, left * scale :][: PIECE * scale, : PIECE * scale]
            target[:] = inside[: target.shape[0], : target.shape[1]]
    return out


for path in sys.argv[1:]:
    try:
        pixels = enlarged(read(path))
    except Exception as error:
        print(path, "error", error, sep="\t")
        continue
    picture = Image.fromarray(pixels[..., 0] if mode == "L" else pixels)
    out = Path(path).with_suffix(f".x{scale}.png")
    picture.save(out)
    print(path, out, f"{picture.width} x {picture.height}", sep="\t")
