"""House numbers as a camera in the street might see them, drawn instead of photographed.

Fonts, colours and textures at random, digits set unevenly, a shadow or an outline, a wall that is
not quite square to the camera, blur, noise and JPEG. Each picture shows the box around its number,
three tenths larger, as `sinet.data.readers.svhn` cuts it from photographs; everything follows from
the seed. What is learned from these pictures is a stand-in, and to be called so.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sinet.data.image import Pixels
from sinet.files import atomic_path

LENGTHS = (0.10, 0.32, 0.34, 0.17, 0.07)
"""Shares of numbers with 1 .. 5 digits."""
HEIGHT = 48
"""Of the digits while they are drawn, pixels."""
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
_MARGIN = 0.5  # around the number while it is drawn; what is kept is LARGER
_LARGER = 0.15

Rng = np.random.Generator
Canvas = npt.NDArray[np.float64]


def fonts() -> list[Path]:
    """DejaVu's faces, which matplotlib brings along or the system has; perhaps none."""
    found = importlib.util.find_spec("matplotlib")
    folders = [Path(found.origin).parent / "mpl-data/fonts/ttf"] if found and found.origin else []
    folders.append(Path("/usr/share/fonts/truetype/dejavu"))
    for folder in folders:
        faces = sorted(p for p in folder.glob("DejaVu*.ttf") if "Display" not in p.name)
        if faces:
            return faces
    return []


def draw_number(text: str, rng: Rng, faces: Sequence[Path]) -> Pixels:
    """One picture of a number, uint8 (H, W, 3).

    Args:
        text: its digits.
        rng: where everything random comes from.
        faces: of `fonts()`; Pillow's own face is always among those that are drawn from.
    """
    mask, box = _letters(text, rng, faces)
    height, width = mask.shape
    wall = _wall(height, width, rng)
    paint = _paint(wall.mean((0, 1)), rng)
    if rng.random() < 0.4:  # a shadow below, or an outline around
        soft = _grey(mask).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 3))))
        edge = np.asarray(soft, dtype=np.float64)[..., None] / 255
        shift = tuple(int(v) for v in rng.integers(-3, 4, 2))
        wall = wall * (1 - 0.7 * np.roll(edge, shift, (0, 1)))
    worn = 1 - 0.35 * rng.random() * _clouds(height, width, rng)[..., None]
    cover = mask[..., None] * worn
    canvas = wall * (1 - cover) + paint * cover
    canvas *= 0.6 + 0.5 * _ramp(height, width, rng)[..., None]  # light comes from one side
    return _photographed(canvas, box, rng)


