"""COCO: one JSON file a split, with images, categories and boxes (x, y, width, height) in pixels.

`annotations/instances_train2017.json` beside `train2017/`; `train/_annotations.coco.json` among its
images; or one JSON file above or beside a folder of images. Whatever else an annotation holds,
polygons and run lengths included, stays reachable in `Boxes.annotations`; with `--task instances`
they are what is learned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    unlisted,
)
from sinet.data.readers._layout import fault, refuse, spots
from sinet.data.remarks import Remark, Spot, left_out
from sinet.errors import DataError

FORMAT = "COCO"
EXPECTS = "annotations/*.json (images, annotations, categories) and folders of images"
TASK = "detect"

_HEAD = 1 << 16
_KEYS = re.compile(rb'"(images|annotations|categories|licenses|info)"\s*:')


def detect(root: Path) -> bool:
    """A JSON file, at most two levels down, that begins as COCO's do."""
    return root.is_dir() and bool(_files(root))


def read(root: Path, outlined: bool = False) -> ImageDataset:
    """Read every split's file and find its images.

    Args:
        root: of the data set.
        outlined: keep polygons and run lengths, for `--task instances`.

    Raises:
        DataError: malformed JSON, several files for one split, or two formats mixed.
    """
    images = [path for path in below(root) if is_picture(path)]
    found: dict[str, list[Picture]] = {}
    names: dict[ClassId, str] = {}
    remarks: list[Remark] = []
    for split, path in _chosen(root).items():
        content = load(root, path)
        learn_names(root, path, content["categories"], names)
        found[split] = _pictures(root, path, split, content, images, remarks)
    used = {picture.path for pictures in found.values() for picture in pictures}
    homes = {path.parent for path in used}
    bare = unlisted(used)
    beside = [folder for folder in folders_with(root) if folder not in homes]
    refuse_mixture(root, FORMAT, bare, {".xml": "Pascal VOC", ".txt": "YOLO txt"}, beside)
    remarks += left_out(spots(root, bare), "images are in no JSON file", "in no JSON file")
    ordered = {key: names[key] for key in sorted(names, key=order)}
    return collect(root, FORMAT, found, ordered, remarks, outlined)


def order(key: ClassId) -> tuple[bool, Any]:
    """Where a class id stands among others: numbers first."""
    return isinstance(key, str), key


def _files(root: Path) -> list[Path]:
    found = []
    for path in (p for folder in folders_with(root) for p in files_in(folder, ".json")):
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        if not _KEYS.search(head) or path.name.startswith("stuff_"):
            continue
        # captions and bare lists of images have no boxes; the words may come late in a file
        content = head if len(head) < _HEAD else path.read_bytes()
        if b'"bbox"' in content and b'"segments_info"' not in content:
            found.append(path)
    return found


def _chosen(root: Path) -> dict[str, Path]:
    """Split -> its file: `instances_*` where a split has several."""
    by_split: dict[str, list[Path]] = {}
    for path in _files(root):
        folders = path.relative_to(root).parts[:-1]
        names = [path.stem, *reversed(folders)]
        by_split.setdefault(next((s for n in names if (s := split_of(n))), ALL), []).append(path)
    chosen = {}
    for split, paths in by_split.items():
        best = [path for path in paths if path.name.startswith("instances")] or paths
        if len(best) > 1:
            given = ", ".join(path.relative_to(root).as_posix() for path in best[:5])
            what = "the images" if split == ALL else split
            raise DataError(
                f"{root}: {len(best)} COCO files for {what}: {given}; keep one, or name them "
                "after their splits, such as instances_train.json"
            )
        chosen[split] = best[0]
    return chosen


def load(root: Path, path: Path) -> dict[str, Any]:
    """The content of a COCO file.

    Raises:
        DataError: malformed, or without one of the three lists.
    """
    name = path.relative_to(root).as_posix()
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{root}: {name} is not valid JSON: {error}; export it again") from error
    lists = ("images", "annotations", "categories")
    bad = [
        k for k in lists if not isinstance(content, dict) or not isinstance(content.get(k), list)
    ]
    if bad:
        raise DataError(f"{root}: {name} has no list {' and no list '.join(bad)}; a COCO file has "
                        "images, annotations and categories: export it again")  # fmt: skip
    return dict(content)


