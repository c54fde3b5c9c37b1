"""Clips: short videos as a few frames, which is what a network sees of them.

Frames are chosen as in temporal segment networks (Wang et al., arXiv:1608.00859): the clip is cut
into equal parts; to learn, one frame of each part is drawn at random; to judge, its middle frame.
A clip is a video file, or a folder of pictures that are its frames in the order of their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from sinet.data.cache import EvalImages
from sinet.data.dataset import Split
from sinet.data.image import SUFFIXES, ImageError, Pixels, opened, quick_check, read_image
from sinet.data.inputs import Input
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.data.video import form, is_video, length, read_frames
from sinet.errors import DataError

Array = npt.NDArray[Any]
SHOWN = 4
"""Frames of a strip."""


@dataclass(frozen=True)
class Clips(Preprocess):
    """How a clip becomes the network's input: so many frames, each as a picture would be."""

    frames: int = 8
    """That the network sees."""
    seconds: float = 0.0
    """Length of a typical training clip; 0 = not known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1 or self.seconds < 0 or self.fit == "none":
            raise ValueError(f"one frame or more, of one size, expected: {self}")

    @property
    def still(self) -> Preprocess:
        """The same for a single frame."""
        return Preprocess(**{f.name: getattr(self, f.name) for f in fields(Preprocess)})

    @property
    def shape(self) -> tuple[int, int]:
        """Frames, height and width of the network's input: three sides."""
        return (self.frames, *self.still.shape)  # type: ignore[return-value]

    @property
    def rate(self) -> float:
        """Frames a second that the network sees of a typical clip; 0 = not known."""
        return self.frames / self.seconds if self.seconds else 0.0


def centred(count: int, frames: int) -> list[int]:
    """The middle frames of equal parts of a clip of `count` frames."""
    return [int((i + 0.5) * count / frames) for i in range(frames)]


def drawn(count: int, frames: int, clips: int, generator: Generator) -> Tensor:
    """A random frame of each of the equal parts, int64 (clips, frames), rising."""
    parts = torch.arange(frames) + torch.rand(clips, frames, generator=generator)
    return (parts * count / frames).long().clamp(max=count - 1)


def frame_files(folder: Path) -> list[Path]:
    """The pictures in a folder in the order of the numbers in their names: 2 before 10."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def is_clip(path: Path) -> bool:
    """Whether a path is a video, or a folder that holds pictures and no folders."""
    if not path.is_dir():
        return is_video(path)
    inside = [p for p in path.iterdir() if not p.name.startswith(".")]
    pictures = any(p.suffix.lower() in SUFFIXES for p in inside)
    return pictures and not any(p.is_dir() for p in inside)


def read_clip(source: Path | str | bytes, frames: int) -> Pixels:
    """The middle frames of equal parts of a clip, uint8 (frames, H, W, 3).

    Raises:
        ImageError: it cannot be opened, holds no frames, ends early or is damaged.
        UsageError: PyAV is not installed.
    """
    if isinstance(source, bytes) or not Path(source).is_dir():
        return np.stack(read_frames(source, partial(centred, frames=frames)))
    files = frame_files(Path(source))
    if not files:
        raise ImageError(str(source), "no pictures in this folder")
    found = [read_image(files[i]) for i in centred(len(files), frames)]
    if len({picture.shape for picture in found}) > 1:
        raise ImageError(str(source), "its frames differ in size")
    return np.stack(found)


def strip(clip: Array) -> Pixels:
    """A few frames side by side, the first and the last among them, (H, SHOWN * W, C)."""
    some = np.unique(np.linspace(0, len(clip) - 1, SHOWN).round().astype(int))
    beside: Pixels = np.concatenate(list(clip[some]), axis=1)
    return beside


class ClipInput(Input):
    """Clips: uint8 (N, frames, H, W, C) of any height and width; the file fits the frames.

    Args:
        preprocess: how a clip becomes the network's input.
    """

    in_graph = True
    free: Mapping[int, str] = {2: "height", 3: "width"}
    needs = "pillow av"
    sample, samples = "clip.mp4", "clips/*.mp4"

    def __init__(self, preprocess: Preprocess) -> None:
        assert isinstance(preprocess, Clips)
        self.preprocess = preprocess

    def read(self, source: Any) -> Pixels:
        """The chosen frames of a video, a folder of frames, or an array (any, H, W, 3)."""
        count = self.preprocess.frames
        if isinstance(source, np.ndarray):
            if source.ndim != 4 or source.dtype != np.uint8 or not len(source):
                raise DataError(
                    f"an array of shape {source.shape} and type {source.dtype} given; frames "
                    "uint8 (T, H, W, 3) expected"
                )
            clip = source[centred(len(source), count)]
        else:
            clip = read_clip(source, count)
        self.preprocess.still.resized(*clip.shape[1:3])  # refuses strips
        return clip

    def stack(self, samples: Sequence[Any]) -> Array:
        """(N, frames, H, W, C)."""
        return np.stack(samples)

    def checked(self, samples: Any) -> Array:
        """Pixels uint8 (N, frames, H, W, C), contiguous."""
        clips, p = np.asarray(samples), self.preprocess
        fits = clips.ndim == 5 and (clips.shape[1], clips.shape[4]) == (p.frames, p.channels)
        if not fits or clips.dtype != np.uint8:
            raise DataError(
                f"clips of shape {clips.shape} and type {clips.dtype} given; this model takes "
                f"uint8 of shape (N, {p.frames}, H, W, {p.channels}); `predict` reads files into "
                "that"
            )
        p.still.resized(*clips.shape[2:4])  # refuses strips
        return np.ascontiguousarray(clips)

    def feed(self, sample: Any) -> Array:
        """The clip itself."""
        clip: Array = sample[None]
        return clip

    def example(self, sides: Sequence[int]) -> Array:
        """Noise; `sides` are those of a frame."""
        shape = (1, self.preprocess.frames, *sides, self.preprocess.channels)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def blank(self, count: int) -> Tensor:
        """Black clips of some size."""
        p = self.preprocess
        return torch.zeros(count, p.frames, 48, 64, p.channels, dtype=torch.uint8)

    def front(self) -> nn.Module:
        """Each frame as a picture."""
        return ClipFront(self.preprocess).eval()

    def picture(self, sample: Any) -> Pixels:
        """A strip of frames."""
        return strip(sample)

    def inside(self, folder: Path) -> list[Path]:
        """The folder itself if it holds frames, else the videos and folders of frames in it."""
        if is_clip(folder):
            return [folder]
        return sorted(path for path in folder.rglob("*") if is_clip(path))

    def conditions(self) -> dict[str, Any]:
        """Frames and their shape."""
        return {"shape": self.preprocess.shape, "fit": self.preprocess.fit}

    @property
    def described(self) -> str:
        """Pixels of so many frames."""
        p = self.preprocess
        return (
            f"uint8 (N, {p.frames}, height, width, {p.channels}), any height and width: the middle "
            f"frames of {p.frames} equal parts of a clip"
        )


class ClipFront(nn.Module):
    """`PreprocessModule` on every frame.

    Shape: uint8 (N, T, H, W, C) -> float32 (N, C, T, h, w).
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.each = PreprocessModule(preprocess.still)

    def forward(self, clips: Tensor) -> Tensor:
        """Resize, crop and normalise."""
        frames: Tensor = self.each(clips.flatten(0, 1))
        again: Tensor = frames.unflatten(0, (len(clips), -1))
        return again.transpose(1, 2)


