"""Segment images: `python run.py photo.jpg ...`; needs only onnxruntime, numpy and pillow.

Writes `photo.classes.png` beside each image: the class number of every pixel, with a palette.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
props = session.get_modelmeta().custom_metadata_map.items()
facts = {key.removeprefix("sinet."): json.loads(text) for key, text in props}
mode = "RGB" if facts["preprocess"]["channels"] == 3 else "L"
palette = [(i * step) % 256 for i in range(256) for step in (97, 57, 151)]


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


def classes(pixels: np.ndarray) -> np.ndarray:
    """The class of every pixel, uint8 (height, width); of large images piece by piece."""
    sides, fitted = pixels.shape[1:3], facts["preprocess"]
    if not fitted.get("window"):
        found: np.ndarray = session.run(["classes"], {"images": pixels})[0][0]
        return found
    tile = fitted["size"], fitted["width"] or fitted["size"]
    grown = [max(t, -(-side // 32) * 32) for t, side in zip(tile, sides, strict=True)]
    more = [(0, 0), *((0, g - side) for g, side in zip(grown, sides, strict=True)), (0, 0)]
    pixels, found = np.pad(pixels, more, mode="edge"), np.zeros(grown, np.uint8)
    for top, above, below in pieces(grown[0], tile[0], min(tile) // 4):
        for left, before, after in pieces(grown[1], tile[1], min(tile) // 4):
            part = np.ascontiguousarray(pixels[:, top : top + tile[0], left : left + tile[1]])
            part = session.run(["classes"], {"images": part})[0][0]
            part = part[above - top : below - top, before - left : after - left]
            found[above:below, before:after] = part
    return found[: sides[0], : sides[1]]


def pieces(side: int, tile: int, overlap: int) -> list[tuple[int, int, int]]:
    """(start, first kept, end of kept) of pieces that overlap."""
    count = 1 - (tile - side) // (tile - overlap)
    starts = [round(i * (side - tile) / max(1, count - 1) / 32) * 32 for i in range(count)]
    cuts = [0, *((a + tile + b) // 64 * 32 for a, b in pairwise(starts)), side]
    return list(zip(starts, cuts, cuts[1:], strict=False))


for path in sys.argv[1:]:
    try:
        found = classes(read(path))
    except Exception as error:
        print(path, "error", error, sep="\t")
        continue
    picture = Image.fromarray(found)
    picture.putpalette(palette)
    picture.save(Path(path).with_suffix(".classes.png"))
    for i in np.unique(found):
        print(path, facts["classes"][i], f"{(found == i).mean():.4f}", sep="\t")
