"""What the readers of boxes share: finding pictures, bringing boxes into their pixels, checking."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sinet.data.boxes import Boxes, Fault, presence, repaired, summary
from sinet.data.dataset import ClassId, ImageDataset, Split
from sinet.data.image import SUFFIXES, upright_size
from sinet.data.instances import Outlined
from sinet.data.readers._layout import SPLITS, fault, refuse
from sinet.data.remarks import Remark, Spot, listed
from sinet.errors import DataError

TASK = "detect"
_MANY = 40  # data sets of boxes have few folders; one for each class may be a thousand
Size = tuple[int, int]


@dataclass
class Picture:
    """One image and what is said about it."""

    path: Path
    source: str
    """The file that says it; named in what is said about its boxes."""
    corners: list[Sequence[float]] = field(default_factory=list)
    """x1, y1, x2, y2, in pixels or as shares of the image."""
    ids: list[ClassId] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    annotations: list[Mapping[str, Any]] = field(default_factory=list)
    """Whatever else is known of each box; empty, or one a box."""
    size: Size | None = None
    """Height and width, if they are said."""
    shares: bool = False
    """Whether corners are shares of width and height."""


def is_picture(path: Path) -> bool:
    """Whether its name ends like that of an image."""
    return path.suffix.lower() in SUFFIXES


def below(root: Path) -> Iterator[Path]:
    """All files below a folder, hidden ones left out, in a fixed order."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def split_of(name: str) -> str | None:
    """The split that a name speaks of, years and endings aside: `instances_val2017` -> val."""
    words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), None)


def folders_with(root: Path, deep: int = 2) -> list[Path]:
    """The folder and those below it, to a depth; of very many folders only the first `_MANY`."""
    found, level = [root], [root]
    for _ in range(deep):
        level = [path for folder in level for path in _entries(folder, True)][:_MANY]
        found += level
    return found


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder with one of these endings, in lower case."""
    return [path for path in _entries(folder, False) if path.suffix.lower() in suffixes]


def _entries(folder: Path, folders: bool) -> list[Path]:
    """Sorted folders or files, without asking the disk about each of a million images."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() == folders]
    return [folder / n for n in sorted(names) if not n.startswith((".", "__MACOSX"))]


def collect(
    root: Path,
    form: str,
    found: Mapping[str, Sequence[Picture]],
    names: Mapping[ClassId, str],
    remarks: Sequence[Remark],
    outlined: bool = False,
) -> ImageDataset:
    """The data set: boxes in pixels, checked; ids become indices in the order of `names`.

    Args:
        root: of the data set.
        form: the format that was read.
        found: the images of each split.
        names: of the classes, by the user's ids.
        remarks: what was noticed before.
        outlined: keep the outlines of objects, and only objects that have one.

    Raises:
        DataError: no image at all, no box at all, or boxes that were drawn on other images.
    """
    if not any(found.values()):
        raise DataError(f"{root}: none of the annotated images is there; put them beside their "
                        "annotations")  # fmt: skip
    strange = _unnamed(found, names)
    every = {**names, **{key: str(key) for key in sorted(strange, key=str)}}
    index = {key: i for i, key in enumerate(every)}
    faults: list[Fault] = []
    problems: list[Remark] = []
    splits = {}
    with ThreadPoolExecutor() as pool:
        for split, pictures in found.items():
            targets = []
            for boxes, wrong, problem in pool.map(
                lambda p: _boxes(root, p, index, outlined), pictures
            ):
                targets.append(boxes)
                faults += wrong
                problems += [problem] if problem else []
            items = [picture.path for picture in pictures]
            paths = [path.relative_to(root).as_posix() for path in items]
            splits[split] = Split(items, presence(targets, len(every)), paths, targets=targets)
    refuse(root, "annotations were made for images of another size", problems,
           "put the images back that were annotated")  # fmt: skip
    boxes_in_all = sum(len(target) for split in splits.values() for target in split.targets)
    if not boxes_in_all:
        what = "outline" if outlined else "box"
        shown = "".join(f"\n  {remark.text}" for remark in summary(faults))
        raise DataError(f"{root}: {form} without a single usable {what}{shown}\ndraw some first",
                        _there(root, summary(faults)))  # fmt: skip
    empty = [
        n for s in splits.values() for n, t in zip(s.names, s.targets, strict=True) if not len(t)
    ]
    said = [Remark(f"{boxes_in_all} {'objects' if outlined else 'boxes'}"), *remarks]
    said += _said_of_unnamed(strange, splits, len(names)) + summary(faults)
    if not outlined and any(_outline(a) for s in splits.values() for t in s.targets
                            for a in t.annotations):  # fmt: skip
        said.append(Remark("objects have outlines too: `--task instances` learns these"))
    if empty:
        what = "outline" if outlined else "box"
        some = listed(empty, 3)
        said.append(Remark(f"{len(empty)} images have no {what} and count as background: {some}"))
    classes = list(every.values())
    return ImageDataset(root, form, classes, list(every), True, splits, remarks=said, task=TASK)


def _there(root: Path, remarks: Sequence[Remark]) -> list[Remark]:
    """The remarks, with the files of their pictures, which are in no split."""
    return [
        replace(line, spots=tuple(replace(spot, item=root / spot.name) for spot in line.spots))
        for line in remarks
    ]


