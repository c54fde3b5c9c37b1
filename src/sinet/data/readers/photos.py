"""Photographs for super-resolution; any pictures are, so they are read so only on demand.

Either photographs alone, anywhere below the folder or below its `train`, `val` and `test`: their
small versions are made by bicubic interpolation, half the size unless a file `scale.txt` beside
them holds another number. Or two folders, `HR` and `LR`, with files of the same names (`0001.png`
and `0001x2.png` count as the same), alone or inside the splits.

Such data have one class, the enlargement: `x2` with the id 2. So a model of another enlargement is
refused like one of other classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sinet.data.dataset import ALL, ImageDataset, Split
from sinet.data.image import SUFFIXES, upright_size
from sinet.data.photos import Photo
from sinet.data.readers._layout import SPLITS, fault, spots, visible
from sinet.data.remarks import Remark, left_out
from sinet.data.views import Smaller, ViewedSplit
from sinet.errors import DataError

FORMAT = "photographs"
EXPECTS = "photographs in any folders, in train/, val/, ... or alone; or HR/ and LR/ of equal names"
TASK = "superres"
ASKED = True
"""Any folder of pictures would do, so this reader looks only when its task is named."""

SCALES = (2, 3, 4)
_LARGE = re.compile(r"(hr|gt|gtmod12|high|large|.*_hr)", re.IGNORECASE)
_SMALL = re.compile(r"(lr(bicx?\d)?|low|small|.*_lr(_.*)?)", re.IGNORECASE)
_ENDING = re.compile(r"(_?x\d|_lr|_hr)$", re.IGNORECASE)


def detect(root: Path) -> bool:
    """A folder with a picture somewhere below it."""
    return root.is_dir() and next(_walk(root), None) is not None


def read(root: Path) -> ImageDataset:
    """Pair large and small pictures, or list the photographs.

    Raises:
        DataError: pictures without a partner, sizes that do not fit, or an odd `scale.txt`.
    """
    parts = _splits(root) or {ALL: root}
    pairs = {name: found for name, part in parts.items() if (found := _two(part))}
    if pairs and len(pairs) < len(parts):
        alone = ", ".join(sorted(set(parts) - set(pairs)))
        raise DataError(f"{root}: {alone} has no HR/ and LR/ as the other splits have; add them")
    if pairs:
        matched = {name: _matched(*folders) for name, folders in pairs.items()}
        scale = _common_scale(matched)
        splits = {name: _paired(root, found, scale) for name, found in matched.items()}
        remarks = [Remark(f"pairs of pictures, {scale} times larger")]
        large = [path for folder, _ in pairs.values() for path in _walk(folder)]
        used = {path for found in matched.values() for _, path in found}
        bare = spots(root, [path for path in large if path not in used])
        remarks += left_out(bare, "large pictures have no small one", "no small one")
    else:
        scale = _wanted_scale(root)
        splits = {name: _made(root, list(_walk(part)), scale) for name, part in parts.items()}
        said = f"small pictures are made {scale} times smaller, by antialiased bicubic"
        remarks = [Remark(said)]
    names = [f"x{scale}"]
    return ImageDataset(root, FORMAT, names, [scale], True, splits, remarks=remarks, task=TASK)


def _splits(root: Path) -> dict[str, Path]:
    """The folders named after splits, when a training split is among them."""
    folders = [path for path in visible(root) if path.is_dir()]
    named = {SPLITS[path.name.lower()]: path for path in folders if path.name.lower() in SPLITS}
    return named if "train" in named else {}


def _two(folder: Path) -> tuple[Path, Path] | None:
    """The folders of large and of small pictures."""
    inside = [path for path in visible(folder) if path.is_dir()]
    large = [path for path in inside if _LARGE.fullmatch(path.name)]
    small = [path for path in inside if _SMALL.fullmatch(path.name)]
    return (large[0], _only(small[0])) if large and small else None


def _only(folder: Path) -> Path:
    """The folder, or the only one inside it, such as `X2`."""
    inside = visible(folder)
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _walk(root: Path) -> Iterator[Path]:
    """Pictures below a folder, in order."""
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(parent, name)


def _wanted_scale(root: Path) -> int:
    path = root / "scale.txt"
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else str(SCALES[0])
    if not text.isdigit() or int(text) not in SCALES:
        raise DataError(
            f"{path} holds {text[:20]!r}; one of {', '.join(map(str, SCALES))} expected"
        )
    return int(text)


def _made(root: Path, paths: Sequence[Path], scale: int) -> Split:
    names = [path.relative_to(root).as_posix() for path in paths]
    targets = [Photo(name, path, scale) for name, path in zip(names, paths, strict=True)]
    views = [Smaller(scale)] * len(paths)
    return ViewedSplit(list(paths), _labels(paths), names, targets=targets, views=views)


def _matched(large: Path, small: Path) -> list[tuple[Path, Path]]:
    """(small, large) by name."""
    known = {_ENDING.sub("", path.stem): path for path in _walk(large)}
    pairs = [(path, known.get(_ENDING.sub("", path.stem))) for path in _walk(small)]
    lonely = [path for path, other in pairs if other is None]
    if lonely or not pairs:
        said = f"{len(lonely)} pictures in {small} have no large one of the same name in {large}"
        some = ", ".join(path.name for path in lonely[:5])
        raise DataError(
            f"{said}: {some}; add the large ones or take the small ones out",
            [Remark(said, True, "no large one", tuple(spots(small.parent, lonely)))],
        )
    return [(path, other) for path, other in pairs if other is not None]


def _common_scale(matched: dict[str, list[tuple[Path, Path]]]) -> int:
    """How many times larger all large pictures are."""
    every = [pair for pairs in matched.values() for pair in pairs]
    small, large = (upright_size(path) for path in every[0])
    scale = round(large[0] / max(1, small[0]))
    for lr, hr in every:
        small, large = upright_size(lr), upright_size(hr)
        if scale not in SCALES or small != (large[0] // scale, large[1] // scale):
            said = f"{hr} has {large[1]} x {large[0]} pixels and {lr} {small[1]} x {small[0]}"
            raise DataError(
                f"{said}; all large pictures must be the same {', '.join(map(str, SCALES))} times "
                "larger",
                [fault(hr.parent.parent, hr, said, "other size")],
            )
    return scale


def _paired(root: Path, pairs: Sequence[tuple[Path, Path]], scale: int) -> Split:
    paths = [small for small, _ in pairs]
    names = [path.relative_to(root).as_posix() for path in paths]
    targets = [Photo(hr.relative_to(root).as_posix(), hr, scale) for _, hr in pairs]
    return Split(list(paths), _labels(paths), names, targets=targets)


def _labels(paths: Sequence[Path]) -> np.ndarray:
    return np.ones((len(paths), 1), dtype=np.float32)
