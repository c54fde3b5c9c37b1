"""Images with masks: two folders whose files have the same names.

The folders are found by their names, with splits above or below them: `train/images/1.jpg` and
`train/masks/1.png`, `images/train/` and `masks/train/`, `train/` and `trainannot/`, or two folders
alone. Pixels are class numbers (grey or palette) or colours. `classes.txt` beside them may name the
classes: one name a line, by number, or `name r g b` by colour; a class named void, ignore(d),
unlabelled or unlabeled counts for nothing, as does the number 255.

A YAML file may say the same in other words: `train: {images: FOLDER, masks: FOLDER}`, likewise for
val and test, and `classes: {number: name}`. Its folders may lie elsewhere, and images that have no
mask there are left out; likewise of Pascal VOC's `SegmentationClass/`, which holds masks of some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sinet.data.dataset import ALL, ClassId, ImageDataset, Split
from sinet.data.image import ORIENTATION_TAG, SUFFIXES, ImageError, opened
from sinet.data.masks import VOID, Mask, MaskFormat, is_coloured, presence, raw_pixels
from sinet.data.readers._layout import SPLITS, seen_from, spots, visible
from sinet.data.remarks import Remark, Spot, left_out
from sinet.errors import DataError

FORMAT = "mask folders"
EXPECTS = "images/ and masks/ with files of the same names, in train/, val/, ... or alone"
TASK = "segment"

_IMAGES = re.compile(r"(images?|imgs?|photos?|jpegimages)", re.IGNORECASE)
_MASKS = re.compile(
    r"(masks?|labels?|annot(ation)?s?|gt|ground_?truth|segmentations?|segmentationclass)",
    re.IGNORECASE,
)
_OF_SOME = "segmentationclass"
_OF_OBJECTS = "segmentationobject"
_IGNORED = re.compile(r"(void|ignored?|unlabell?ed)", re.IGNORECASE)
_ENDING = re.compile(r"(_mask|_label|_gt|_seg|_l|_labelids)$", re.IGNORECASE)
_SAMPLE, _MAX_CLASSES = 200, 255


def detect(root: Path) -> bool:
    """A folder of images and one of masks that have the same names, or a YAML file that says so."""
    if not root.is_dir():
        return False
    about = described(root)
    return "annotations" not in about["train"] if about else bool(folder_pairs(root))


def read(root: Path) -> ImageDataset:
    """Pair images and masks, learn the classes from the pixels, and check every mask.

    Raises:
        DataError: images without masks, unknown classes, or masks of another size.
    """
    about = described(root)
    folders = _said(root, about) if about else folder_pairs(root)
    every = not about and all(m.name.lower() != _OF_SOME for _, m in folders.values())
    found = {split: matched(*pair, every) for split, pair in folders.items()}
    named = _classes(about) if about else _named(root)
    masks = [mask for pairs in found.values() for _, mask in pairs]
    form, classes, ids, remarks = _learn(masks, named)
    for pair in folders.values():
        remarks += said_of_lonely(root, without_image(*pair))
        remarks += left_out(spots(root, without_mask(*pair)), "images have no mask", "no mask")
    problems: list[str] = []
    splits = {
        split: _split(root, pairs, form, len(classes), problems) for split, pairs in found.items()
    }
    refuse_masks(root, problems)
    return ImageDataset(root, FORMAT, classes, ids, True, splits, remarks=remarks, task=TASK)


def refuse_masks(root: Path, problems: Sequence[str]) -> None:
    """Raise a DataError that lists the first masks that cannot be used, if there are any."""
    if problems:
        shown = "".join(f"\n  {line}" for line in problems[:5])
        more = f"\n  ... and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(
            f"{root}: {len(problems)} masks cannot be used:{shown}{more}\nexport these again, in "
            "the size of their images and with known classes only, or take them and their images "
            "out"
        )


def described(root: Path) -> dict[str, Any]:
    """What a YAML file says of images, masks and classes; empty where there is none."""
    for path in (p for p in visible(root) if p.suffix.lower() in (".yaml", ".yml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, OSError):
            continue
        train = content.get("train") if isinstance(content, dict) else None
        if isinstance(train, dict) and {"images", "masks"} <= set(train):
            return dict(content)
    return {}


def _said(root: Path, about: Mapping[str, Any]) -> dict[str, tuple[Path, Path]]:
    """Split -> (folder of images, folder of masks), as a YAML file has them."""
    pairs = {}
    for split in ("train", "val", "test"):
        if split in about:
            images, masks = (root / str(about[split][key]) for key in ("images", "masks"))
            absent = [str(path) for path in (images, masks) if not path.is_dir()]
            if absent:
                raise DataError(f"{root}: the YAML file speaks of {' and '.join(absent)}, which is "
                                "not there; put it there or correct the file")  # fmt: skip
            pairs[split] = images, masks
    return pairs


def _classes(about: Mapping[str, Any]) -> dict[int, str]:
    given = about.get("classes") or {}
    return {int(key): str(name) for key, name in dict(given).items()}


def folder_pairs(
    root: Path, image_names: re.Pattern[str] = _IMAGES, mask_names: re.Pattern[str] = _MASKS
) -> dict[str, tuple[Path, Path]]:
    """Split -> (folder of images, folder of masks), found by the names of folders."""

    def _two(inside: Sequence[Path]) -> tuple[Path, Path] | None:
        images = [path for path in inside if image_names.fullmatch(path.name)]
        # of several, such as the text files of `labels` beside `masks`, the one with pictures
        masks = [path for path in inside if mask_names.fullmatch(path.name)]
        masks = [path for path in masks if _holds_pictures(path, deep=True)]
        return (images[0], masks[0]) if images and masks else None

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
        elif mask_names is _MASKS and beside.is_dir() and _holds_pictures(part):
            pairs[split] = part, beside
    return pairs


def _holds_pictures(folder: Path, deep: bool = False) -> bool:
    inside = visible(folder)
    if deep:
        inside += [p for part in inside if part.is_dir() for p in visible(part)[:50]]
    return any(path.suffix.lower() in SUFFIXES for path in inside)


def masks_by_name(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by the name of their image; theirs may end in `_mask` and such."""
    return {_ENDING.sub("", path.stem): path for path in pictures(folder)}


