"""Images with masks: two folders whose files have the same names.

The folders are found by their names, with splits above or below them: `train/images/1.jpg` and
`train/masks/1.png`, `images/train/` and `masks/train/`, `train/` and `trainannot/`, or two folders
alone. Pixels are class numbers (grey or palette) or colours. `classes.txt` beside them may name the
classes: one name a line, by number, or `name r g b` by colour; a class named void, ignore(d),
unlabelled or unlabeled counts for nothing, as does the number 255.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sinet.data.dataset import ALL, ClassId, ImageDataset, Split
from sinet.data.image import ORIENTATION_TAG, SUFFIXES, ImageError, opened
from sinet.data.masks import VOID, Mask, MaskFormat, is_coloured, presence, raw_pixels
from sinet.data.readers._layout import SPLITS, visible
from sinet.errors import DataError

FORMAT = "mask folders"
EXPECTS = "images/ and masks/ with files of the same names, in train/, val/, ... or alone"
TASK = "segment"

_IMAGES = re.compile(r"(images?|imgs?|photos?|jpegimages)", re.IGNORECASE)
_MASKS = re.compile(
    r"(masks?|labels?|annot(ation)?s?|gt|ground_?truth|segmentations?|segmentationclass)",
    re.IGNORECASE,
)
_IGNORED = re.compile(r"(void|ignored?|unlabell?ed)", re.IGNORECASE)
_ENDING = re.compile(r"(_mask|_label|_gt|_seg|_l|_labelids)$", re.IGNORECASE)
_SAMPLE, _MAX_CLASSES = 200, 255


def detect(root: Path) -> bool:
    """A folder of images and one of masks that have the same names."""
    return root.is_dir() and bool(_pairs(root))


def read(root: Path) -> ImageDataset:
    """Pair images and masks, learn the classes from the pixels, and check every mask.

    Raises:
        DataError: images without masks, unknown classes, or masks of another size.
    """
    found = {split: _matched(*folders) for split, folders in _pairs(root).items()}
    every = [mask for pairs in found.values() for _, mask in pairs]
    named = _named(root)
    form, classes, ids, notes = _learn(every, named)
    problems: list[str] = []
    splits = {
        split: _split(root, pairs, form, len(classes), problems) for split, pairs in found.items()
    }
    if problems:
        shown = "".join(f"\n  {line}" for line in problems[:5])
        more = f"\n  ... and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(f"{root}: {len(problems)} masks cannot be used:{shown}{more}")
    return ImageDataset(root, FORMAT, classes, ids, True, splits, notes=notes, task=TASK)


def _pairs(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> (folder of images, folder of masks)."""
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
        elif beside.is_dir() and _holds_pictures(part):
            pairs[split] = part, beside
    return pairs


def _two(folders: Sequence[Path]) -> tuple[Path, Path] | None:
    images = [path for path in folders if _IMAGES.fullmatch(path.name)]
    masks = [path for path in folders if _MASKS.fullmatch(path.name)]
    if not images or not masks or not _holds_pictures(masks[0], deep=True):
        return None
    return images[0], masks[0]


def _holds_pictures(folder: Path, deep: bool = False) -> bool:
    inside = visible(folder)
    if deep:
        inside += [p for part in inside if part.is_dir() for p in visible(part)[:50]]
    return any(path.suffix.lower() in SUFFIXES for path in inside)


