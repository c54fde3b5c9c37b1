"""Short videos of drawn things that move: how they move is all that tells the classes apart.

Irregular shapes with random textures, sizes, speeds and places, before a random background, with
shake and noise. Things that leave the picture come back on the other side, so that every single
frame of every class looks as frames of the others do (growing and shrinking things vary a little
more in size); everything follows from the seed. What is learned from these videos is a stand-in,
and to be called so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sinet.data.image import Pixels
from sinet.data.video_writer import write_video

CLASSES = (
    "left", "right", "up", "down", "clockwise", "counterclockwise", "zoom_in", "zoom_out", "still",
)  # fmt: skip
SIDE, FRAMES, RATE = 64, 24, 24
"""Pixels, frames and frames a second of a clip."""
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
_FINE = 2  # drawn so much larger and averaged, which smooths edges
_SPRITE = 64

Rng = np.random.Generator


@dataclass(frozen=True)
class _Thing:
    """Something drawn, and how it is and moves; lengths in pixels, times in frames."""

    sprite: Image.Image
    place: tuple[float, float]
    """In the middle of the clip."""
    radius: float
    angle: float
    speed: tuple[float, float]
    spin: float
    """Radians a frame, clockwise on the screen."""
    growth: float
    """Logarithm of the factor a frame."""

    @property
    def reach(self) -> float:
        """The largest radius in the clip: so far outside of the picture nothing is seen of it."""
        return float(self.radius * np.exp(abs(self.growth) * FRAMES / 2))

    @property
    def well_inside(self) -> bool:
        """Whether it is easily seen in the middle of the clip."""
        return all(SIDE / 8 < p < SIDE * 7 / 8 for p in self.place)

    def paste(self, canvas: Image.Image, t: float, shake: tuple[float, float]) -> None:
        """Draw it as it is `t` frames after the middle of the clip."""
        radius = self.radius * np.exp(self.growth * t)
        around = SIDE + 2 * self.reach
        x, y = (
            _FINE * ((p + v * t + self.reach) % around - self.reach + s)
            for p, v, s in zip(self.place, self.speed, shake, strict=True)
        )
        zoom, turn = _SPRITE / 2 / (_FINE * radius), self.angle + self.spin * t
        a, b = zoom * np.cos(turn), zoom * np.sin(turn)
        middle = _SPRITE / 2
        # from a point of the canvas to that of the sprite which is seen there
        back = (a, b, middle - a * x - b * y, -b, a, middle + b * x - a * y)
        seen = self.sprite.transform(
            canvas.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR
        )
        canvas.paste(seen, (0, 0), seen)


def draw_motion(kind: str, rng: Rng) -> Pixels:
    """One clip, uint8 (FRAMES, SIDE, SIDE, 3).

    Args:
        kind: one of `CLASSES`.
        rng: where everything random comes from.
    """
    things = [_thing(kind, rng) for _ in range(int(rng.integers(2, 5)))]
    while not any(thing.well_inside for thing in things):
        things = [_thing(kind, rng) for _ in things]
    background = _texture(_FINE * SIDE, rng, low=20, high=235)
    noise, flicker = rng.uniform(1, 8), rng.uniform(0, 0.06)
    clip = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8)
    for i in range(FRAMES):
        canvas = background.copy()
        shake = tuple(rng.normal(0, 0.25, 2).tolist())
        for thing in things:
            thing.paste(canvas, i - (FRAMES - 1) / 2, (shake[0], shake[1]))
        pixels = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
        pixels = pixels * (1 + rng.normal(0, flicker)) + rng.normal(0, noise, pixels.shape)
        clip[i] = pixels.clip(0, 255).round()
    return clip


def _thing(kind: str, rng: Rng) -> _Thing:
    towards = {"right": 0.0, "down": 0.5, "left": 1.0, "up": 1.5}.get(kind)
    speed = (0.0, 0.0)
    if towards is not None:
        way, pace = np.pi * (towards + rng.uniform(-0.08, 0.08)), rng.uniform(0.6, 2.4)
        speed = float(pace * np.cos(way)), float(pace * np.sin(way))
    turning = {"clockwise": 1, "counterclockwise": -1}.get(kind, 0)
    growing = {"zoom_in": 1, "zoom_out": -1}.get(kind, 0)
    thing = _Thing(
        sprite=_sprite(rng),
        place=(0.0, 0.0),
        radius=float(np.exp(rng.uniform(np.log(7), np.log(16)))),
        angle=float(rng.uniform(0, 2 * np.pi)),
        speed=speed,
        spin=float(turning * np.radians(rng.uniform(3, 9))),
        growth=float(growing * rng.uniform(0.012, 0.035)),
    )
    x, y = rng.uniform(-thing.reach, SIDE + thing.reach, 2).tolist()
    return replace(thing, place=(x, y))


def _sprite(rng: Rng) -> Image.Image:
    """A textured shape that looks different when it is turned, RGBA."""
    corners = int(rng.choice([3, 4, 5, 7, 90]))
    way = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    if corners == 90:  # a blob, or an ellipse where the waves are weak
        waves = rng.normal(0, 0.18, 3)
        reach = 1 + sum(w * np.cos((k + 2) * way + k) for k, w in enumerate(waves))
    else:
        reach = rng.uniform(0.55, 1, corners)
    reach = reach / np.max(reach) * (_SPRITE / 2 - 1)
    points = np.stack([np.cos(way), rng.uniform(0.6, 1) * np.sin(way)], 1) * reach[:, None]
    mask = Image.new("L", (_SPRITE, _SPRITE))
    outline = [(float(x), float(y)) for x, y in points + _SPRITE / 2]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    sprite = _texture(_SPRITE, rng, low=0, high=255)
    sprite.putalpha(mask)
    return sprite


def _texture(side: int, rng: Rng, low: int, high: int) -> Image.Image:
    """Two colours, mixed by stripes, by patches or by a ramp."""
    first, second = (rng.uniform(low, high, 3) for _ in range(2))
    y, x = np.mgrid[:side, :side] / side
    way = rng.uniform(0, np.pi)
    along = x * np.cos(way) + y * np.sin(way)
    kind = rng.integers(3)
    if kind == 0:
        mix = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * along * rng.uniform(1.5, 5)))
    elif kind == 1:
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
        mix = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) / 255
    else:
        mix = (along - along.min()) / np.ptp(along)
    pixels = first * mix[..., None] + second * (1 - mix[..., None])
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))


def write_motion(
    root: Path, count: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write clips as class folders of .mp4 in `train`, `val` and `test`.

    Args:
        root: folder to write.
        count: clips in all, as many of each class as can be.
        seed: of everything.
        progress: called with (done, total).

    Raises:
        UsageError: PyAV is not installed.
    """
    ends = np.cumsum(list(SHARES.values())) * count

    def write(i: int) -> None:
        split = list(SHARES)[int(np.searchsorted(ends, i, side="right").clip(max=2))]
        kind = CLASSES[i % len(CLASSES)]
        path = root / split / kind / f"{i:06d}.mp4"
        with write_video(path, RATE) as add:
            for frame in draw_motion(kind, np.random.default_rng((seed, i))):
                add(frame)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(write, range(count)), start=1):
            if progress:
                progress(done, count)
    return root
