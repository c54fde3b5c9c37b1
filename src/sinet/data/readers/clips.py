"""Class folders of clips: `train/wave/1.mp4`, or `wave/1.mp4` without splits.

Class id = folder name. A clip is a video file, or a folder of numbered frames:
`train/wave/take1/0001.jpg`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from sinet.data.clips import ClipSplit, frame_files, is_clip, read_clip
from sinet.data.dataset import ALL, ClassId, ImageDataset
from sinet.data.image import SUFFIXES, Pixels
from sinet.data.readers._layout import SPLITS, spots, visible
from sinet.data.remarks import Remark, Spot, left_out
from sinet.data.video import VIDEOS, is_video
from sinet.errors import DataError

FORMAT = "class folders of clips"
EXPECTS = "train/CLASS/*.mp4 (avi, mov, mkv, webm, gif) or train/CLASS/CLIP/0001.jpg; or CLASS/..."
TASK = "video"

_LOOKED_AT = 20
"""Files of a folder that say what it holds."""
_FEWEST = 4
"""Frames without which a folder of pictures is no clip."""
_NUMBERED = re.compile(r"\D*\d+")


def detect(root: Path) -> bool:
    """Class folders, and clips in the first of them."""
    if not root.is_dir():
        return False
    return any(
        classes and all(_holds_clips(folder) for folder in classes[:3])
        for classes in map(_folders, _splits(root).values())
    )


def read(root: Path) -> ImageDataset:
    """List the clips of each class folder.

    Raises:
        DataError: class folders whose clips are partly videos, partly pictures of their own.
    """
    parts = {split: _listed(part) for split, part in _splits(root).items()}
    names = sorted({name for part in parts.values() for name, clips in part.items() if clips})
    splits = {}
    for split, part in parts.items():
        both = [(clip, names.index(name)) for name, clips in part.items() for clip in clips]
        clips = [clip for clip, _ in both]
        labels = np.array([label for _, label in both], dtype=np.int64)
        splits[split] = ClipSplit(clips, labels, [c.relative_to(root).as_posix() for c in clips])
    empty = sorted({name for part in parts.values() for name in part} - set(names))
    remarks = left_out([*map(Spot, empty)], "folders have no clip", "no clip")
    loose = [path for part in _splits(root).values() for path in visible(part) if is_video(path)]
    remarks += left_out(
        spots(root, loose, _middle), "videos are in no folder of a class", "of no class"
    )
    ids: list[ClassId] = list(names)
    return ImageDataset(root, FORMAT, names, ids, False, dict(splits), remarks=remarks, task=TASK)


def _middle(path: Path) -> Pixels:
    """The frame in the middle of a clip."""
    (frame,) = read_clip(path, 1)
    return np.asarray(frame)


def _listed(part: Path) -> dict[str, list[Path]]:
    """Class -> clips."""
    found = {}
    for folder in _folders(part):
        inside = visible(folder)
        clips = [path for path in inside if is_clip(path)]
        loose = [p for p in inside if p.suffix.lower() in SUFFIXES and p not in clips]
        if loose and clips:
            said = f"{folder} holds clips and, beside them, {len(loose)} pictures"
            raise DataError(
                f"{said} such as {loose[0].name}; put the frames of each clip into a folder of "
                "their own",
                [Remark(said, True, "of no clip", tuple(spots(part, loose)))],
            )
        found[folder.name] = clips
    return found


def _splits(root: Path) -> dict[str, Path]:
    """The folders named after splits, when a training split is among them; else all in one."""
    named = {SPLITS[p.name.lower()]: p for p in _folders(root) if p.name.lower() in SPLITS}
    return named if "train" in named else {ALL: root}


def _folders(root: Path) -> list[Path]:
    return [path for path in visible(root) if path.is_dir()]


def _holds_clips(folder: Path) -> bool:
    """Whether a class folder holds videos, or nothing but folders of numbered frames."""
    inside = visible(folder)
    files = [path for path in inside if path.is_file()]
    if files:
        some = [p for p in files if p.suffix.lower() in VIDEOS][:_LOOKED_AT]
        return any(map(is_video, some))
    return bool(inside) and all(_is_take(path) for path in islice(inside, _LOOKED_AT))


def _is_take(folder: Path) -> bool:
    """Whether a folder looks like the frames of one clip.

    A name such as `train` or `images` says that the pictures in it are no sequence.
    """
    if folder.name.lower() in (*SPLITS, "images") or not is_clip(folder):
        return False
    frames = frame_files(folder)
    return len(frames) >= _FEWEST and _one_sequence(frames)


def _one_sequence(frames: Sequence[Path]) -> bool:
    """Whether names are one word and a number that counts up by one."""
    if not all(_NUMBERED.fullmatch(path.stem) for path in frames):
        return False
    numbers = [int(re.sub(r"\D", "", path.stem)) for path in frames]
    words = {re.sub(r"\d", "", path.stem) for path in frames}
    return len(words) == 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
