"""Class folders: `train/cat/1.jpg`, or `cat/1.jpg` without splits. Class id = folder name.

Classes are in the plain alphabetical order of their folders, as torchvision's ImageFolder and
timm have it, so that pretrained classifiers fit.
"""

from __future__ import annotations

import os
from pathlib import Path

from sinet.data.dataset import ALL, ClassId, ImageDataset
from sinet.data.image import SUFFIXES
from sinet.data.readers._layout import SPLITS, Found, assemble, seen_from, spots, visible
from sinet.data.remarks import Remark, left_out

FORMAT = "class folders"
EXPECTS = "train/CLASS/*.jpg, val/CLASS/*.jpg, perhaps test/...; or CLASS/*.jpg alone"
TASK = "classify"


def detect(root: Path) -> bool:
    """Folders that hold images directly, or splits that hold such folders."""
    if not root.is_dir():
        return False
    splits = _splits(root)
    if splits:
        return any(_holds_images(c) for part in splits.values() for c in _folders(part))
    return any(_holds_images(folder) for folder in _folders(root))


def read(root: Path) -> ImageDataset:
    """List the images of each class folder, also those in folders below it."""
    splits = _splits(root) or {ALL: root}
    names = sorted({c.name for part in splits.values() for c in _folders(part)})
    ignored: dict[str, list[Path]] = {}
    loose: list[Path] = []
    found = {}
    for split, part in splits.items():
        items: list[Path | bytes] = []
        labels: list[ClassId] = []
        for folder in _folders(part):
            images = _images_below(folder, ignored)
            items += images
            labels += [folder.name] * len(images)
        loose += [path for path in visible(part) if path.suffix.lower() in SUFFIXES]
        found[split] = Found(items, labels, [Path(p).relative_to(root).as_posix() for p in items])  # type: ignore[arg-type]
    remarks = left_out(spots(root, loose), "images are in no folder of a class", "of no class")
    if ignored:
        common = sorted(ignored.items(), key=lambda item: -len(item[1]))[:5]
        kinds = ", ".join(
            f"{len(paths)} {suffix or 'without ending'} such as {seen_from(root, paths[0])}"
            for suffix, paths in common
        )
        remarks.append(Remark(f"files that are not images by their ending are ignored: {kinds}"))
    return assemble(root, FORMAT, found, {name: name for name in names}, remarks=remarks)


def _folders(root: Path) -> list[Path]:
    return [path for path in visible(root) if path.is_dir()]


def _splits(root: Path) -> dict[str, Path]:
    """The folders named after splits, when a training split is among them."""
    named = {SPLITS[p.name.lower()]: p for p in _folders(root) if p.name.lower() in SPLITS}
    return named if "train" in named else {}


def _holds_images(folder: Path) -> bool:
    """Whether an image lies here or, as in Tiny ImageNet's `n01443537/images/`, one level below."""
    inside = visible(folder)
    if any(path.suffix.lower() in SUFFIXES for path in inside):
        return True
    return any(
        child.suffix.lower() in SUFFIXES
        for path in inside
        if path.is_dir() and path.name.lower() == "images"
        for child in path.iterdir()
    )


def _images_below(folder: Path, ignored: dict[str, list[Path]]) -> list[Path]:
    images = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                images.append(Path(parent, name))
            else:
                ignored.setdefault(suffix, []).append(Path(parent, name))
    return images