def write_numbers(
    out: Path, count: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """A data set of pictures with `numbers.csv`, in `train`, `val` and `test`.

    Args:
        out: folder to write.
        count: pictures in all.
        seed: of everything.
        progress: called with (done, total) now and then.
    """
    faces, done = fonts(), 0
    for place, (split, wanted) in enumerate(_counts(count).items()):
        folder = out / split
        folder.mkdir(parents=True, exist_ok=True)

        def make(i: int, place: int = place, folder: Path = folder) -> tuple[str, str]:
            rng = np.random.default_rng((seed, place, i))
            text, name = random_number(rng), f"{i:06}.jpg"
            picture = Image.fromarray(draw_number(text, rng, faces))
            picture.save(folder / name, quality=int(rng.integers(60, 96)))
            return name, text

        rows = []
        with ThreadPoolExecutor() as pool:
            for row in pool.map(make, range(wanted)):
                rows.append(row)
                done += 1
                if progress and (done % 256 == 0 or done == count):
                    progress(done, count)
        with atomic_path(folder / "numbers.csv") as temporary, temporary.open("w") as file:
            csv.writer(file, lineterminator="\n").writerows([("name", "number"), *rows])
    return out


def random_number(rng: Rng) -> str:
    """One to five digits; the first may be zero, as on some doors."""
    length = 1 + int(rng.choice(len(LENGTHS), p=LENGTHS))
    return "".join(str(digit) for digit in rng.integers(0, 10, length))


def _counts(count: int) -> Mapping[str, int]:
    """Pictures of each split; all that rounding leaves are for training."""
    counts = {name: round(share * count) for name, share in SHARES.items()}
    counts["train"] += count - sum(counts.values())
    return counts


def _letters(
    text: str, rng: Rng, faces: Sequence[Path]
) -> tuple[Canvas, tuple[float, float, float, float]]:
    """The digits as a mask of 0..1 with room around, and the box around them."""
    chosen = int(rng.integers(len(faces) + 1))
    font = (
        ImageFont.truetype(str(faces[chosen]), HEIGHT)
        if chosen < len(faces)
        else ImageFont.load_default(HEIGHT)
    )
    gap, slope = rng.uniform(-0.04, 0.3) * HEIGHT, rng.uniform(-0.12, 0.12)
    room = round(_MARGIN * HEIGHT * (1 + 0.35 * len(text)))
    widths = [font.getlength(digit) for digit in text]
    wide = round(sum(widths) + max(0.0, gap) * (len(text) - 1)) + 2 * room
    high = round(HEIGHT * 1.4 + abs(slope) * wide) + 2 * room
    picture, x = Image.new("L", (wide, high)), float(room)
    stroke = int(rng.integers(0, 3))
    for digit, width in zip(text, widths, strict=True):
        layer = Image.new("L", picture.size)
        y = room + slope * (x - wide / 2) + abs(slope) * wide / 2 + rng.normal(0, 1.5)
        ImageDraw.Draw(layer).text((x, y), digit, 255, font, stroke_width=stroke)
        centre = (x + width / 2, y + HEIGHT / 2)
        turned = layer.rotate(float(rng.normal(0, 4)), Image.Resampling.BILINEAR, center=centre)
        picture = Image.fromarray(np.maximum(np.asarray(picture), np.asarray(turned)))
        x += width + gap
    box = picture.getbbox() or (0, 0, wide, high)
    return np.asarray(picture, dtype=np.float64) / 255, box


def _wall(height: int, width: int, rng: Rng) -> Canvas:
    """A colour with clouds, and joints of bricks, boards or nothing, (H, W, 3), 0..255."""
    colour = rng.uniform(20, 235, 3) * rng.uniform(0.6, 1) + rng.uniform(0, 30)
    wall = colour * (1 + rng.uniform(0, 0.3) * (_clouds(height, width, rng)[..., None] - 0.5))
    kind, step = rng.integers(4), int(rng.integers(10, 30))
    rows, columns = np.mgrid[:height, :width]
    if kind == 0:  # bricks
        shifted = columns + step * (rows // step % 2)
        joint = (rows % step < 2) | (shifted % (2 * step) < 2)
    elif kind == 1:  # boards
        joint = columns % step < 1 + int(rng.integers(2))
    else:
        joint = np.zeros((height, width), dtype=bool)
    wall[joint] *= rng.uniform(0.6, 1.25)
    return wall


def _paint(wall: Canvas, rng: Rng) -> Canvas:
    """A colour that can be told from the wall's: brightness differs by a quarter at least."""
    luma = np.array([0.299, 0.587, 0.114])
    for _ in range(100):
        paint = rng.uniform(0, 255, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(0, 255))
        if abs((paint - wall) @ luma) > 64:
            return np.asarray(paint)
    return np.full(3, 255.0 if wall @ luma < 128 else 0.0)


def _clouds(height: int, width: int, rng: Rng) -> Canvas:
    """Smooth noise, 0..1: a few random values, enlarged, coarse and fine."""
    out = np.zeros((height, width))
    for cells, share in ((3, 0.5), (12, 0.3), (48, 0.2)):
        values = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        out += share * np.asarray(values.resize((width, height), Image.Resampling.BICUBIC)) / 255
    return out


def _ramp(height: int, width: int, rng: Rng) -> Canvas:
    """0..1 from one side to the other, in any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.asarray(0.5 + (np.sin(angle) * rows + np.cos(angle) * columns) / 2.83)


def _photographed(canvas: Canvas, box: tuple[float, float, float, float], rng: Rng) -> Pixels:
    """Askew, cut around the number, small, blurred, noisy and compressed."""
    left, top, right, bottom = box
    more_x, more_y = _LARGER * (right - left), _LARGER * (bottom - top)
    skew = 0.12 * (bottom - top)
    corners = [
        (left - more_x, top - more_y),
        (left - more_x, bottom + more_y),
        (right + more_x, bottom + more_y),
        (right + more_x, top - more_y),
    ]
    moved = [(x + rng.uniform(-skew, skew), y + rng.uniform(-skew, skew)) for x, y in corners]
    high = int(rng.integers(24, 72))
    wide = max(8, round(high * (right - left) / (bottom - top) * rng.uniform(0.85, 1.2)))
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    quad = tuple(value for corner in moved for value in corner)
    picture = picture.transform(
        (2 * wide, 2 * high), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR
    ).resize((wide, high), Image.Resampling.BILINEAR)
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.03) * high)))
    noisy = np.asarray(picture) + rng.normal(0, rng.uniform(0, 12), (high, wide, 1))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=int(rng.integers(35, 96))
    )
    return np.asarray(Image.open(file).convert("RGB"))


def _grey(mask: Canvas) -> Image.Image:
    return Image.fromarray((mask * 255).astype(np.uint8))
