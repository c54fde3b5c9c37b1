"""The list of the Medical Segmentation Decathlon, which MONAI uses too: one JSON file.

    {"labels": {"0": "background", "1": "Anterior"}, "modality": {"0": "MRI"},
     "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, ...],
     "validation": [...], "test": [...]}

Paths are relative to the file. Entries without a label (the decathlon's own `test`) are left out.
nnU-Net's way of writing labels, name to number, is read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sinet.data.dataset import ImageDataset
from sinet.data.readers._volumes import Pair, assembled
from sinet.data.remarks import Remark, Spot, left_out
from sinet.data.volumes import seen
from sinet.errors import DataError

FORMAT = "decathlon list"
EXPECTS = 'a JSON file (or dataset.json in a folder) with "training": [{"image", "label"}, ...]'
TASK = "volume"

_SPLITS = {"training": "train", "train": "train", "validation": "val", "val": "val", "test": "test"}


def detect(root: Path) -> bool:
    """A JSON file with lists of images and labels."""
    path = _list(root)
    return path is not None and bool(_entries(_content(path)))


def read(root: Path) -> ImageDataset:
    """Read the list; every volume and label map is looked at.

    Raises:
        DataError: files that do not exist, or maps that do not fit.
    """
    path = _list(root)
    assert path is not None
    content = _content(path)
    found: dict[str, list[Pair]] = {}
    bare: list[Spot] = []
    for key, entries in _entries(content).items():
        for entry in entries:
            if not (isinstance(entry, dict) and entry.get("label")):
                named = entry.get("image") if isinstance(entry, dict) else entry
                place = partial(seen, path.parent / named) if isinstance(named, str) else None
                bare.append(Spot(str(named), place))
                continue
            pair = tuple(_place(path, entry[kind]) for kind in ("image", "label"))
            found.setdefault(_SPLITS[key], []).append((pair[0], pair[1]))
    absent = [p for pairs in found.values() for pair in pairs for p in pair if not p.exists()]
    if absent:
        raise DataError(
            f"{path}: {len(absent)} files of the list do not exist, such as {absent[0]}; paths are "
            "relative to the list: put it beside its folders"
        )
    remarks = left_out(bare, "volumes have no label", "no label")
    remarks += [Remark(f"modality: {name}") for name in _modality(content)]
    return assembled(root, FORMAT, found, _labels(content), remarks)


def _list(root: Path) -> Path | None:
    if root.is_dir():
        inside = root / "dataset.json"
        return inside if inside.is_file() else None
    return root if root.suffix.lower() == ".json" else None


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _entries(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists of the splits; those without a single labelled volume are no data set."""
    lists = {k: v for k, v in content.items() if k in _SPLITS and isinstance(v, list)}
    pairs = [e for v in lists.values() for e in v if isinstance(e, dict)]
    return lists if any({"image", "label"} <= entry.keys() for entry in pairs) else {}


def _place(path: Path, name: object) -> Path:
    if not isinstance(name, str):
        raise DataError(
            f"{path}: {name!r} is not the path of one file; join the channels into one volume"
        )
    return path.parent / name


def _labels(content: Mapping[str, Any]) -> dict[int, str]:
    """Number -> name, whichever of the two comes first in the file; empty if there are none."""
    given = content.get("labels")
    if not isinstance(given, dict):
        return {}
    try:
        if all(isinstance(value, int) for value in given.values()):
            return {int(value): str(name) for name, value in given.items()}
        return {int(number): str(name) for number, name in given.items()}
    except (TypeError, ValueError):
        return {}


def _modality(content: Mapping[str, Any]) -> list[str]:
    given = content.get("modality", content.get("channel_names"))
    return [str(name) for name in given.values()] if isinstance(given, dict) else []
