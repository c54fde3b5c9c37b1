"""Every kind of picture file reads as a person would see it, or says why it cannot be read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sinet.data.image import ImageError, quick_check, read_image

RED, HALF = (255, 0, 0), (127, 127, 127)


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def palette(transparency: int | bytes | None) -> bytes:
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    return saved(image, transparency=transparency) if transparency is not None else saved(image)


def wide(value: int, format: str) -> bytes:
    return saved(Image.fromarray(np.full((4, 6), value, dtype=np.uint16)), format)


FLAT = {
    "rgb": (saved(Image.new("RGB", (6, 4), RED)), RED),
    "grey": (saved(Image.new("L", (6, 4), 127)), HALF),
    "one bit": (saved(Image.new("1", (6, 4), 1)), (255, 255, 255)),
    "16 bit png": (wide(127 * 257, "PNG"), HALF),
    "16 bit tiff": (wide(65535, "TIFF"), (255, 255, 255)),
    "16 bit pgm": (b"P5 6 4 65535\n" + struct.pack(">H", 127 * 257) * 24, HALF),
    "half transparent red": (saved(Image.new("RGBA", (6, 4), (255, 0, 0, 128))), (255, 127, 127)),
    "transparent black": (saved(Image.new("RGBA", (6, 4), (0, 0, 0, 0))), (255, 255, 255)),
    "grey and alpha": (saved(Image.new("LA", (6, 4), (0, 0))), (255, 255, 255)),
    "palette": (palette(None), RED),
    "palette, colour 1 transparent": (palette(1), (255, 255, 255)),
    "palette, alpha table": (palette(b"\xff\x00"), (255, 255, 255)),
    "grey, 127 transparent": (saved(Image.new("L", (6, 4), 127), transparency=127), (255,) * 3),
    "cmyk tiff": (saved(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "TIFF"), RED),
    "bmp": (saved(Image.new("RGB", (6, 4), RED), "BMP"), RED),
    "gif": (saved(Image.new("RGB", (6, 4), RED), "GIF"), RED),
    "webp": (saved(Image.new("RGB", (6, 4), RED), "WEBP", lossless=True), RED),
}


@pytest.mark.parametrize("kind", FLAT)
def test_every_mode_gives_the_colour_a_person_sees(kind: str) -> None:
    content, colour = FLAT[kind]
    pixels = read_image(content)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (4, 6, 3))
    assert np.abs(pixels.astype(int) - colour).max() <= 1
    grey = read_image(content, channels=1)
    luminance = np.dot(colour, [0.299, 0.587, 0.114])
    assert grey.shape == (4, 6, 1)
    assert np.abs(grey.astype(int) - luminance).max() <= 1
    assert quick_check(content) is None


def test_cmyk_jpeg() -> None:
    pixels = read_image(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - RED).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    """The tag says how the camera lay; undoing it twice over is what a viewer would show."""
    upright = np.zeros((4, 6, 3), dtype=np.uint8)
    upright[0, 0] = 255  # the corner that tells all eight orientations apart with the shape
    upright[0, 1] = 100
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(np.ascontiguousarray(turned)), "PNG", exif=exif)
    assert np.array_equal(read_image(content), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_turns_nothing() -> None:
    content = saved(Image.new("RGB", (16, 8), RED), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_image(content).shape == (8, 16, 3)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG"])
def test_first_frame_of_many(format: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in (RED, (0, 0, 255))]
    content = saved(frames[0], format, save_all=True, append_images=frames[1:])
    assert np.array_equal(read_image(content), np.broadcast_to(np.uint8(RED), (4, 6, 3)))


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(saved(Image.new("RGB", (16, 8), RED), "JPEG"))
    assert read_image(path).shape == read_image(str(path)).shape == (8, 16, 3)
    assert quick_check(path) is None


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((4, 6), 127, np.uint8), HALF),
        (np.full((4, 6, 1), 127, np.uint8), HALF),
        (np.full((4, 6, 3), RED, np.uint8), RED),
        (np.full((4, 6, 4), (255, 0, 0, 0), np.uint8), (255, 255, 255)),
        (np.full((4, 6), 127 * 257, np.uint16), HALF),
        (np.full((4, 6, 3), 65535, np.uint16), (255, 255, 255)),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_arrays(array: np.ndarray, expected: tuple[int, ...]) -> None:
    assert np.array_equal(read_image(array), np.broadcast_to(np.uint8(expected), (4, 6, 3)))


def noise(h: int = 64, w: int = 48) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_scaled_decoding_keeps_the_short_side() -> None:
    content = saved(noise(400, 300), "JPEG")
    assert read_image(content).shape == (400, 300, 3)
    assert read_image(content, at_least=70).shape == (100, 75, 3)
    assert read_image(content, at_least=1000).shape == (400, 300, 3)


def bomb() -> bytes:
    """A PNG that claims to be 60,000 pixels wide and high."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT"


BROKEN = {
    "truncated jpeg": (saved(noise(), "JPEG")[:900], "truncated"),
    "truncated png": (saved(noise())[:900], "truncated"),
    "cut within the header": (saved(noise())[:20], ""),
    "damaged png": (saved(noise())[:500] + bytes(9) + saved(noise())[509:], "damaged: a checksum"),
    "empty": (b"", "zero bytes"),
    "text": (b"this is not a picture at all", "not an image of a known format"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "bomb": (bomb(), "decompression bomb"),
    "float": (saved(Image.new("F", (6, 4), 0.5), "TIFF"), "32-bit float"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_unreadable_pictures_say_why(kind: str, tmp_path: Path) -> None:
    content, reason = BROKEN[kind]
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    said = quick_check(path)
    if kind != "damaged png":  # whole at both ends: found when it is decoded
        assert said is not None
        assert reason in said
    with pytest.raises(
        ImageError, match=rf"cannot read image .*broken\.jpg: .*{reason}.*; replace"
    ):
        read_image(path)


def test_missing_file(tmp_path: Path) -> None:
    assert quick_check(tmp_path / "gone.png") == "the file does not exist"
    with pytest.raises(ImageError, match="the file does not exist"):
        read_image(tmp_path / "gone.png")


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ImageError, match=r"cannot read image \(array\)"):
        read_image(np.zeros((4, 6, 5), np.uint8))
    with pytest.raises(ValueError, match="channels must be 1 or 3"):
        read_image(np.zeros((4, 6), np.uint8), channels=4)
