"""YOLO: one text file an image; a line is `class x y width height`, centre and size as shares.

A YAML file (`data.yaml`) names the classes and says where the splits lie; without it they are found
by their names: `images/train` and `labels/train`, `train/images` and `train/labels`, or text files
beside the images, with `classes.txt`. Lines of polygons are read as the boxes around them (with
`--task instances`, as outlines). An image without a text file is background, as in YOLO's own
training, unless the YAML file says `skip_if_label_file_missing: true`. Pictures in folders named
like those of masks are none of its images, unless they have a text file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sinet.data.dataset import ALL, ClassId, ImageDataset
from sinet.data.readers._boxes import (
    Picture,
    below,
    collect,
    files_in,
    folders_with,
    is_picture,
    refuse_mixture,
    split_of,
)
from sinet.data.readers._layout import SPLITS, fault, refuse, seen_from, spots
from sinet.data.readers._masks import is_mask_folder
from sinet.data.remarks import Remark, Spot, left_out, listed

FORMAT = "YOLO"
EXPECTS = "data.yaml with names and splits, or images/ and labels/ with .txt files of boxes"
TASK = "detect"

_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "_darknet.labels")
_NOT_LABELS = {"classes.txt", "train.txt", "val.txt", "test.txt", "readme.txt", "labels.txt"}
_OVER = 0.1  # shares beyond 1 by more than this are no shares


def detect(root: Path) -> bool:
    """A YAML file with class names and splits, or a text file of boxes with its image."""
    if not root.is_dir():
        return False
    return _described(root) is not None or any(
        _is_boxes(path) and _image_of(path) is not None
        for folder in folders_with(root)
        for path in [p for p in files_in(folder, ".txt") if _is_label(p)][:3]
    )


def read(root: Path, outlined: bool = False) -> ImageDataset:
    """Find images and text files, and read the boxes.

    Args:
        root: of the data set.
        outlined: keep the polygons, for `--task instances`.

    Raises:
        DataError: lines that are no boxes, pixels in the place of shares, or two formats mixed.
    """
    about = _described(root)
    said = about[1] if about else {}
    names = _names(root, said)
    images, absent = _from_yaml(root, *about) if about else ({}, [])
    images = images or _from_folders(root)
    found: dict[str, list[Picture]] = {}
    problems: list[Remark] = []
    bare: list[Path] = []
    used: set[Path] = set()
    for split, paths in images.items():
        for path in paths:
            label = _label_of(path)
            picture = Picture(path, path.relative_to(root).as_posix(), shares=True)
            if label is None:
                bare.append(path)
                if said.get("skip_if_label_file_missing"):
                    continue
            else:
                used.add(label)
                _read_lines(root, label, picture, problems)
            found.setdefault(split, []).append(picture)
    refuse(root, "lines are no boxes `class x y width height` with shares of the image", problems,
           "export the labels again, centres and sizes divided by the image's")  # fmt: skip
    refuse_mixture(root, FORMAT, bare, {".xml": "Pascal VOC"}, folders_with(root))
    lonely = [p for p in below(root) if _is_label(p) and p not in used and _is_boxes(p)]
    lonely = [p for p in lonely if _image_of(p) is None]
    alone = [Spot(seen_from(root, path)) for path in lonely]
    remarks = left_out(alone, "text files have no image", "no image")
    remarks += left_out([*map(Spot, absent)], "images of the lists are not there", "not there")
    without = spots(root, bare)
    if bare and said.get("skip_if_label_file_missing"):
        remarks += left_out(without, "images have no text file", "no text file")
    elif bare:
        some = listed([spot.name for spot in without], 3)
        text = f"{len(bare)} images have no text file, so nothing is in them: {some}"
        remarks.append(Remark(text, True, "no text file", tuple(without)))
    return collect(root, FORMAT, found, names, remarks, outlined)


def _described(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The YAML file that speaks of classes and splits, and what it says."""
    for path in files_in(root, ".yaml", ".yml"):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, OSError):
            continue
        if isinstance(content, dict) and content.get("train") and {"names", "nc"} & set(content):
            return path, content
    return None


def _names(root: Path, about: Mapping[str, Any]) -> dict[ClassId, str]:
    """Number -> name, from the YAML file or from a list of names."""
    given = about.get("names")
    if isinstance(given, dict):
        return {int(key): str(name) for key, name in sorted(given.items())}
    if isinstance(given, list):
        return {i: str(name) for i, name in enumerate(given)}
    if isinstance(about.get("nc"), int):
        return {i: str(i) for i in range(about["nc"])}
    path = next((root / name for name in _NAME_FILES if (root / name).is_file()), None)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    return {i: line.strip() for i, line in enumerate(lines) if line.strip()}


