"""COCO's masks of all pixels: panoptic JSON with PNGs, and stuff JSON with run lengths.

`panoptic_train2017.json` (`segments_info`) lies beside a folder of PNGs of its own name; a pixel's
colour R + 256 G + 65536 B is the number of a segment, and a segment has a category. In
`stuff_train2017.json` the annotations themselves hold the pixels. A YAML file may say where the
three lie, `train: {images: FOLDER, masks: FOLDER, annotations: FILE}`; else images are found by
name. Pixels of no segment count for nothing. Pixel maps of COCO-Stuff (PNGs of category numbers)
are ordinary mask folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sinet.data.dataset import ALL, ClassId, ImageDataset, Split
from sinet.data.image import ImageError
from sinet.data.instances import Outline, region_of
from sinet.data.masks import VOID, Mapped, Mask, MaskFormat
from sinet.data.readers._boxes import (
    below,
    files_in,
    folders_with,
    is_picture,
    split_of,
    unlisted,
)
from sinet.data.readers._layout import seen_from, showing, spots
from sinet.data.readers._masks import checked, masks_by_name, refuse_masks
from sinet.data.readers.coco import Places, learn_names, load, order
from sinet.data.readers.masks import described
from sinet.data.regions import Size
from sinet.data.remarks import Remark, Spot, left_out
from sinet.errors import DataError

FORMAT = "COCO panoptic or stuff"
EXPECTS = "panoptic_*.json and a folder of PNGs, or stuff_*.json, and images"
TASK = "segment"

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Painted:
    """A mask that is painted from run lengths or outlines, in the order of the file."""

    name: str
    size: Size
    """Height and width of the image, pixels."""
    parts: tuple[tuple[int, Outline], ...]
    """Class index and pixels."""

    def read(self) -> Mapped:
        """Class indices, uint8 (H, W).

        Raises:
            ImageError: run lengths that are none.
        """
        mask = np.full(self.size, VOID, np.uint8)
        try:
            for label, outline in self.parts:
                mask[region_of(outline, self.size).full(self.size)] = label
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(self.name, str(error)) from error
        return mask


@dataclass
class _Source:
    """One split's files, and what is noticed in them."""

    root: Path
    split: str
    annotations: Path
    images: Path | None = None
    masks: Path | None = None
    remarks: list[Remark] = field(default_factory=list)
    found: list[Path] = field(default_factory=list)
    """The images of the file that are there."""

    @property
    def name(self) -> str:
        """Of the file of annotations."""
        return seen_from(self.root, self.annotations)

    def pngs(self) -> dict[str, Path]:
        """Masks by the name of their image."""
        folder = self.masks or self.annotations.with_suffix("")
        if not folder.is_dir():
            raise DataError(f"{self.root}: {seen_from(self.root, folder)} is not there; the PNGs "
                            f"of {self.annotations.name} belong into it")  # fmt: skip
        return masks_by_name(folder)


def detect(root: Path) -> bool:
    """A JSON file of segments, or one whose name says that it is of stuff."""
    return root.is_dir() and bool(_sources(root))


def read(root: Path) -> ImageDataset:
    """Read every split's file, find images and masks, and check all of them.

    Raises:
        DataError: malformed JSON, masks that are not there, or of another size.
    """
    contents = [(source, load(root, source.annotations)) for source in _sources(root)]
    names: dict[ClassId, str] = {}
    for source, content in contents:
        learn_names(root, source.annotations, content["categories"], names)
    ids: list[ClassId] = sorted(_used(content for _, content in contents), key=order)
    if len(ids) > VOID:
        raise DataError(f"{root}: {len(ids)} classes; masks hold at most {VOID}: take some out")
    index = {key: i for i, key in enumerate(ids)}
    problems: list[Remark] = []
    remarks = [Remark(f"{len(ids)} classes; pixels of no segment count for nothing")]
    splits = {}
    for source, content in contents:
        images, masks = _masked(source, content, index)
        splits[source.split] = checked(root, images, masks, len(ids), problems)
        remarks += source.remarks
    refuse_masks(root, problems)
    bare = unlisted(path for source, _ in contents for path in source.found)
    remarks += left_out(spots(root, bare), "images are in no JSON file", "in no JSON file")
    remarks += _unnamed(ids, names, splits)
    classes = [names.get(key, str(key)) for key in ids]
    return ImageDataset(root, FORMAT, classes, ids, True, splits, remarks=remarks, task=TASK)


