"""Any picture file -> uint8 pixels as a person would see them; Pillow and numpy only.

`read_image` and its small helpers stand alone on purpose: the `run.py` of a ship folder
repeats them, so that the shipped model sees the pixels that it was trained on.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sinet.data.remarks import Corners
from sinet.data.slices import Slice
from sinet.errors import DataError

Pixels = npt.NDArray[np.uint8]

# Only what Pillow decodes by itself: EPS, for one, would start Ghostscript on a user's file.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "TGA")
SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "jp2", "png", "bmp", "gif", "webp"),
        *("tif", "tiff", "ppm", "pgm", "pbm", "tga"),
    )
)
PNG = b"\x89PNG\r\n\x1a\n"
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(DataError):
    """One picture that cannot be read; `reason` says why in a few words, `box` where in it."""

    def __init__(self, name: str, reason: str, box: Corners = ()) -> None:
        super().__init__(f"cannot read image {name}: {reason}; replace the file or take it out")
        self.reason, self.box = reason, box


def read_image(
    source: str | Path | bytes | npt.NDArray[np.generic],
    channels: int = 3,
    at_least: int | None = None,
) -> Pixels:
    """Decode one picture: upright (EXIF), first frame, alpha on white, 16 bits scaled by 1/257.

    Args:
        source: a path, the bytes of a file, or an array uint8/uint16 (H, W) or (H, W, 1|3|4).
        channels: 3 for RGB, 1 for luminance (ITU-R 601).
        at_least: allow a JPEG to be decoded at 1/2, 1/4 or 1/8, its short side staying at least
            this many pixels. Several times faster, and slightly different pixels: for training.

    Returns:
        uint8 array (H, W, channels).

    Raises:
        ImageError: truncated, unreadable, empty, missing, or a decompression bomb.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    try:
        image = opened(source)
        if at_least is not None and min(image.size) > at_least:
            scale = at_least / min(image.size)
            image.draft(None, (round(image.width * scale), round(image.height * scale)))
        pixels = np.asarray(_flat(_upright(image)).convert("RGB" if channels == 3 else "L"))
    except Exception as error:  # a damaged file can make a decoder raise almost anything
        raise ImageError(_name(source), _reason(error)) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def opened(source: str | Path | bytes | npt.NDArray[np.generic]) -> Image.Image:
    """A Pillow image with its header read; the content decides the format, not the name."""
    if not isinstance(source, np.ndarray):
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        if not content:
            raise ValueError("zero bytes")
        _check_png(content)
        return Image.open(io.BytesIO(content), formats=FORMATS)
    array = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
    if array.dtype == np.uint16 and array.ndim == 3:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


def upright_size(source: str | Path | bytes) -> tuple[int, int]:
    """Height and width as `read_image` gives them, from the header alone.

    Raises:
        Exception: whatever a damaged file makes Pillow raise.
    """
    image = opened(source)
    turned = image.getexif().get(ORIENTATION_TAG, 1) >= 5
    return (image.width, image.height) if turned else (image.height, image.width)


def _check_png(content: bytes) -> None:
    """Compare the checksums of a PNG's pixel data; Pillow does not, and would give black rows."""
    if not content.startswith(PNG):
        return
    start = len(PNG)
    while start + 12 <= len(content):
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        chunk, checksum = content[start + 4 : end], content[end : end + 4]
        whole = len(checksum) == 4  # if not, Pillow judges whether enough is there
        if whole and chunk[:4] == b"IDAT" and zlib.crc32(chunk) != int.from_bytes(checksum, "big"):
            raise ValueError("damaged: a checksum is wrong")
        start = end + 4


def _upright(image: Image.Image) -> Image.Image:
    """Turn the picture as its EXIF orientation says; a damaged EXIF block turns nothing."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _flat(image: Image.Image) -> Image.Image:
    """Bring 16 bits to 8 and put what is transparent on white."""
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no fixed range; save as 8 or 16 bits")
    if image.mode.startswith("I"):  # "I;16", "I;16B", and "I" from 16-bit PGM
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return image


def _name(source: object) -> str:
    if isinstance(source, bytes):
        return f"({len(source)} bytes)"
    return "(array)" if isinstance(source, np.ndarray) else str(source)


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "decompression bomb: " + text.split(",")[0].lower()
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "truncated"
    return text or type(error).__name__


def quick_check(source: Path | bytes | Slice) -> str | None:
    """Judge a file by its first and last bytes (about 20 us); decode it only when in doubt.

    Returns:
        Why it cannot be read, or None. Damage in the middle of a file is found when it is decoded.
    """
    try:
        size, head, tail = _ends(source)
    except OSError as error:
        return _reason(error)
    if size == 0:
        return "zero bytes"
    if _complete(size, head, tail):
        return None
    try:
        read_image(source.read_bytes() if isinstance(source, Slice) else source)
    except ImageError as error:
        return error.reason
    return None


def _ends(source: Path | bytes | Slice) -> tuple[int, bytes, bytes]:
    if isinstance(source, Slice):
        return source.size, *source.ends()
    if isinstance(source, bytes):
        return len(source), source[:16], source[-16:]
    with open(source, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(16)
        file.seek(max(size - 16, 0))
        return size, head, file.read(16)


def _complete(size: int, head: bytes, tail: bytes) -> bool:
    """Whether the file begins and ends as its format demands."""
    if head.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" in tail
    if head.startswith(PNG):
        return b"IEND" in tail
    if head.startswith(b"GIF8"):
        return tail.endswith(b";")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    return False