def _from_yaml(
    root: Path, path: Path, about: Mapping[str, Any]
) -> tuple[dict[str, list[Path]], list[str]]:
    """Images by split, as the YAML file says; empty where none of its folders is there.

    Also the lines of its lists whose images are not there.
    """
    base = root / str(about.get("path") or "")
    found: dict[str, list[Path]] = {}
    absent: list[str] = []
    for split in ("train", "val", "test"):
        given = about.get(split)
        for entry in given if isinstance(given, list) else [given] if given else []:
            # exporters write `../train/images` for what lies beside the file; a link inside of the
            # folder may lead anywhere
            plain = str(entry).removeprefix("./")
            ways = [base / plain, root / plain, root / plain.replace("../", "")]
            place = next((p for p in ways if p.exists() and _is_inside(p, root)), None)
            if place is not None and place.is_dir():
                found.setdefault(split, []).extend(_images(place))
            elif place is not None:
                lines = place.read_text(encoding="utf-8").splitlines()
                paths = {line.strip(): place.parent / line.strip() for line in lines}
                there = [p for p in paths.values() if p.is_file()]
                found.setdefault(split, []).extend(there)
                absent += [line for line, p in paths.items() if line and not p.is_file()]
    return found, absent


def _is_inside(path: Path, root: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root))


def _from_folders(root: Path) -> dict[str, list[Path]]:
    """Images by split, as the names of the folders say."""
    found: dict[str, list[Path]] = {}
    for path in _images(root):
        folders = path.relative_to(root).parts[:-1]
        split = next((SPLITS[f.lower()] for f in folders if f.lower() in SPLITS), None)
        split = split or next((s for f in folders if (s := split_of(f))), ALL)
        found.setdefault(split, []).append(path)
    return found


def _images(place: Path) -> list[Path]:
    """The pictures below a folder, without those masks that lie beside some data sets."""
    return [
        path
        for path in below(place)
        if is_picture(path)
        and (_label_of(path) or not any(map(is_mask_folder, path.relative_to(place).parts[:-1])))
    ]


def _label_of(image: Path) -> Path | None:
    """Its text file: in `labels` where it is in `images`, else beside it."""
    parts = list(image.with_suffix(".txt").parts)
    ways = [image.with_suffix(".txt")]
    for place in reversed(range(len(parts) - 1)):
        if parts[place].lower() in ("images", "img", "imgs"):
            ways.insert(0, Path(*parts[:place], "labels", *parts[place + 1 :]))
            break
    return next((path for path in ways if path.is_file()), None)


def _image_of(label: Path) -> Path | None:
    """The image of a text file, by the same rule."""
    parts = list(label.parts)
    folders = [label.parent]
    for place in reversed(range(len(parts) - 1)):
        if parts[place].lower() == "labels":
            for name in ("images", "img", "imgs"):
                folders.insert(0, Path(*parts[:place], name, *parts[place + 1 : -1]))
            break
    for folder in folders:
        if folder.is_dir():
            for path in folder.glob(f"{label.stem}.*"):
                if is_picture(path):
                    return path
    return None


def _is_label(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and path.name.lower() not in _NOT_LABELS


def _is_boxes(path: Path) -> bool:
    """Whether the first line is a box."""
    with path.open("rb") as stream:
        words = stream.readline(2000).split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return False
    return len(numbers) >= 5 and numbers[0] == int(numbers[0])


def _read_lines(root: Path, label: Path, picture: Picture, problems: list[Remark]) -> None:
    """Add the boxes of a text file to its picture; lines that are none go to the problems."""
    picture.source = label.relative_to(root).as_posix()
    for number, line in enumerate(label.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            key, *values = (float(word) for word in words)
            corner = _corners(values)
            if key != int(key) or key < 0:
                raise ValueError(f"class {words[0]!r} is no whole number")
        except ValueError as error:
            text = f"{picture.source}:{number}: {error}"
            problems.append(fault(root, picture.path, text, "bad line"))
            continue
        picture.corners.append(corner)
        picture.ids.append(int(key))
        picture.annotations.append({"polygon": values} if len(values) > 4 else {})


def _corners(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Corners as shares, of a box or of a polygon."""
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not polygon:
        raise ValueError(f"{len(values) + 1} numbers; 5 are a box, 7, 9, 11 ... a polygon")
    if max(map(abs, values)) > 1 + _OVER:
        raise ValueError(f"{max(map(abs, values)):g} is no share of an image, which is 0 to 1")
    if polygon:
        xs, ys = values[::2], values[1::2]
        return min(xs), min(ys), max(xs), max(ys)
    x, y, wide, high = values
    return x - wide / 2, y - high / 2, x + wide / 2, y + high / 2
