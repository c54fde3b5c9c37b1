"""Videos through PyAV (extra `video`): files and cameras, read frame by frame.

A frame is RGB and upright: what the file says about how the camera was held is done. Frames are
counted by the packets that hold them, which needs no decoding.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sinet.data.image import ImageError, Pixels
from sinet.errors import UsageError, missing_extra

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif"})
CAMERA = "webcam:"
"""What the name of a camera begins with; the number of the device follows."""
WHOLE = 0.9
"""Share of the length that a file promises which must be there, and of its frames."""
USUAL_RATE = Fraction(25)
_CLOCK_TIME = re.compile(r"(\d+):(\d+):(\d+(?:\.\d*)?)")


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    number: int
    """From 0 on."""
    seconds: float
    """Since the beginning."""
    rate: Fraction
    """Frames a second of the whole video, as its file says."""
    pixels: Pixels
    """(H, W, 3)."""


@dataclass(frozen=True)
class Length:
    """What a file's packets say."""

    frames: int
    seconds: float
    """0 where the file has no clock."""


def pyav() -> Any:
    """The package; asked for when it is needed.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("av") is None:
        raise missing_extra("av", "video")
    import av

    return av


def is_camera(source: object) -> bool:
    """Whether a source names a camera."""
    return str(source).startswith(CAMERA)


def is_video(path: str | Path) -> bool:
    """Whether a path is that of a video: by its ending; a GIF must move."""
    path = Path(path)
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in VIDEOS
    try:
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    except (OSError, ValueError):
        return False


def length(source: str | Path | bytes) -> Length:
    """Count frames and seconds without decoding.

    Raises:
        ImageError: it cannot be opened, holds no frames, or ends before the time that it promises.
    """
    with _opened(source) as (container, stream):
        clock = _Clock(container, stream)
        for packet in container.demux(stream):
            clock.see(packet)
        if not clock.packets:
            raise ValueError("it holds no frames")
        clock.check(clock.packets)
    return Length(clock.packets, clock.seconds)


class _Clock:
    """How far the packets of a stream go, and how far the head of its file says they would.

    Args:
        container: opened by PyAV.
        stream: of its pictures.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)
        self.packets, self.seconds = 0, 0.0
        self._start, self._frames = stream.start_time or 0, stream.frames
        self._promised = _promised(container, stream)

    @property
    def ends(self) -> bool:
        """Whether the head says when; a camera's does not, nor that of a recorded stream."""
        return bool(self._frames or self._promised)

    def see(self, packet: Any) -> None:
        """Take in the next packet; those that only end a stream are empty."""
        if packet.size:
            self.packets += 1
            if packet.pts is not None:
                end = packet.pts - self._start + (packet.duration or 0)
                self.seconds = max(self.seconds, float(end * packet.time_base))

    def check(self, frames: int) -> None:
        """After the last packet.

        Args:
            frames: found so far.

        Raises:
            ValueError: there should have been more; never where the head promises nothing.
        """
        # FFmpeg cuts the duration of an AVI to the file's size, not its count of frames; that
        # counts dropped frames as well, which are no packets but take their time
        counted = self._frames / float(self.rate)
        few = self.packets < WHOLE * self._frames and self.seconds < WHOLE * counted
        if few or self.seconds < WHOLE * self._promised:
            expected = self._frames or round(self._promised * self.rate)
            raise ValueError(f"it ends early: {frames} of about {expected} frames can be read")