@dataclass(eq=False)
class ClipSplit(Split):
    """Clips; `image` gives the middle frame of one, so that whatever looks at pictures can."""

    def image(self, i: int, channels: int | None = None, at_least: int | None = None) -> Pixels:
        """The frame in the middle."""
        (middle,) = self.clip(i, 1)
        return np.asarray(middle)

    def clip(self, i: int, frames: int) -> Pixels:
        """The middle frames of equal parts, uint8 (frames, H, W, 3)."""
        try:
            return read_clip(self._path(i), frames)
        except ImageError as error:
            raise ImageError(self.names[i], error.reason) from error

    def check(self, i: int) -> str | None:
        """Why the clip cannot be read, judged without decoding a video, or None."""
        path = self._path(i)
        if path.is_dir():
            reasons = ((file.name, quick_check(file)) for file in frame_files(path))
            return next((f"{name}: {why}" for name, why in reasons if why), None)
        try:
            length(path)
        except ImageError as error:
            return error.reason
        return None

    def content(self, i: int) -> bytes:
        """The file, or the pictures of the folder."""
        path = self._path(i)
        parts = frame_files(path) if path.is_dir() else [path]
        return b"".join(part.read_bytes() for part in parts)

    def form(self, i: int) -> str:
        """Codec and format of the pixels; of folders that of the first picture."""
        path = self._path(i)
        return opened(frame_files(path)[0]).mode if path.is_dir() else form(path)

    def found_channels(self) -> int:
        """Three: videos are stored in colour."""
        return 3

    def seconds(self, i: int) -> float:
        """Length of a clip; 0 for frames in a folder, which have no clock."""
        path = self._path(i)
        return 0.0 if path.is_dir() else length(path).seconds

    def _path(self, i: int) -> Path:
        item = self.items[i]
        assert isinstance(item, Path)
        return item


@dataclass(eq=False)
class _Folded(ClipSplit):
    """Clips as pictures whose channels are frames."""

    kept: int = 1

    def image(self, i: int, channels: int | None = None, at_least: int | None = None) -> Pixels:
        """(H, W, kept * 3)."""
        clip = self.clip(i, self.kept)
        return clip.transpose(1, 2, 0, 3).reshape(*clip.shape[1:3], -1)


class ClipCache:
    """Clips decoded once where they fit into memory, by what does that for pictures.

    Args:
        split: the clips.
        preprocess: of the network.
        kept: frames of each clip.
        side: of the frames, pixels.
    """

    def __init__(self, split: ClipSplit, preprocess: Clips, kept: int, side: int) -> None:
        own = {field.name: getattr(split, field.name) for field in fields(ClipSplit)}
        # one channel of mean 0 and deviation 1/255 leaves the pixels of any number of channels
        plain = replace(
            preprocess.still, size=side, width=0, channels=1, mean=(0.0,), std=(1 / 255,)
        )
        self.kept = kept
        self._images = EvalImages(_Folded(**own, kept=kept), plain)
        self.labels = self._images.labels

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """uint8 (N, kept, C, side, side)."""
        folded = self._images.batch(indices).round().to(torch.uint8)
        clips: Tensor = folded.unflatten(1, (self.kept, -1))
        return clips