def _unnamed(
    found: Mapping[str, Sequence[Picture]], names: Mapping[ClassId, str]
) -> dict[ClassId, str]:
    """The ids that have no name, each with the first file that holds it."""
    strange: dict[ClassId, str] = {}
    for pictures in found.values():
        for picture in pictures:
            for key in picture.ids:
                if key not in names:
                    strange.setdefault(key, picture.source)
    return strange


def _said_of_unnamed(
    strange: Mapping[ClassId, str], splits: Mapping[str, Split], named: int
) -> list[Remark]:
    """A remark on ids without a name, with their boxes: those of classes from index `named` on."""
    if not strange:
        return []
    first = "; ".join(f"{key} in {source}" for key, source in list(strange.items())[:3])
    text = f"{len(strange)} class ids have no name and are called by their number: {first}"
    if not named:  # a choice of whoever made the data set, so no box is wrong
        return [Remark(text)]
    boxes = tuple(
        Spot(target.name, box=tuple(corners.tolist()))
        for split in splits.values()
        for target in split.targets
        for corners in target.corners[target.labels >= named]
    )
    return [Remark(text, True, "class unnamed", boxes)]


def _boxes(
    root: Path, picture: Picture, index: Mapping[ClassId, int], outlined: bool
) -> tuple[Boxes, list[Fault], Remark | None]:
    """Boxes in the pixels of their image, faults, and why they cannot be used (or nothing)."""
    labels = [index[key] for key in picture.ids]
    boxes = Boxes.of(
        picture.source, picture.corners, labels, picture.crowd or None, picture.annotations
    )
    try:
        height, width = upright_size(picture.path)
    except Exception:  # unreadable images are reported where all of them are
        return boxes.select(np.zeros(len(boxes), bool)), [], None
    scale = 1.0, 1.0
    if picture.shares:
        scale = float(width), float(height)
    elif picture.size and picture.size not in ((height, width), (width, height)):
        high, wide = picture.size
        if abs(wide * height - width * high) > 0.02 * wide * height:
            text = (f"{picture.source}: made for {wide} x {high} pixels, "
                    f"{picture.path.name} has {width} x {height}")  # fmt: skip
            return boxes, [], fault(root, picture.path, text, "other size")
        scale = width / wide, height / high  # annotated before it was resized
    whole, faults = repaired(boxes.scaled(*scale), height, width)
    if outlined:
        whole, said = _with_outlines(whole, scale, (height, width))
        faults += said
    name = picture.path.relative_to(root).as_posix()
    return replace(whole, name=name), [replace(wrong, picture=name) for wrong in faults], None


def _with_outlines(
    boxes: Boxes, scale: tuple[float, float], size: Size
) -> tuple[Outlined, list[Fault]]:
    """The boxes that have an outline, which is brought into pixels; the faults of the others."""
    outlines, faults = [], []
    for i, annotation in enumerate(boxes.annotations):
        given = _outline(annotation)
        parts = given
        if isinstance(given, list):
            parts = [part for part in given if len(part) >= 6 and len(part) % 2 == 0]
            parts = [(np.reshape(part, (-1, 2)) * scale).ravel().tolist() for part in parts]
        if not parts:
            kind = "few" if given else "bare"
            where = f"{boxes.name}, object {i + 1}"
            faults.append(Fault(kind, where, tuple(boxes.corners[i].tolist())))
        outlines.append(parts)
    there = np.array([bool(parts) for parts in outlines], bool)
    held = tuple(parts for parts in outlines if parts)
    kept = boxes.select(there)
    return Outlined(kept.name, kept.corners, kept.labels, kept.crowd, (), held, size), faults


def _outline(annotation: Mapping[str, Any]) -> Any:
    """Polygons as a list of lists, run lengths as a mapping; something false for neither."""
    given = annotation.get("segmentation", annotation.get("polygon"))
    if isinstance(given, Mapping):
        return given if {"counts", "size"} <= set(given) else None
    if isinstance(given, list) and given and all(isinstance(v, int | float) for v in given):
        return [given]
    return given if isinstance(given, list) and all(isinstance(v, list) for v in given) else None


def unlisted(paths: Iterable[Path]) -> list[Path]:
    """The pictures that lie beside these, but are none of them."""
    known = set(paths)
    homes = sorted({path.parent for path in known if path.parent.is_dir()})
    return [path for home in homes for path in files_in(home, *SUFFIXES) if path not in known]


def refuse_mixture(
    root: Path, form: str, bare: Sequence[Path], others: Mapping[str, str], where: Sequence[Path]
) -> None:
    """Raise a DataError where images lack their annotation in one format but have another.

    Args:
        root: of the data set.
        form: the format that is read.
        bare: images without an annotation in it.
        others: suffix -> name of the format that it would be.
        where: folders in which annotations lie.
    """
    problems: list[Remark] = []
    for path in bare:
        for suffix, other in others.items():
            for folder in (path.parent, *where):
                if (folder / f"{path.stem}{suffix}").is_file():
                    text = f"{path.name}: {path.stem}{suffix} ({other})"
                    problems.append(fault(root, path, text, "other format"))
                    break
    advice = "mixed formats: convert all annotations to one format, or make two data sets"
    refuse(root, f"images have no annotation in {form} but in another format", problems, advice)
