"""COCO and YOLO files whose objects have outlines: polygons, or COCO's run lengths.

Nearly every COCO file has them, and boxes are cheaper to learn: these files are read as boxes
unless `--task instances` asks for the outlines. What has none is left out and said.
"""

from __future__ import annotations

from pathlib import Path

from sinet.data.dataset import ImageDataset
from sinet.data.readers import coco, yolo

FORMAT = "COCO or YOLO with outlines"
EXPECTS = (
    "COCO JSON with `segmentation`, or YOLO .txt files of polygons (`class x1 y1 x2 y2 x3 y3`)"
)
TASK = "instances"
ASKED = True


def detect(root: Path) -> bool:
    """Whether it is one of the two; whether there are outlines, `read` says."""
    return coco.detect(root) or yolo.detect(root)


def read(root: Path) -> ImageDataset:
    """Read it as boxes are read, and keep the outlines.

    Raises:
        DataError: as for boxes, or not a single outline.
    """
    if coco.detect(root):
        return coco.read(root, outlined=True)
    return yolo.read(root, outlined=True)
