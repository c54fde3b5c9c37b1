"""What the readers of masks share: folders found and paired by their names, every mask checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sinet.data.dataset import ALL, Split
from sinet.data.image import SUFFIXES, ImageError, upright_size
from sinet.data.masks import presence
from sinet.data.readers._layout import SPLITS, fault, refuse, seen_from, spots, visible
from sinet.data.remarks import Remark, Spot, left_out
from sinet.errors import DataError

_IMAGES = re.compile(r"(images?|imgs?|photos?|jpegimages)", re.IGNORECASE)
_MASKS = re.compile(
    r"(masks?|labels?|annot(ation)?s?|gt|ground_?truth|segmentations?|segmentationclass)",
    re.IGNORECASE,
)
OF_SOME = "segmentationclass"
"""Pascal VOC's folder of masks, in lower case: not every image has one."""
_OF_OBJECTS = "segmentationobject"
_ENDING = re.compile(r"(_mask|_label|_gt|_seg|_l|_labelids)$", re.IGNORECASE)


def folder_pairs(
    root: Path, image_names: re.Pattern[str] = _IMAGES, mask_names: re.Pattern[str] = _MASKS
) -> dict[str, tuple[Path, Path]]:
    """Split -> (folder of images, folder of masks), found by the names of folders."""

    def _two(inside: Sequence[Path]) -> tuple[Path, Path] | None:
        images = [path for path in inside if image_names.fullmatch(path.name)]
        # of several, such as the text files of `labels` beside `masks`, the one with pictures
        masks = [path for path in inside if mask_names.fullmatch(path.name)]
        masks = [path for path in masks if _holds_pictures(path, deep=True)]
        return (images[0], masks[0]) if images and masks else None

    folders = [path for path in visible(root) if path.is_dir()]
    pairs: dict[str, tuple[Path, Path]] = {}
    if two := _two(folders):
        images, masks = two
        for part in (path for path in visible(images) if path.is_dir()):
            other = masks / part.name
            if part.name.lower() in SPLITS and other.is_dir():
                pairs[SPLITS[part.name.lower()]] = part, other
        return pairs or ({ALL: two} if _holds_pictures(images) else {})
    for part in folders:
        split = SPLITS.get(part.name.lower())
        if split is None:
            continue
        inner = _two([path for path in visible(part) if path.is_dir()])
        beside = root / f"{part.name}annot"
        if inner:
            pairs[split] = inner
        elif mask_names is _MASKS and beside.is_dir() and _holds_pictures(part):
            pairs[split] = part, beside
    return pairs


def _holds_pictures(folder: Path, deep: bool = False) -> bool:
    inside = visible(folder)
    if deep:
        inside += [p for part in inside if part.is_dir() for p in visible(part)[:50]]
    return any(path.suffix.lower() in SUFFIXES for path in inside)


def masks_by_name(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by the name of their image; theirs may end in `_mask` and such."""
    return {_ENDING.sub("", path.stem): path for path in pictures(folder)}


def matched(images: Path, masks: Path, every: bool = True) -> list[tuple[Path, Path]]:
    """Images with their masks, by name.

    Raises:
        DataError: none has a mask, or not `every` one.
    """
    known = masks_by_name(masks)
    pairs = [(path, known[path.stem]) for path in pictures(images) if path.stem in known]
    bare = without_mask(images, masks)
    if bare and (every or not pairs):
        said = f"{len(bare)} images in {images} have no mask of the same name in {masks}"
        some = ", ".join(path.name for path in bare[:5])
        raise DataError(
            f"{said}: {some}; add their masks or take the images out",
            [Remark(said, True, "no mask", tuple(spots(images.parent, bare)))],
        )
    return pairs


def without_mask(images: Path, masks: Path) -> list[Path]:
    """The images of a folder whose names no mask has."""
    known = masks_by_name(masks)
    return [path for path in pictures(images) if path.stem not in known]


def without_image(images: Path, masks: Path) -> list[Path]:
    """The masks of a folder that belong to no image, second ones of an image among them."""
    known = {path.stem for path in pictures(images)}
    used = {path for stem, path in masks_by_name(masks).items() if stem in known}
    return [path for path in pictures(masks) if path not in used]


def said_of_lonely(root: Path, masks: Sequence[Path]) -> list[Remark]:
    """A remark on masks that belong to no image."""
    alone = [Spot(seen_from(root, path)) for path in masks]
    return left_out(alone, "masks have no image of their own", "no image")


def is_mask_folder(name: str) -> bool:
    """Whether a folder of this name holds masks, not images."""
    return name.lower() == _OF_OBJECTS or _MASKS.fullmatch(name) is not None


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
    return [path for path in visible(folder) if path.suffix.lower() in SUFFIXES]


def refuse_masks(root: Path, problems: Sequence[Remark]) -> None:
    """Raise a DataError that lists the first masks that cannot be used, if there are any."""
    refuse(
        root,
        "masks cannot be used",
        problems,
        "export these again, in the size of their images and with known classes only, or take "
        "them and their images out",
    )


def checked(
    root: Path, images: Sequence[Path], masks: Sequence[Any], classes: int, problems: list[Remark]
) -> Split:
    """A split of images and masks, each of which is read once; what is wrong is noted.

    Args:
        root: of the data set.
        images: files.
        masks: one an image, with a name and `read()`.
        classes: how many there are.
        problems: receives a remark on each mask that cannot be used.
    """

    def look(i: int) -> np.ndarray | Remark:
        try:
            mask = masks[i].read()
            height, width = upright_size(images[i])
        except ImageError as error:
            text = f"{masks[i].name}: {error.reason}"
            return fault(root, images[i], text, "mask unusable", error.box)
        except Exception:  # an unreadable image is reported where all of them are
            return np.asarray(presence([mask], classes)[0])
        if mask.shape != (height, width):
            given = f"{mask.shape[1]} x {mask.shape[0]}"
            text = f"{masks[i].name}: {given} pixels, its image {width} x {height}"
            return fault(root, images[i], text, "other size")
        return np.asarray(presence([mask], classes)[0])

    labels = np.zeros((len(images), classes), dtype=np.float32)
    with ThreadPoolExecutor() as pool:
        for i, found in enumerate(pool.map(look, range(len(images)))):
            if isinstance(found, Remark):
                problems.append(found)
            else:
                labels[i] = found
    names = [seen_from(root, path) for path in images]
    return Split(list(images), labels, names, targets=list(masks))