def matched(images: Path, masks: Path, every: bool = True) -> list[tuple[Path, Path]]:
    """Images with their masks, by name.

    Raises:
        DataError: none has a mask, or not `every` one.
    """
    known = masks_by_name(masks)
    pairs = [(path, known[path.stem]) for path in pictures(images) if path.stem in known]
    bare = without_mask(images, masks)
    if bare and (every or not pairs):
        raise DataError(
            f"{len(bare)} images in {images} have no mask of the same name in {masks}: "
            f"{', '.join(path.name for path in bare[:5])}; add their masks or take the images out"
        )
    return pairs


def without_mask(images: Path, masks: Path) -> list[Path]:
    """The images of a folder whose names no mask has."""
    known = masks_by_name(masks)
    return [path for path in pictures(images) if path.stem not in known]


def without_image(images: Path, masks: Path) -> list[Path]:
    """The masks of a folder that belong to no image, second ones of an image among them."""
    known = {path.stem for path in pictures(images)}
    used = {path for stem, path in masks_by_name(masks).items() if stem in known}
    return [path for path in pictures(masks) if path not in used]


def said_of_lonely(root: Path, masks: Sequence[Path]) -> list[Remark]:
    """A remark on masks that belong to no image."""
    alone = [Spot(seen_from(root, path)) for path in masks]
    return left_out(alone, "masks have no image of their own", "no image")


def is_mask_folder(name: str) -> bool:
    """Whether a folder of this name holds masks, not images."""
    return name.lower() == _OF_OBJECTS or _MASKS.fullmatch(name) is not None


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
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
) -> tuple[MaskFormat, list[str], list[ClassId], list[Remark]]:
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
    said = [Remark(f"masks of {'colours' if colours else 'numbers'}: {len(kept)} classes")]
    if shown := [form.shown(v) for v in sorted(ignored) if v in seen or v in named]:
        said.append(Remark(f"pixels {', '.join(shown)} count for nothing"))
    ids: list[ClassId] = [form.shown(v) if colours else v for v in kept]
    return form, [names[v] for v in kept], ids, said


def _split(
    root: Path,
    pairs: Sequence[tuple[Path, Path]],
    form: MaskFormat,
    classes: int,
    problems: list[str],
) -> Split:
    """Images and masks of a split, with the classes that occur in each."""
    masks = [Mask(seen_from(root, path), path, form) for _, path in pairs]
    return checked(root, [path for path, _ in pairs], masks, classes, problems)


def checked(
    root: Path, images: Sequence[Path], masks: Sequence[Any], classes: int, problems: list[str]
) -> Split:
    """A split of images and masks, each of which is read once; what is wrong is noted.

    Args:
        root: of the data set.
        images: files.
        masks: one an image, with a name and `read()`.
        classes: how many there are.
        problems: receives a line for each mask that cannot be used.
    """

    def look(i: int) -> np.ndarray | str:
        try:
            mask = masks[i].read()
            height, width = upright_shape(images[i])
        except ImageError as error:
            return f"{masks[i].name}: {error.reason}"
        except Exception:  # an unreadable image is reported where all of them are
            return np.asarray(presence([mask], classes)[0])
        if mask.shape != (height, width):
            given = f"{mask.shape[1]} x {mask.shape[0]}"
            return f"{masks[i].name}: {given} pixels, its image {width} x {height}"
        return np.asarray(presence([mask], classes)[0])

    labels = np.zeros((len(images), classes), dtype=np.float32)
    with ThreadPoolExecutor() as pool:
        for i, found in enumerate(pool.map(look, range(len(images)))):
            if isinstance(found, str):
                problems.append(found)
            else:
                labels[i] = found
    names = [seen_from(root, path) for path in images]
    return Split(list(images), labels, names, targets=list(masks))


def upright_shape(path: Path) -> tuple[int, int]:
    """Height and width as `read_image` gives them, from the header alone."""
    image = opened(path)
    turned = image.getexif().get(ORIENTATION_TAG, 1) >= 5
    return (image.width, image.height) if turned else (image.height, image.width)
