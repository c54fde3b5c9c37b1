"""Hyperspectral scenes beside maps of their labels: `PaviaU.mat` and `PaviaU_gt.mat`.

The map has the scene's name and `_gt` (or `_labels`, `_mask`); 0 means unlabelled. Maps that end in
`_gt_train`, `_gt_val` or `_gt_test` say which pixels are for what. Without them the pixels of each
class are drawn once, with the published seed: up to 200 to learn from (half of them where there
are less), up to 50 to choose by, the others to report on. `classes.txt` may name the classes, from
1 on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sinet.data.cubes import Array, CubeSplit, PixelLabels, is_cube, read_cube, seen
from sinet.data.dataset import ClassId, ImageDataset, Split
from sinet.data.masks import VOID, presence
from sinet.data.readers._layout import showing, spots, visible
from sinet.data.remarks import Remark, Spot, left_out
from sinet.errors import DataError

FORMAT = "hyperspectral scenes"
EXPECTS = "NAME.mat, .npy or ENVI .hdr beside NAME_gt.mat or .npy, a map of labels"
TASK = "hyperspectral"

TRAIN, VAL = 200, 50
"""Pixels of a class to learn from and to choose by."""
SEED = 2333

_MAP = re.compile(r"(.+?)_(?:gt|labels?|mask)(?:_(train|val|test))?$", re.IGNORECASE)
Scene = tuple[Path, dict[str, Path]]
Place = tuple[Path, npt.NDArray[np.intp] | None]


def detect(root: Path) -> bool:
    """A scene and its map, in a folder, or the scene itself with its map beside it."""
    return bool(_scenes(root))


def read(root: Path) -> ImageDataset:
    """Read the maps and divide the labelled pixels.

    Raises:
        DataError: a map of another shape than its scene, scenes of different bands, or no labels.
    """
    scenes = _scenes(root)
    maps = {path: read_cube(path, axes=2) for _, both in scenes for path in both.values()}
    _check_shapes(scenes, maps)
    values = sorted({int(v) for found in maps.values() for v in np.unique(found) if v > 0})
    if len(values) < 2 or len(values) > VOID - 1:
        raise DataError(
            f"{root}: the maps hold {len(values)} labels above 0; at least two are needed, "
            f"{VOID - 1} at most"
        )
    parts: dict[str, list[tuple[Path, PixelLabels]]] = {}
    one = "one scene, its pixels divided"
    remarks = [Remark(f"{len(scenes)} scenes" if len(scenes) > 1 else one)]
    for scene, both in scenes:
        given: dict[str, Place] = {s: (path, None) for s, path in both.items() if s}
        drawn: dict[str, Place] = given or {
            split: (both[""], pixels) for split, pixels in divided(maps[both[""]]).items()
        }
        for split, (path, pixels) in drawn.items():
            labels = PixelLabels.of(f"{path.name}:{split}", path, tuple(values), pixels)
            parts.setdefault(split, []).append((scene, labels))
    if not any(split for _, both in scenes for split in both):
        remarks.append(Remark(
            f"up to {TRAIN} pixels of each class to learn from, seed {SEED}; those to test on lie "
            "next to them, which flatters every model"
        ))  # fmt: skip
    splits = {name: _split(name, rows) for name, rows in parts.items()}
    ids: list[ClassId] = list(values)
    named = _named(root)
    remarks += _unnamed(values, named, splits) + _alone(root, scenes)
    names = [named.get(v, f"class {v}") for v in values]
    return ImageDataset(root, FORMAT, names, ids, True, dict(splits), remarks=remarks, task=TASK)


def _check_shapes(scenes: Sequence[Scene], maps: Mapping[Path, Array]) -> None:
    """Refuse a map of another shape than its scene, and a scene of other bands than most.

    Raises:
        DataError: naming the file, both shapes or counts, and what to do.
    """
    shapes = {scene: read_cube(scene).shape for scene, _ in scenes}
    for scene, both in scenes:
        for path in both.values():
            if maps[path].shape != (sides := shapes[scene][:2]):
                said = f"{path} is {maps[path].shape}, its scene {sides}"
                raise DataError(f"{said}; give its own map", [_drawn(said, "other size", [scene])])
    counts = Counter(shape[2] for shape in shapes.values())
    usual = counts.most_common(1)[0][0]
    other = [scene for scene, shape in shapes.items() if shape[2] != usual]
    if other:
        said = (
            f"{other[0]} has {shapes[other[0]][2]} bands, {counts[usual]} of {len(scenes)} scenes "
            f"have {usual}"
        )
        raise DataError(
            f"{said}; a model takes one number of bands: keep the same bands of all scenes, or put "
            "those of another sensor into a folder of their own",
            [_drawn(said, "other bands", other)],
        )


def _drawn(text: str, short: str, scenes: Sequence[Path]) -> Remark:
    """What is wrong with scenes, which can be drawn."""
    where = [spot for scene in scenes for spot in spots(scene.parent, [scene], seen)]
    return Remark(text, True, short, tuple(where))


def _split(split: str, rows: Sequence[tuple[Path, PixelLabels]]) -> CubeSplit:
    targets = [labels for _, labels in rows]
    masks = [labels.read() for labels in targets]
    there = presence(masks, len(targets[0].values))
    names = [f"{scene.name}:{split}" for scene, _ in rows]
    return CubeSplit([scene for scene, _ in rows], there, names, targets=targets)


def divided(labels: npt.NDArray[np.integer]) -> dict[str, npt.NDArray[np.intp]]:
    """Flat indices of the pixels to learn from, to choose by and to report on."""
    random = np.random.RandomState(SEED)  # not a Generator: the published split comes of this one
    found: dict[str, list[npt.NDArray[np.intp]]] = {"train": [], "val": [], "test": []}
    for label in np.unique(labels[labels > 0]):
        pixels = np.flatnonzero(labels == label)
        random.shuffle(pixels)
        first = min(TRAIN, max(1, len(pixels) // 2))
        second = first + min(VAL, (len(pixels) - first) // 2)
        for split, part in zip(found, np.split(pixels, [first, second]), strict=True):
            found[split].append(part)
    return {split: np.sort(np.concatenate(parts)) for split, parts in found.items()}


def _scenes(root: Path) -> list[Scene]:
    """Scenes with their maps by split; "" where one map holds all."""
    folder = root if root.is_dir() else root.parent
    if not root.is_dir() and not (root.is_file() and is_cube(root)):
        return []
    files = [path for path in visible(folder) if path.is_file() and is_cube(path)]
    maps = [(match, path) for path in files if (match := _MAP.match(path.stem))]
    cubes = [path for path in files if not _MAP.match(path.stem)]
    found: dict[Path, dict[str, Path]] = {}
    for match, path in maps:
        fitting = [c for c in cubes if c.stem.lower().startswith(match[1].lower())]
        if root.is_file():
            fitting = [c for c in fitting if c == root]
        if fitting:  # `Salinas_corrected` rather than `Salinas`, whose noisy bands are still there
            scene = max(fitting, key=lambda c: ("corrected" in c.stem.lower(), -len(c.stem)))
            found.setdefault(scene, {})[(match[2] or "").lower()] = path
    return sorted(found.items())


def _alone(root: Path, scenes: Sequence[Scene]) -> list[Remark]:
    """A remark on files of a folder that are neither a scene with a map nor its map."""
    used = {path for scene, both in scenes for path in (scene, *both.values())}
    files = [path for path in visible(root) if path.is_file()] if root.is_dir() else []
    rest = [Spot(path.name) for path in files if is_cube(path) and path not in used]
    return left_out(rest, "files are no pair of a scene and its map", "no pair")


def _named(root: Path) -> dict[int, str]:
    """Label -> name, as `classes.txt` has them; empty where there is none."""
    path = (root if root.is_dir() else root.parent) / "classes.txt"
    if not path.is_file():
        return {}
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return dict(enumerate((line for line in lines if line), 1))


def _unnamed(
    values: Sequence[int], named: Mapping[int, str], splits: Mapping[str, Split]
) -> list[Remark]:
    """A remark on labels that `classes.txt` does not name, if there is one."""
    strange = [i for i, value in enumerate(values) if value not in named]
    if not named or not strange:
        return []
    holders = showing(splits, strange)
    text = (
        f"labels {', '.join(str(values[i]) for i in strange)} have no name in classes.txt and are "
        f"called by their number, such as in {holders[0].name}"
    )
    return [Remark(text, True, "class unnamed", holders)]
