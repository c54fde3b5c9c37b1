"""Images with masks: two folders whose files have the same names.

The folders are found by their names, with splits above or below them: `train/images/1.jpg` and
`train/masks/1.png`, `images/train/` and `masks/train/`, `train/` and `trainannot/`, or two folders
alone. Pixels are class numbers (grey or palette) or colours. `classes.txt` beside them may name the
classes: one name a line, by number, or `name r g b` by colour; a class named void, ignore(d),
unlabelled or unlabeled counts for nothing, as does the number 255.

A YAML file may say the same in other words: `train: {images: FOLDER, masks: FOLDER}`, likewise for
val and test, and `classes: {number: name}`. Its folders may lie elsewhere, and images that have no
mask there are left out; likewise of Pascal VOC's `SegmentationClass/`, which holds masks of some.
Where VOC's lists are there, `ImageSets/Segmentation/train.txt` and such, they say the splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sinet.data.dataset import ALL, ClassId, ImageDataset, Split
from sinet.data.masks import VOID, Mask, MaskFormat, is_coloured, raw_pixels
from sinet.data.readers._image_sets import divided
from sinet.data.readers._layout import seen_from, spots, visible
from sinet.data.readers._masks import (
    OF_SOME,
    checked,
    folder_pairs,
    matched,
    refuse_masks,
    said_of_lonely,
    without_image,
    without_mask,
)
from sinet.data.remarks import Remark, left_out
from sinet.errors import DataError

FORMAT = "mask folders"
EXPECTS = "images/ and masks/ with files of the same names, in train/, val/, ... or alone"
TASK = "segment"

_IGNORED = re.compile(r"(void|ignored?|unlabell?ed)", re.IGNORECASE)
_SAMPLE, _MAX_CLASSES = 200, 255
Pair = tuple[Path, Path]


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
    every = not about and all(m.name.lower() != OF_SOME for _, m in folders.values())
    found = {split: matched(*pair, every) for split, pair in folders.items()}
    found, said = _by_lists(root, found)
    named = _classes(about) if about else _named(root)
    masks = [mask for pairs in found.values() for _, mask in pairs]
    form, classes, ids, remarks = _learn(masks, named)
    remarks += said
    for pair in folders.values():
        remarks += said_of_lonely(root, without_image(*pair))
        remarks += left_out(spots(root, without_mask(*pair)), "images have no mask", "no mask")
    problems: list[Remark] = []
    splits = {
        split: _split(root, pairs, form, len(classes), problems) for split, pairs in found.items()
    }
    refuse_masks(root, problems)
    return ImageDataset(root, FORMAT, classes, ids, True, splits, remarks=remarks, task=TASK)


def _by_lists(
    root: Path, found: dict[str, list[Pair]]
) -> tuple[dict[str, list[Pair]], list[Remark]]:
    """The pairs of the one folder by VOC's lists, if there are any; else as they were found."""
    if ALL not in found:
        return found, []
    known = {image.stem: (image, mask) for image, mask in found[ALL]}
    paths = {stem: image for stem, (image, _) in known.items()}
    lists, remarks = divided(root, "Segmentation", paths, "image with a mask")
    by_list = {split: [known[stem] for stem in stems] for split, stems in lists.items()}
    return by_list or found, remarks


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
    pairs: Sequence[Pair],
    form: MaskFormat,
    classes: int,
    problems: list[Remark],
) -> Split:
    """Images and masks of a split, with the classes that occur in each."""
    masks = [Mask(seen_from(root, path), path, form) for _, path in pairs]
    return checked(root, [path for path, _ in pairs], masks, classes, problems)
