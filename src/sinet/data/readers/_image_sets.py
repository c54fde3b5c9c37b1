"""Pascal VOC's lists of splits, `ImageSets/Main/train.txt` and such: one name a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sinet.data.readers._boxes import files_in, folders_with
from sinet.data.readers._layout import seen_from, spots
from sinet.data.remarks import Remark, Spot, left_out, listed
from sinet.errors import DataError

_NAMES = ("train", "val", "test", "trainval")


def divided(
    root: Path, kind: str, known: Mapping[str, Path], what: str
) -> tuple[dict[str, list[str]], list[Remark]]:
    """Names by split, as the lists of one folder say.

    Args:
        root: of the data set; the lists lie up to three folders below.
        kind: `Main` or `Segmentation`.
        known: the images by their names without ending.
        what: a name should be that of, as in "annotated image".

    Returns:
        The known names of each split, none where there is no list, and remarks on names that have
        no image and images that have no name.

    Raises:
        DataError: there are lists, but no name in them is known.
    """
    lists = _lists(root, kind)
    if not lists:
        return {}, []
    found = {split: [stem for stem in names if stem in known] for split, names in lists.items()}
    holders = {stem: path for names in lists.values() for stem, path in names.items()}
    absent = [Spot(f"{seen_from(root, holders[s])}: {s}") for s in sorted({*holders} - {*known})]
    if not any(found.values()):
        raise DataError(
            f"{root}: none of the names in ImageSets/{kind} has an {what}: "
            f"{listed([spot.name for spot in absent], 3)}; put the images there, or correct the "
            "lists or take them away"
        )
    spare = spots(root, [known[stem] for stem in sorted({*known} - {*holders})])
    return {split: stems for split, stems in found.items() if stems}, [
        *left_out(absent, f"names in ImageSets/{kind} have no {what}", "no image"),
        *left_out(spare, f"images are in no list of ImageSets/{kind}", "in no list"),
    ]


def _lists(root: Path, kind: str) -> dict[str, dict[str, Path]]:
    """Split -> names, each with its list.

    `trainval` counts where there is no `train`, without what other lists hold out.
    """
    lists: dict[str, dict[str, Path]] = {}
    for folder in folders_with(root, 3):
        if (folder.parent.name, folder.name) == ("ImageSets", kind):
            for path in files_in(folder, ".txt"):
                if path.stem in _NAMES:  # not the lists of a class, such as `cat_train.txt`
                    lines = path.read_text(encoding="utf-8").splitlines()
                    names = {line.split()[0]: path for line in lines if line.strip()}
                    lists.setdefault(path.stem, {}).update(names)
    both = lists.pop("trainval", {})
    if both and "train" not in lists:
        held_out = {name for names in lists.values() for name in names}
        lists["train"] = {name: path for name, path in both.items() if name not in held_out}
    return {split: lists[split] for split in ("train", "val", "test") if split in lists}
