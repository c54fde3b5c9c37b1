"""Read numbers: `python run.py photo.jpg ...`; needs only onnxruntime, numpy and pillow."""

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
        number, confidence = session.run(["number", "confidence"], {"images": read(path)})
    except Exception as error:
        print(path, "error", error, sep="\t")
        continue
    digits = "".join(str(digit) for digit in number[0] if digit >= 0)
    print(path, digits or "none", f"{confidence[0]:.4f}", sep="\t")
