"""Masks in which every object has a number of its own, beside images of the same names.

Penn-Fudan's layout, `PNGImages/` and `PedMasks/`, or `images/` and `instances/`, with splits above
or below them as for class masks. A pixel is 0 where nothing is, else the number of its object in
this image (grey or palette PNG of 8 or 16 bits). Several classes, or objects that overlap: a folder
for each class, `instances/cat/1.png` and `instances/dog/1.png`; where an image has no cat, its file
may be missing. Without such folders there is one class; `classes.txt` may name it.

Splits may be lists too: `train.txt`, `val.txt` and `test.txt` beside the two folders, one name a
line, with or without ending. Images in no list are for training, unless `train.txt` says which are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sinet.data.boxes import presence
from sinet.data.dataset import ALL, ClassId, ImageDataset, Split
from sinet.data.image import upright_size
from sinet.data.instances import Numbered
from sinet.data.masks import raw_pixels
from sinet.data.readers._layout import SPLITS, fault, seen_from, spots, visible
from sinet.data.readers._masks import (
    folder_pairs,
    masks_by_name,
    matched,
    pictures,
    refuse_masks,
    said_of_lonely,
    without_image,
)
from sinet.data.regions import Region, Size
from sinet.data.remarks import Remark, Spot, left_out, listed
from sinet.errors import DataError

FORMAT = "instance masks"
EXPECTS = "images/ and instances/ (or PNGImages/ and PedMasks/), a number for every object"
TASK = "instances"

_IMAGES = re.compile(r"((png|jpe?g)?images?|imgs?|photos?)", re.IGNORECASE)
_MASKS = re.compile(r"(?P<name>ped)masks|instances?(_?(masks?|labels?))?", re.IGNORECASE)
_MOST = 1000  # objects; an image with more is no mask of numbers

Source = tuple[Path, int]
"""A mask and the class index of its objects."""


def detect(root: Path) -> bool:
    """A folder of images and one of instances."""
    return root.is_dir() and bool(folder_pairs(root, _IMAGES, _MASKS))


def read(root: Path) -> ImageDataset:
    """Pair images and masks, and read every mask once for its boxes.

    Raises:
        DataError: images without a mask, masks of another size, or not a single object.
    """
    folders = folder_pairs(root, _IMAGES, _MASKS)
    named = _classes(root, [masks for _, masks in folders.values()])
    lists = _lists(root) if ALL in folders else {}
    pairs = {split: _paired(*pair, named) for split, pair in folders.items()}
    found: dict[str, list[tuple[Path, list[Source]]]] = {}
    for split, items in pairs.items():
        for image, sources in items:
            if part := _part(root, image, lists) if lists else split:
                found.setdefault(part, []).append((image, sources))
    problems: list[Remark] = []
    splits = {s: _split(root, items, len(named), problems) for s, items in found.items()}
    refuse_masks(root, problems)
    targets = [target for split in splits.values() for target in split.targets]
    objects = sum(len(target) for target in targets)
    if not objects:
        raise DataError(f"{root}: the masks are all 0, so there is no object; number the objects")
    remarks = [Remark(f"{objects} objects")]
    if empty := [target.name for target in targets if not len(target)]:
        remarks.append(Remark(f"{len(empty)} images have no object: {listed(empty, 3)}"))
    every = [item for items in pairs.values() for item in items]
    remarks += _without_each_other(root, folders.values(), named, every)
    remarks += _out_of_lists(root, lists, [image for image, _ in every])
    ids: list[ClassId] = list(named)
    return ImageDataset(root, FORMAT, list(named), ids, True, splits, remarks=remarks, task=TASK)


def _without_each_other(
    root: Path,
    folders: Iterable[tuple[Path, Path]],
    named: Mapping[str, str],
    items: Sequence[tuple[Path, list[Source]]],
) -> list[Remark]:
    """Remarks on masks that belong to no image, or to no class, and on images without any mask."""
    lonely: list[Path] = []
    loose: list[Path] = []
    for images, masks in folders:
        for part in (masks / folder for folder in named.values()):
            lonely += without_image(images, part) if part.is_dir() else []
        loose += [] if "" in named.values() else pictures(masks)
    remarks = said_of_lonely(root, lonely)
    alone = [Spot(seen_from(root, path)) for path in loose]
    remarks += left_out(alone, "masks are in no folder of a class", "of no class")
    if bare := [Spot(seen_from(root, image)) for image, sources in items if not sources]:
        some = listed([spot.name for spot in bare], 3)
        text = f"{len(bare)} images have no mask of any class, so nothing is in them: {some}"
        remarks.append(Remark(text, True, "no mask", tuple(bare)))
    return remarks


def _out_of_lists(
    root: Path, lists: Mapping[str, set[str]], images: Sequence[Path]
) -> list[Remark]:
    """Remarks on images that are in no list, and on names in lists that no image has."""
    if not lists:
        return []
    known = {name for image in images for name in (image.name, image.stem)}
    absent = sorted(set().union(*lists.values()) - known - {""})
    spare = [image for image in images if not _part(root, image, lists)]
    return [
        *left_out([Spot(name) for name in absent], "names of the lists have no image", "no image"),
        *left_out(spots(root, spare), "images are in no list", "in no list"),
    ]


def _classes(root: Path, folders: Sequence[Path]) -> dict[str, str]:
    """Class name -> the folder of its masks within that of all masks, "" where there is none."""
    below = {path.name for folder in folders for path in visible(folder) if path.is_dir()}
    if below:
        return {name: name for name in sorted(below)}
    file = root / "classes.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.strip() for line in lines if line.strip()]
    if len(names) > 1:
        raise DataError(f"{root}: classes.txt names {len(names)} classes, but the masks tell no "
                        f"class; make a folder for each in {folders[0].name}/")  # fmt: skip
    known = _MASKS.fullmatch(folders[0].name)
    prefix = known["name"].lower() if known and known["name"] else "object"
    return {names[0] if names else prefix: ""}


def _paired(images: Path, masks: Path, named: Mapping[str, str]) -> list[tuple[Path, list[Source]]]:
    """Images, each with its masks."""
    if "" in named.values():
        return [(image, [(mask, 0)]) for image, mask in matched(images, masks)]
    folders = [masks / folder for folder in named.values()]
    known = [masks_by_name(folder) if folder.is_dir() else {} for folder in folders]
    return [
        (image, [(part[image.stem], i) for i, part in enumerate(known) if image.stem in part])
        for image in pictures(images)
    ]


def _lists(root: Path) -> dict[str, set[str]]:
    """Split -> the names in its list."""
    files = {SPLITS[p.stem.lower()]: p for p in root.glob("*.txt") if p.stem.lower() in SPLITS}
    lines = {split: path.read_text(encoding="utf-8").splitlines() for split, path in files.items()}
    return {split: {line.strip() for line in part} for split, part in lines.items()}


def _part(root: Path, image: Path, lists: Mapping[str, set[str]]) -> str:
    """The split that the lists give to an image; "" for none of them."""
    found = [split for split, names in lists.items() if {image.name, image.stem} & names]
    if len(found) > 1:
        raise DataError(f"{root}: {image.name} is in the lists of {' and '.join(sorted(found))}; "
                        "take it out of one")  # fmt: skip
    return found[0] if found else "" if "train" in lists else "train"


def _split(
    root: Path, items: Sequence[tuple[Path, list[Source]]], classes: int, problems: list[Remark]
) -> Split:
    """Images and their objects."""

    def look(item: tuple[Path, list[Source]]) -> Numbered | Remark:
        image, masks = item
        try:
            size = upright_size(image)
        except Exception:  # an unreadable image is reported where all of them are
            return _objects(seen_from(root, image), [], (0, 0))
        try:
            return _objects(seen_from(root, image), masks, size)
        except (OSError, ValueError, SyntaxError) as error:
            text = f"masks of {seen_from(root, image)}: {error}"
            return fault(root, image, text, "mask unusable")

    targets = []
    with ThreadPoolExecutor() as pool:
        for found in pool.map(look, items):
            if isinstance(found, Remark):
                problems.append(found)
            else:
                targets.append(found)
    if problems:  # nothing of this will be used
        return Split([], np.zeros((0, classes), np.float32), [])
    images = [image for image, _ in items]
    names = [seen_from(root, image) for image in images]
    return Split(images, presence(targets, classes), names, targets=targets)


def _objects(name: str, masks: Sequence[Source], size: Size) -> Numbered:
    """The objects of one image, by class and number."""
    sources, labels, corners = [], [], []
    for path, label in masks:
        pixels = raw_pixels(path, False)
        if pixels.shape != size:
            raise ValueError(f"{path.name} has {pixels.shape[1]} x {pixels.shape[0]} pixels, the "
                             f"image {size[1]} x {size[0]}")  # fmt: skip
        values = [int(value) for value in np.unique(pixels) if value]
        if len(values) > _MOST:
            raise ValueError(f"{path.name} has {len(values)} different numbers, too many for "
                             "objects; save it as PNG, one number an object")  # fmt: skip
        for value in values:
            sources.append((path, value))
            labels.append(label)
            corners.append(Region.of(pixels == value).corners)
    plain = Numbered.of(name, corners, labels)
    assert isinstance(plain, Numbered)
    return Numbered(name, plain.corners, plain.labels, plain.crowd, (), tuple(sources), size)
