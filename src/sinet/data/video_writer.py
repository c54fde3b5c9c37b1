"""Videos written through PyAV (extra `video`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np

from sinet.data.image import Pixels
from sinet.data.video import pyav
from sinet.files import atomic_path


@contextmanager
def write_video(path: Path, rate: Fraction | int) -> Iterator[Callable[[Pixels], None]]:
    """Write a video frame by frame, whole or not at all.

        with write_video(Path("a.mp4"), 25) as add:
            add(pixels)

    H.264 where the installed FFmpeg has it, else MPEG-4. All frames have the size of the first,
    less one pixel where a side is odd, which these codecs cannot hold.

    Args:
        path: of the file; its ending says the container.
        rate: frames a second.
    """
    av = pyav()
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # threads cost small pictures more than they give
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000
        fresh = True

        def add(pixels: Pixels) -> None:
            nonlocal fresh
            high, wide = (side - side % 2 for side in pixels.shape[:2])
            if fresh:
                stream.height, stream.width, fresh = high, wide, False
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:high, :wide]))
            container.mux(stream.encode(frame))

        yield add
        if not fresh:
            container.mux(stream.encode())