def _matched(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Images with their masks, by name; that of a mask may end in `_mask` and the like."""
    known = {_ENDING.sub("", path.stem): path for path in _pictures(masks)}
    pairs = [(path, known[path.stem]) for path in _pictures(images) if path.stem in known]
    lonely = [path.name for path in _pictures(images) if path.stem not in known]
    if lonely:
        raise DataError(
            f"{len(lonely)} images in {images} have no mask of the same name in {masks}: "
            f"{', '.join(lonely[:5])}; add their masks or take the images out"
        )
    return pairs


def _pictures(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.suffix.lower() in SUFFIXES]


def _named(root: Path) -> dict[int, str]:
    """Pixel value -> class name as `classes.txt` has it; empty where there is none."""
    path = next((root / n for n in ("classes.txt", "labels.txt") if (root / n).is_file()), None)
    if path is None:
        return {}
    names: dict[int, str] = {}
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(line for line in lines if line):
        colour = re.fullmatch(r"(.+?)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+)", line)
        if colour:
            red, green, blue = (int(value) for value in colour.groups()[1:])
            names[65536 * red + 256 * green + blue] = colour[1]
        else:
            names[number] = line
    return names


def _learn(
    masks: Sequence[Path], named: Mapping[int, str]
) -> tuple[MaskFormat, list[str], list[ClassId], list[str]]:
    """The format of the masks, the class names, the user's ids, and what was decided."""
    some = [masks[int(i)] for i in np.unique(np.linspace(0, len(masks) - 1, _SAMPLE).astype(int))]
    colours = any(is_coloured(path) for path in some[:20])
    seen: set[int] = set()
    if not named:
        for path in masks:
            seen.update(int(v) for v in np.unique(raw_pixels(path, colours)))
            if len(seen) > _MAX_CLASSES + 1:
                raise DataError(
                    f"the masks have more than {_MAX_CLASSES} different "
                    f"{'colours' if colours else 'values'} ({path.name} among them), so they are "
                    "no class masks; save them as PNG, not JPEG, one value a class"
                )
    binary = not named and not colours and seen == {0, VOID}
    values = sorted(named or seen)
    if not colours and not binary and VOID not in values:
        values.append(VOID)
    form = MaskFormat(colours, tuple(values), ())
    names = {v: named.get(v, form.shown(v)) for v in values}
    if binary:
        names = {0: "background", VOID: "foreground"}
    ignored = {v for v in values if _IGNORED.fullmatch(names[v])}
    ignored |= {VOID} if not colours and not binary else set()
    kept = [v for v in values if v not in ignored]
    index = {v: i for i, v in enumerate(kept)}
    form = MaskFormat(colours, tuple(values), tuple(index.get(v, VOID) for v in values))
    notes = [f"masks of {'colours' if colours else 'numbers'}: {len(kept)} classes"]
    if shown := [form.shown(v) for v in sorted(ignored) if v in seen or v in named]:
        notes.append(f"pixels {', '.join(shown)} count for nothing")
    ids: list[ClassId] = [form.shown(v) if colours else v for v in kept]
    return form, [names[v] for v in kept], ids, notes


def _split(
    root: Path,
    pairs: Sequence[tuple[Path, Path]],
    form: MaskFormat,
    classes: int,
    problems: list[str],
) -> Split:
    """Images and masks of a split, with the classes that occur in each."""
    masks = [Mask(path.relative_to(root).as_posix(), path, form) for _, path in pairs]

    def look(i: int) -> np.ndarray | str:
        try:
            mask = masks[i].read()
            height, width = _shape(pairs[i][0])
        except ImageError as error:
            return f"{masks[i].name}: {error.reason}"
        except Exception:  # an unreadable image is reported where all of them are
            return np.asarray(presence([mask], classes)[0])
        if mask.shape != (height, width):
            given = f"{mask.shape[1]} x {mask.shape[0]}"
            return f"{masks[i].name}: {given} pixels, its image {width} x {height}"
        return np.asarray(presence([mask], classes)[0])

    labels = np.zeros((len(pairs), classes), dtype=np.float32)
    with ThreadPoolExecutor() as pool:
        for i, found in enumerate(pool.map(look, range(len(pairs)))):
            if isinstance(found, str):
                problems.append(found)
            else:
                labels[i] = found
    names = [path.relative_to(root).as_posix() for path, _ in pairs]
    return Split([path for path, _ in pairs], labels, names, targets=masks)


def _shape(path: Path) -> tuple[int, int]:
    """Height and width as `read_image` gives them, from the header alone."""
    image = opened(path)
    turned = image.getexif().get(ORIENTATION_TAG, 1) >= 5
    return (image.width, image.height) if turned else (image.height, image.width)
