"""Folders of volumes and label maps whose names agree.

`images/` and `labels/` alone or in `train/`, `val/`, `test/`, or the decathlon's `imagesTr/` and
`labelsTr/`, `imagesTs/` and `labelsTs/`. A volume is a NIfTI file, the folder of a DICOM series, or
one DICOM file of many frames; a label map is a NIfTI file. `classes.txt` may name the labels, one a
line, from 0 on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sinet.data.dataset import ALL, ImageDataset
from sinet.data.dicom import SUFFIXES as DICOM
from sinet.data.readers._layout import SPLITS, seen_from, spots, visible
from sinet.data.readers._volumes import Pair, assembled
from sinet.data.remarks import Remark, Spot, left_out
from sinet.data.volume_files import SUFFIXES, is_volume
from sinet.data.volumes import seen
from sinet.errors import DataError

FORMAT = "volume folders"
EXPECTS = "images/ and labels/ with NIfTI files (or DICOM folders) of the same names"
TASK = "volume"

_IMAGES = re.compile(r"(images?|imgs?|volumes?|scans?)", re.IGNORECASE)
_LABELS = re.compile(r"(labels?|masks?|segmentations?|annotations?|gt)", re.IGNORECASE)
_ENDING = re.compile(r"(_0000|_image|_img|_label|_labels|_seg|_mask|_gt)$", re.IGNORECASE)


def detect(root: Path) -> bool:
    """A folder of volumes and one of label maps."""
    return root.is_dir() and bool(_folders(root))


def read(root: Path) -> ImageDataset:
    """Pair volumes and label maps by name.

    Raises:
        DataError: a volume without a map, or one that does not fit.
    """
    folders = _folders(root)
    maps = {split: _maps(labels) for split, (_, labels) in folders.items()}
    found = {split: _matched(*folders[split], maps[split]) for split in folders}
    used = {path for pairs in found.values() for _, path in pairs}
    lonely = [p for paths in maps.values() for p in paths if p not in used]
    alone = [Spot(seen_from(root, path)) for path in lonely]
    remarks = left_out(alone, "label maps have no volume of their own", "no volume")
    path = root / "classes.txt"
    named: dict[int, str] = {}
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        named = dict(enumerate(line.strip() for line in lines if line.strip()))
    return assembled(root, FORMAT, found, named, remarks)


def _folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> (volumes, label maps)."""
    found: dict[str, tuple[Path, Path]] = {}
    for split, ending in (("train", "Tr"), ("val", "Val"), ("test", "Ts")):
        both = root / f"images{ending}", root / f"labels{ending}"
        if all(path.is_dir() for path in both):
            found[split] = both
    if found:
        return found
    both_here = _two(root)
    if both_here is not None:
        parts = {
            SPLITS[p.name.lower()]: p for p in _inside(both_here[0]) if p.name.lower() in SPLITS
        }
        maps = both_here[1]
        inner = {s: (p, maps / p.name) for s, p in parts.items() if (maps / p.name).is_dir()}
        return inner or {ALL: both_here}
    for part in _inside(root):
        if part.name.lower() in SPLITS and (two := _two(part)):
            found[SPLITS[part.name.lower()]] = two
    return found


def _inside(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def _two(folder: Path) -> tuple[Path, Path] | None:
    images = [path for path in _inside(folder) if _IMAGES.fullmatch(path.name)]
    labels = [path for path in _inside(folder) if _LABELS.fullmatch(path.name)]
    if not images or not labels:
        return None
    looked = [*visible(labels[0])[:20], *(p for f in _inside(labels[0]) for p in visible(f)[:20])]
    return (images[0], labels[0]) if any(p.is_file() and is_volume(p) for p in looked) else None


def _key(path: Path) -> str:
    endings = "|".join(re.escape(ending) for ending in (*SUFFIXES, *DICOM))
    stem = path.name if path.is_dir() else re.sub(f"({endings})$", "", path.name)
    return _ENDING.sub("", stem)


def _maps(labels: Path) -> list[Path]:
    return [path for path in visible(labels) if path.is_file() and is_volume(path)]


def _matched(images: Path, labels: Path, paths: Sequence[Path]) -> list[Pair]:
    """Volumes and label maps of the same names.

    Args:
        images: the folder of the volumes.
        labels: the folder of the label maps.
        paths: the label maps in it.

    Raises:
        DataError: a volume without a map.
    """
    maps = {_key(path): path for path in paths}
    volumes = [path for path in visible(images) if is_volume(path)]
    lonely = [path for path in volumes if _key(path) not in maps]
    if lonely:
        said = f"{len(lonely)} volumes in {images} have no label map of the same name in {labels}"
        some = ", ".join(path.name for path in lonely[:5])
        raise DataError(
            f"{said}: {some}; add their maps or take the volumes out",
            [Remark(said, True, "no label map", tuple(spots(images.parent, lonely, seen)))],
        )
    return [(path, maps[_key(path)]) for path in volumes]
