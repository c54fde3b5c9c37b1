"""The picture sheet: a few training pictures of each class, to see at a glance what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from sinet.data.dataset import ImageDataset, Split
from sinet.data.image import ImageError, Pixels
from sinet.data.inspection import Inspection
from sinet.files import atomic_path

TILE, GAP, NAME = 96, 6, 190  # pixels
MAX_CLASSES, PER_CLASS = 24, 10
INK, PALE, PAPER = "#1f2933", "#7b8794", "#ffffff"

Painter = Callable[[Split, int, Pixels], Image.Image]
"""Draws what a sample shows, such as its boxes, onto its pixels."""


def draw_sheet(inspection: Inspection, path: str | Path, paint: Painter | None = None) -> Path:
    """Write a PNG with one row a class: its name, its number of pictures, the first few of them.

    Args:
        inspection: of the data set; up to 24 classes are drawn, evenly spaced.
        path: of the PNG.
        paint: draws masks or boxes onto a picture; None where labels say all.
    """
    data = inspection.data
    rows = np.unique(np.linspace(0, data.num_classes - 1, MAX_CLASSES).astype(int))
    pitch = TILE + GAP
    sheet = Image.new("RGB", (NAME + PER_CLASS * pitch + GAP, len(rows) * pitch + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    bold, small = ImageFont.load_default(17), ImageFont.load_default(13)
    labels = data.train.labels
    for row, index in enumerate(rows):
        top = GAP + row * pitch
        members = np.flatnonzero(labels[:, index] if data.multilabel else labels == index)
        draw.text((GAP + 4, top + 28), _short(data.classes[index]), INK, bold)
        draw.text((GAP + 4, top + 52), f"{len(members)} training pictures", PALE, small)
        spaced = members[np.linspace(0, len(members) - 1, PER_CLASS).astype(int)]
        for column, i in enumerate(dict.fromkeys(spaced.tolist())):
            tile = _tile(data, i, paint)
            left = NAME + column * pitch + (TILE - tile.width) // 2
            sheet.paste(tile, (left, top + (TILE - tile.height) // 2))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return Path(path)


def _tile(data: ImageDataset, i: int, paint: Painter | None) -> Image.Image:
    """One picture, whole, as large as fits a tile; small ones are enlarged with visible pixels."""
    try:
        pixels = data.train.image(i, 3)
        image = paint(data.train, i, pixels) if paint else Image.fromarray(pixels)
    except ImageError:
        return Image.new("RGB", (TILE, TILE), "#f5d0d0")
    enlarged = max(image.size) < TILE
    return ImageOps.contain(image, (TILE, TILE), _NEAREST if enlarged else _SMOOTH)


_NEAREST, _SMOOTH = Image.Resampling.NEAREST, Image.Resampling.LANCZOS


def _short(name: str, limit: int = 20) -> str:
    return name if len(name) <= limit else name[: limit - 3] + "..."