def learn_names(
    root: Path, path: Path, categories: Sequence[Mapping[str, Any]], names: dict[ClassId, str]
) -> None:
    """Add the names of a file's categories to those known.

    Raises:
        DataError: two files call one id by two names.
    """
    for entry in categories:
        key, name = entry.get("id"), str(entry.get("name", "")).strip()
        if not isinstance(key, int | str) or not name:
            continue  # an id without a name is called by its number
        if names.setdefault(key, name) != name:
            raise DataError(
                f"{root}: class {key} is {names[key]!r} in one file and {name!r} in "
                f"{path.relative_to(root)}; give each class one name"
            )


def _pictures(
    root: Path,
    path: Path,
    split: str,
    content: Mapping[str, Any],
    images: Sequence[Path],
    remarks: list[Remark],
) -> list[Picture]:
    """The images of one file with their boxes; what does not fit together is noted."""
    name = path.relative_to(root).as_posix()
    places = Places(images, path, split)
    known: dict[Any, Picture] = {}
    absent: dict[Any, str] = {}
    for entry in content["images"]:
        file, key = str(entry.get("file_name", "")), entry.get("id")
        if key in known or key in absent:
            said = f"{root}: {name} has image id {key!r} twice ({file})"
            twice = [known[key].path] if key in known else []
            raise DataError(
                f"{said}; give each image an id of its own",
                [fault(root, path, said, "id twice") for path in twice],
            )
        place = places.find(file)
        if place is None:
            absent[key] = file
            continue
        size = (entry.get("height") or 0, entry.get("width") or 0)
        known[key] = Picture(place, f"{name} ({file})", size=size if min(size) > 0 else None)
    problems: list[Remark] = []
    lost = []
    for entry in content["annotations"]:
        key = entry.get("image_id")
        box, label = entry.get("bbox"), entry.get("category_id")
        if key not in known:
            if key not in absent:
                lost.append(f"annotation {entry.get('id')} of image id {key}")
        elif not _is_box(box) or not isinstance(label, int | str):
            what = "bbox" if not _is_box(box) else "category_id"
            text = f"{name}, annotation {entry.get('id')}: {what} is {entry.get(what)!r}"
            problems.append(fault(root, known[key].path, text, f"bad {what}"))
        else:
            picture, (x, y, wide, high) = known[key], box
            picture.corners.append((x, y, x + wide, y + high))
            picture.ids.append(label)
            picture.crowd.append(bool(entry.get("iscrowd", 0)))
            picture.annotations.append(entry)
    refuse(root, "annotations cannot be read", problems, "correct them, or take them out")
    alone, gone = map(Spot, lost), map(Spot, absent.values())
    remarks += left_out([*alone], f"annotations of {name} belong to no image", "no image")
    remarks += left_out([*gone], f"images of {name} are not there", "not there")
    return list(known.values())


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)


class Places:
    """Finds the files that a JSON file speaks of, wherever its images were put."""

    def __init__(self, images: Sequence[Path], path: Path, split: str) -> None:
        self.home, self.split = path.parent, split
        self.known = set(images)
        self.by_name: dict[str, list[Path]] = {}
        for image in images:
            self.by_name.setdefault(image.name, []).append(image)

    def find(self, file: str) -> Path | None:
        """The file's path as it is written, else the file of that name in the likeliest folder."""
        if (exact := self.home / file) in self.known:
            return exact
        named = self.by_name.get(Path(file.replace("\\", "/")).name, [])
        return max(named, key=self._likely) if named else None

    def _likely(self, path: Path) -> tuple[bool, int]:
        in_split = any(split_of(part) == self.split for part in path.parts[:-1])
        return in_split, len(set(path.parts) & set(self.home.parts))