def _unnamed(
    ids: Sequence[ClassId], names: Mapping[ClassId, str], splits: Mapping[str, Split]
) -> list[Remark]:
    """A remark on ids without a name, each with an image that shows it."""
    strange = [i for i, key in enumerate(ids) if key not in names]
    holders = [(ids[i], next(iter(showing(splits, [i])), None)) for i in strange[:3]]
    first = "; ".join(f"{key} in {spot.name}" for key, spot in holders if spot)
    text = f"{len(strange)} class ids have no name and are called by their number: {first}"
    return [Remark(text, True, "class unnamed", showing(splits, strange))] if strange else []


def _sources(root: Path) -> list[_Source]:
    """The files of annotations, one a split; panoptic ones rather than those of stuff."""
    about = described(root)
    if about and "annotations" in about["train"]:
        said = {split: about[split] for split in ("train", "val", "test") if split in about}
        return [
            _Source(
                root,
                split,
                annotations=root / str(part["annotations"]),
                images=root / str(part["images"]),
                masks=root / str(part["masks"]),
            )
            for split, part in said.items()
        ]
    found: dict[str, _Source] = {}
    for path in (p for folder in folders_with(root) for p in files_in(folder, ".json")):
        stuff = path.name.startswith("stuff_")
        if stuff or b'"segments_info"' in path.read_bytes():
            split = split_of(path.stem) or split_of(path.parent.name) or ALL
            if split not in found or not stuff:
                found[split] = _Source(root, split, path)
    return list(found.values())


def _used(contents: Iterable[Mapping[str, Any]]) -> set[ClassId]:
    """The categories that occur."""
    entries = (entry for content in contents for entry in content["annotations"])
    parts = (part for entry in entries for part in entry.get("segments_info", [entry]))
    return {part["category_id"] for part in parts if "category_id" in part}


def _masked(
    source: _Source, content: Mapping[str, Any], index: Mapping[ClassId, int]
) -> tuple[list[Path], list[Any]]:
    """The images of one file that are there and have a mask, and their masks."""
    held = [path for path in below(source.images or source.root) if is_picture(path)]
    places = Places(held, source.annotations, source.split)
    entries: dict[Any, list[Entry]] = {}
    for entry in content["annotations"]:
        entries.setdefault(entry.get("image_id"), []).append(entry)
    panoptic = any("segments_info" in entry for entry in content["annotations"])
    pngs = source.pngs() if panoptic else {}
    images: list[Path] = []
    masks: list[Any] = []
    absent, bare = [], []
    known = {image.get("id") for image in content["images"]}
    lost = [f"annotation of image id {key}" for key in entries if key not in known]
    for image in content["images"]:
        file, said = str(image.get("file_name", "")), entries.get(image.get("id"), [])
        place, png = places.find(file), pngs.get(Path(file).stem)
        source.found += [place] if place else []
        if place is None:
            absent.append(file)
        elif not said or (panoptic and png is None):
            bare.append(place)
        else:
            images.append(place)
            masks.append(
                _segments(source, png, said[0], index) if png else _painted(image, said, index)
            )
    remarks = source.remarks
    alone, gone = map(Spot, lost), map(Spot, absent)
    remarks += left_out([*alone], f"annotations of {source.name} belong to no image", "no image")
    remarks += left_out([*gone], f"images of {source.name} are not there", "not there")
    remarks += left_out(
        spots(source.root, bare), f"images of {source.name} have no mask", "no mask"
    )
    if not images:
        raise DataError(f"{source.root}: no image of {source.name} is there with a mask; put them "
                        "beside it, or say in a YAML file where they are")  # fmt: skip
    return images, masks


def _segments(source: _Source, png: Path, entry: Entry, index: Mapping[ClassId, int]) -> Mask:
    """A PNG whose colours are the segments of this image."""
    segments = {0: VOID}
    for part in entry["segments_info"]:
        number = int(part["id"])  # R + 256 G + 65536 B
        packed = number % 256 * 65536 + number // 256 % 256 * 256 + number // 65536
        segments[packed] = index[part["category_id"]]
    values = tuple(sorted(segments))
    form = MaskFormat(True, values, tuple(segments[value] for value in values))
    return Mask(seen_from(source.root, png), png, form)


def _painted(image: Entry, said: Sequence[Entry], index: Mapping[ClassId, int]) -> Painted:
    """The pixels of all annotations of an image."""
    size = int(image.get("height") or 0), int(image.get("width") or 0)
    parts = tuple(
        (index[entry["category_id"]], entry["segmentation"])
        for entry in said
        if "category_id" in entry and entry.get("segmentation")
    )
    return Painted(str(image["file_name"]), size, parts)
