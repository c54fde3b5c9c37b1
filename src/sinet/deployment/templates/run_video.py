"""Classify clips: `python run.py clip.mp4 ...`; needs only onnxruntime, numpy, pillow and av.

A clip is a video, or a folder of pictures that are its frames.
"""

import json
import re
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
props = session.get_modelmeta().custom_metadata_map.items()
facts = {key.removeprefix("sinet."): json.loads(text) for key, text in props}
frames = facts["preprocess"]["frames"]


def chosen(count: int) -> list[int]:
    """The middle frames of equal parts of a clip."""
    return [int((i + 0.5) * count / frames) for i in range(frames)]


def read(path: Path) -> np.ndarray:
    """Pixels uint8 (1, frames, height, width, 3), upright."""
    if path.is_dir():
        endings = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
        files = [file for file in path.iterdir() if file.suffix.lower() in endings]
        files.sort(key=lambda file: [int(n) for n in re.findall(r"\d+", file.stem)])
        found = [np.asarray(Image.open(files[i]).convert("RGB")) for i in chosen(len(files))]
        return np.stack(found)[None]
    with av.open(str(path)) as video:
        wanted = chosen(sum(bool(packet.size) for packet in video.demux(video=0)))
    kept, last = {}, np.zeros(0)
    with av.open(str(path)) as video:
        for i, frame in enumerate(video.decode(video=0)):
            if i in wanted:
                pixels = frame.to_ndarray(format="rgb24")
                kept[i] = last = np.rot90(pixels, round(frame.rotation / 90))
    return np.stack([kept.get(i, last) for i in wanted])[None]


for name in sys.argv[1:]:
    try:
        scores = session.run(["probabilities"], {"images": read(Path(name))})[0][0]
    except Exception as error:
        print(name, "error", error, sep="\t")
        continue
    best = scores.argmax()
    print(name, facts["classes"][best], facts["class_ids"][best], f"{scores[best]:.4f}", sep="\t")