def _promised(container: Any, stream: Any) -> float:
    """Seconds of pictures that the head of a file speaks of; 0 where it says nothing."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    whole = float((container.duration or 0) / pyav().time_base)
    # Matroska: its duration is that of the longest stream, such as the sound; a tag tells ours
    tag = _CLOCK_TIME.fullmatch(stream.metadata.get("DURATION", ""))
    if tag is None:
        return whole
    hours, minutes, seconds = map(float, tag.groups())
    return min(whole, 3600 * hours + 60 * minutes + seconds)


def form(source: str | Path | bytes) -> str:
    """Codec and format of the pixels, such as `h264 yuv420p`."""
    with _opened(source) as (_, stream):
        return f"{stream.codec_context.name} {stream.codec_context.pix_fmt}"


def read_frames(source: str | Path | bytes, choose: Callable[[int], Sequence[int]]) -> list[Pixels]:
    """Decode some frames.

    Args:
        source: a file, or the bytes of one.
        choose: from the number of frames to those that are wanted, in order; some may be the same.

    Raises:
        ImageError: it cannot be opened, holds no frames, ends early or is damaged.
    """
    count = length(source).frames
    wanted = [int(i) for i in choose(count)]
    kept: dict[int, Pixels] = {}
    last: Any = None
    decoded = 0
    with _opened(source) as (container, stream):
        stream.codec_context.thread_count = 1  # whoever reads many reads several at a time
        for frame in container.decode(stream):
            if decoded in wanted:
                kept[decoded] = _upright(frame)
            last, decoded = frame, decoded + 1
            if decoded > max(wanted):
                break
        # some packets show nothing (VP8), so that a few frames less than counted are no damage
        if last is None or decoded < WHOLE * min(count, max(wanted) + 1):
            raise ValueError(f"damaged: only {decoded} of {count} frames can be decoded")
        final = _upright(last)
    return [kept.get(i, final) for i in wanted]


def play(source: str | Path) -> Iterator[Frame]:
    """All frames in order, of a file or of a camera such as `webcam:0`.

    Raises:
        UsageError: there is no such camera.
        ImageError: the file cannot be opened, is damaged, or ends before the time that it promises;
            the last two after all frames before that.
    """
    options = _camera(str(source)) if is_camera(source) else {"file": str(source)}
    with _opened(source, **options) as (container, stream):
        clock = _Clock(container, stream)
        first: float | None = None
        for number, frame in enumerate(_decoded(container, stream, clock)):
            now = frame.time if frame.time is not None else number / float(clock.rate)
            first = now if first is None else first
            yield Frame(number, now - first, clock.rate, _upright(frame))


def _decoded(container: Any, stream: Any, clock: _Clock) -> Iterator[Any]:
    """The frames of PyAV up to the end or to the first damage.

    Raises:
        ValueError: it ends early. The packet cut in two at such an end looks damaged, so that the
            others are still counted before damage is told.
        FFmpegError: it is damaged.
    """
    damage: Exception | None = None
    count = 0
    for packet in container.demux(stream):
        clock.see(packet)
        if damage and packet.size:
            continue  # but the empty one at the end fetches what the decoder holds back
        try:
            frames = packet.decode()
        except pyav().error.FFmpegError as error:
            if not clock.ends:
                raise
            damage = damage or error
            continue
        count += len(frames)
        yield from frames
    clock.check(count)
    if damage:
        raise damage


def _camera(source: str) -> dict[str, str]:
    """How PyAV opens a camera; Video4Linux is what FFmpeg reads them with."""
    number = source.removeprefix(CAMERA)
    device = f"/dev/video{number}"
    if not number.isdigit() or not os.path.exists(device):
        raise UsageError(
            f"{source}: there is no camera {device}; plug one in, give the number of one that "
            "is there (ls /dev/video*), or give a video file"
        )
    return {"file": device, "format": "v4l2"}


@contextmanager
def _opened(source: str | Path | bytes, **options: str) -> Iterator[tuple[Any, Any]]:
    """A container and its first stream of pictures; what goes wrong inside is an ImageError."""
    av = pyav()
    name = f"({len(source)} bytes)" if isinstance(source, bytes) else str(source)
    given = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    try:
        with av.open(**{"file": given, **options}) as container:
            if not container.streams.video:
                raise ValueError("it holds no pictures")
            yield container, container.streams.video[0]
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ImageError(name, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if type(error) is ValueError:
        return str(error)
    return f"no video of a known format, or damaged ({getattr(error, 'strerror', '') or error})"


def _upright(frame: Any) -> Pixels:
    """Pixels of a decoded frame, turned as its file says."""
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # not `frame.rotation`: it takes a mirrored picture, as of a front camera, for one upside down
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) > abs(a):  # x and y change places; c and b then say which way they run
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
