"""Videos of a phone that was held otherwise: their head says how to turn what is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sinet.data.clips import read_clip
from sinet.data.video import play, read_frames

from .clip_files import turn, video

TURNS = {
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "mirrored, 90": (0, 1, 1, 0),
}
"""What a camera writes (ISO 14496-12, 8.3.2): x' = a x + c y, y' = b x + d y, y downwards."""


def corners() -> np.ndarray:
    """Three corners in colours of their own, uint8 (48, 64, 3)."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:16, :16], frame[:16, 48:], frame[32:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    return frame


def turned(frame: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Every pixel moved by the matrix, one by one."""
    ys, xs = np.indices(frame.shape[:2])
    across, down = a * xs + c * ys, b * xs + d * ys
    across, down = across - across.min(), down - down.min()
    moved = np.zeros((down.max() + 1, across.max() + 1, 3), np.uint8)
    moved[down, across] = frame
    return moved


@pytest.mark.parametrize("name", TURNS)
def test_frames_are_upright(tmp_path: Path, name: str) -> None:
    expected = turned(corners(), *TURNS[name])
    assert expected.shape[:2] == ((64, 48) if "90" in name or name == "270" else (48, 64))
    if name == "90":  # a quarter clockwise: what was at the top left is at the top right
        assert expected[0, -1].tolist() == [250, 0, 0]
    path = turn(video(tmp_path / "a.mp4", np.stack([corners()] * 6)), *TURNS[name])
    shown = [frame.pixels for frame in play(path)]
    assert len(shown) == 6
    for frame in (*shown, *read_clip(path, 3), *read_frames(path.read_bytes(), lambda n: [n - 1])):
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).mean() < 6
