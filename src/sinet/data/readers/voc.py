"""Pascal VOC: one XML file an image, with names of classes and corners in pixels.

`Annotations/` and `JPEGImages/` (or `images/`) with the splits as lists in `ImageSets/Main/`; or
splits as folders in which XML files and images lie together or in two folders; or one such folder.
Corners count pixels from 1 and include both ends, as in the original; where a file has a corner at
0 they are taken to count from 0. Pictures in `SegmentationClass/`, or another folder named like
those of masks, are none of its images, unless XML files lie beside them.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from xml.etree import ElementTree

from sinet.data.dataset import ALL, ImageDataset
from sinet.data.readers._boxes import (
    Picture,
    Size,
    below,
    collect,
    files_in,
    folders_with,
    is_picture,
    refuse_mixture,
    split_of,
)
from sinet.data.readers._image_sets import divided
from sinet.data.readers._layout import fault, refuse, seen_from, spots
from sinet.data.readers._masks import is_mask_folder
from sinet.data.remarks import Remark, Spot, left_out
from sinet.errors import DataError

FORMAT = "Pascal VOC"
EXPECTS = "Annotations/*.xml and JPEGImages/, or .xml files beside their images"
TASK = "detect"


def detect(root: Path) -> bool:
    """A folder, at most two levels down, with an XML file of VOC's kind."""
    if not root.is_dir():
        return False
    for folder in folders_with(root):
        if any(b"<annotation" in p.read_bytes()[:2000] for p in files_in(folder, ".xml")[:1]):
            return True
    return False


def read(root: Path) -> ImageDataset:
    """Pair XML files and images by name, and read the boxes.

    Raises:
        DataError: a file that is no XML of VOC's kind, or two formats mixed.
    """
    files = list(below(root))
    sheets = {path: _parsed(root, path) for path in files if path.suffix.lower() == ".xml"}
    sheets = {path: tree for path, tree in sheets.items() if tree.tag == "annotation"}
    images = [path for path in files if is_picture(path) and not _is_mask(root, path, sheets)]
    pairs, lonely, bare = _paired(images, list(sheets))
    refuse_mixture(
        root, FORMAT, bare, {".txt": "YOLO txt"},
        [*{path.parent for path in sheets}, *folders_with(root, 1)],
    )  # fmt: skip
    problems: list[Remark] = []
    pictures = [
        _picture(root, sheet, image, sheets[sheet], problems) for sheet, image in pairs.items()
    ]
    refuse(root, "objects cannot be read", problems, "correct these files, or take them out")
    first = 0.0 if any(0 in box[:2] for p in pictures for box in p.corners) else 1.0
    for picture in pictures:
        picture.corners = [(a - first, b - first, c, d) for a, b, c, d in picture.corners]
    found, remarks = _splits(root, pictures)
    alone = [Spot(seen_from(root, path)) for path in lonely]
    remarks += left_out(alone, "XML files have no image", "no image")
    remarks += left_out(spots(root, bare), "images have no XML file", "no XML file")
    names = sorted({str(key) for picture in pictures for key in picture.ids})
    return collect(root, FORMAT, found, {name: name for name in names}, remarks)


def _is_mask(root: Path, path: Path, sheets: Container[Path]) -> bool:
    """Whether a picture lies among masks, and has no XML file beside it."""
    among = any(map(is_mask_folder, path.relative_to(root).parts[:-1]))
    return among and path.with_suffix(".xml") not in sheets


def _parsed(root: Path, path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.relative_to(root)} is not well-formed XML: {error}; correct it, or take it and "
            "its image out"
        ) from error


def _paired(
    images: Sequence[Path], sheets: Sequence[Path]
) -> tuple[dict[Path, Path], list[Path], list[Path]]:
    """Sheet -> image of the same name; sheets without an image, images without a sheet."""
    by_name: dict[str, list[Path]] = {}
    for image in images:
        by_name.setdefault(image.stem, []).append(image)
    pairs, lonely = {}, []
    for sheet in sheets:
        known = by_name.get(sheet.stem, [])
        if known:  # where several have the name, the one that lies nearest
            pairs[sheet] = max(known, key=lambda path: _shared(path, sheet))
        else:
            lonely.append(sheet)
    used = set(pairs.values())
    return pairs, lonely, [image for image in images if image not in used]


def _shared(one: Path, other: Path) -> int:
    """How many folders two paths have in common, the split among them."""
    return len(set(one.parent.parts) & set(other.parent.parts))


def _picture(
    root: Path, sheet: Path, image: Path, tree: ElementTree.Element, problems: list[Remark]
) -> Picture:
    name = sheet.relative_to(root).as_posix()
    picture = Picture(image, name, size=_size(tree))
    for number, entry in enumerate(tree.findall("object"), start=1):
        box, key = entry.find("bndbox"), (entry.findtext("name") or "").strip()
        try:
            if box is None or not key:
                raise ValueError("no name" if box is not None else "no bndbox")
            corner = [float(box.findtext(k) or "") for k in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError as error:
            text = f"{name}, object {number}: {error}"
            problems.append(fault(root, image, text, "bad object"))
            continue
        picture.corners.append(corner)
        picture.ids.append(key)
        picture.annotations.append({
            k: entry.findtext(k) == "1" for k in ("difficult", "truncated", "occluded")
        })  # fmt: skip
        # VOC's own rule: what is difficult is neither asked for nor wrong
        picture.crowd.append(entry.findtext("difficult") == "1")
    return picture


def _size(tree: ElementTree.Element) -> Size | None:
    try:
        height, width = (int(tree.findtext(f"size/{k}") or 0) for k in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None  # some tools write zeros


def _splits(
    root: Path, pictures: Sequence[Picture]
) -> tuple[dict[str, list[Picture]], list[Remark]]:
    """By the lists of `ImageSets/Main`, else by the folders, else all in one."""
    known = {picture.path.stem: picture for picture in pictures}
    paths = {stem: picture.path for stem, picture in known.items()}
    lists, remarks = divided(root, "Main", paths, "annotated image")
    if lists:
        return {split: [known[stem] for stem in stems] for split, stems in lists.items()}, remarks
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        folders = picture.path.relative_to(root).parts[:-1]
        split = next((s for part in folders if (s := split_of(part))), ALL)
        found.setdefault(split, []).append(picture)
    return found, []
