"""Small videos and folders of frames, written as a person would have them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from sinet.data.video_writer import write_video

STILL = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The matrix of a track that is shown as it is stored."""


def bar(step: int, frames: int = 12, side: int = 32, seed: int = 0) -> np.ndarray:
    """A bright bar that walks `step` pixels a frame, right or left, uint8 (frames, side, side, 3).

    Where it is says nothing about where it goes.
    """
    rng = np.random.default_rng(seed)
    clip = np.zeros((frames, side, side, 3), np.uint8)
    start = int(rng.integers(side))
    for i, frame in enumerate(clip):
        columns = (start + i * step + np.arange(6)) % side
        frame[:, columns] = (230, 200, 60)
    return np.asarray(clip + rng.integers(0, 20, clip.shape), np.uint8)


def video(path: Path, frames: Sequence[np.ndarray] | np.ndarray, rate: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_video(path, Fraction(rate)) as add:
        for frame in frames:
            add(np.asarray(frame))
    return path


def folder(path: Path, frames: Sequence[np.ndarray] | np.ndarray) -> Path:
    path.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(np.asarray(frame)).save(path / f"frame{i + 1}.png")
    return path


def walks(root: Path, each: int, splits: Sequence[str] = ("train", "val", "test")) -> Path:
    """Class folders `left` and `right` of short videos."""
    for number, split in enumerate(splits):
        for i in range(each):
            for name, step in (("left", -3), ("right", 3)):
                clip = bar(step, seed=1000 * number + i)
                video(root / split / name / f"{i}.mp4", clip)
    return root


def turn(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Put a matrix into the head of an MP4's only track, as a phone that is held otherwise does."""
    content = path.read_bytes()
    place = content.index(STILL, content.index(b"tkhd"))
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + matrix + content[place + len(STILL) :])
    return path
