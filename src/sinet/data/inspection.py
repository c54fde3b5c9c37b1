"""What is in a data set and what is wrong with it, found by reading every picture once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from sinet.data.dataset import ImageDataset, Split, open_dataset
from sinet.data.image import ImageError
from sinet.data.remarks import Remark, Spot, listed

FEW, IMBALANCE, ODD_ASPECT, ODD_SIZE, TINY = 10, 10.0, 4.0, 4.0, 16


@dataclass
class Inspection:
    """Findings about one data set; `to_dict` gives plain values."""

    data: ImageDataset = field(repr=False)
    """The data set itself; not part of `to_dict`."""
    root: str
    format: str
    task: str
    classes: list[str]
    class_ids: list[int | str]
    multilabel: bool
    channels: int
    counts: dict[str, list[int]]
    """Samples of each class, by split."""
    samples: dict[str, int]
    """Samples by split."""
    width: tuple[int, int, int]
    """Least, median and greatest width, pixels."""
    height: tuple[int, int, int]
    """Least, median and greatest height, pixels."""
    modes: dict[str, int]
    """Pixel formats as Pillow names them (L = grey, RGB, RGBA, P = palette, I;16, ...)."""
    unreadable: list[tuple[str, str]]
    """(name, reason)."""
    duplicates: list[list[str]]
    """Groups of the same file under several names."""
    same_pixels: list[list[str]]
    """Groups of different files with the same pixels."""
    leaked: list[list[str]]
    """Of those groups, the ones that lie in more than one split."""
    conflicts: list[list[str]]
    """Of those groups, the ones whose members have different labels."""
    odd: list[tuple[str, str]]
    """(name, why): very long, very small or very large pictures."""
    empty_classes: list[str]
    notes: list[Remark]
    """What was recognised and decided, besides what the warnings say."""
    warnings: list[Remark] = field(default_factory=list)
    """What to look at, the gravest first."""
    problem: str = ""
    """Why the data set cannot be used as it is, or empty."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; of remarks the words."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "data"}
        for name in ("notes", "warnings"):
            values[name] = [remark.text for remark in values[name]]
        return values


@dataclass
class _Seen:
    """One picture: where it is, what it is labelled and what it looks like."""

    name: str
    split: str
    label: bytes
    reason: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    content: bytes = b""
    pixels: bytes = b""


def inspect_dataset(
    root: str | Path,
    *,
    val_share: float | None = None,
    seed: int = 0,
    max_bad_share: float = 0.05,
    task: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Open a data set and read every picture in it.

    Args:
        root: as for `open_dataset`.
        val_share: as for `open_dataset`.
        seed: as for `open_dataset`.
        max_bad_share: above this share of unreadable files `Inspection.problem` is set.
        task: as for `open_dataset`.
        progress: called with (done, total) now and then.

    Returns:
        The findings.

    Raises:
        DataError: it is not a data set, or cannot be split into training and validation.
    """
    data = open_dataset(root, val_share=val_share, seed=seed, max_bad_share=1.0, task=task)
    seen = _look(data, progress)
    good = [picture for picture in seen if not picture.reason]
    for key, split in data.splits.items():
        whole = [not picture.reason for picture in seen if picture.split == key]
        data.splits[key] = split.subset(np.array(whole, dtype=bool))
    data.skipped += [(picture.name, picture.reason) for picture in seen if picture.reason]
    duplicates = _groups(good, lambda picture: picture.content)
    known = {name for group in duplicates for name in (p.name for p in group[1:])}
    rest = [picture for picture in good if picture.name not in known]
    same_pixels = _groups(rest, lambda picture: picture.pixels)
    by_pixels = _groups(good, lambda picture: picture.pixels)
    found = Inspection(
        data=data,
        root=str(root),
        format=data.format,
        task=data.task,
        classes=data.classes,
        class_ids=data.class_ids,
        multilabel=data.multilabel,
        channels=data.channels,
        counts={name: split.per_class(data.num_classes) for name, split in data.splits.items()},
        samples={name: len(split) for name, split in data.splits.items()},
        width=_spread([picture.size[0] for picture in good]),
        height=_spread([picture.size[1] for picture in good]),
        modes=dict(Counter(picture.mode for picture in good).most_common()),
        unreadable=data.skipped,
        duplicates=_names(duplicates),
        same_pixels=_names(same_pixels),
        leaked=_names([g for g in by_pixels if len({p.split for p in g}) > 1]),
        conflicts=_names([g for g in by_pixels if len({p.label for p in g}) > 1]),
        odd=_odd(good),
        empty_classes=data.empty_classes,
        notes=[remark for remark in data.remarks if not remark.flaw],
    )
    total = len(good) + len(data.skipped)
    if len(data.skipped) > max_bad_share * total:
        found.problem = (
            f"{len(data.skipped)} of {total} images cannot be read, more than the share of "
            f"{max_bad_share:g} that may be skipped; replace or delete them"
        )
    found.warnings = _warnings(found)
    return found


def _look(data: ImageDataset, progress: Callable[[int, int], None] | None) -> list[_Seen]:
    jobs = [(key, s, i) for key, s in data.splits.items() for i in range(len(s))]
    seen = []
    with ThreadPoolExecutor() as pool:
        for picture in pool.map(lambda job: _look_at(*job), jobs):
            seen.append(picture)
            if progress and (len(seen) % 256 == 0 or len(seen) == len(jobs)):
                progress(len(seen), len(jobs))
    return seen


def _look_at(key: str, split: Split, i: int) -> _Seen:
    item = split.items[i]
    seen = _Seen(split.names[i], key, split.labels[i].tobytes())
    try:
        pixels = item if isinstance(item, np.ndarray) else split.image(i, 3)
        content, seen.mode = split.content(i), split.form(i)
    except ImageError as error:
        seen.reason = error.reason
        return seen
    seen.size = (pixels.shape[1], pixels.shape[0])
    seen.content = hashlib.blake2b(content, digest_size=16).digest()
    shape = repr(pixels.shape).encode()
    seen.pixels = hashlib.blake2b(shape + pixels.tobytes(), digest_size=16).digest()
    return seen


def _groups(pictures: Sequence[_Seen], key: Callable[[_Seen], bytes]) -> list[list[_Seen]]:
    together: dict[bytes, list[_Seen]] = {}
    for picture in pictures:
        together.setdefault(key(picture), []).append(picture)
    return [group for group in together.values() if len(group) > 1]


def _names(groups: Sequence[Sequence[_Seen]]) -> list[list[str]]:
    return [[picture.name for picture in group] for group in groups]


def _spread(values: Sequence[int]) -> tuple[int, int, int]:
    if not values:
        return 0, 0, 0
    return min(values), int(np.median(values)), max(values)


def _odd(pictures: Sequence[_Seen]) -> list[tuple[str, str]]:
    """Pictures unlike the others in shape or size."""
    odd = []
    typical = float(np.median([min(p.size) for p in pictures])) if pictures else 0
    for picture in pictures:
        short, long = sorted(picture.size)
        size = f"{picture.size[0]} x {picture.size[1]}"
        if long > ODD_ASPECT * short:
            odd.append((picture.name, f"{size}: one side {long / short:.1f} times the other"))
        elif short < min(TINY, typical):
            odd.append((picture.name, f"{size}: very small"))
        elif short * ODD_SIZE < typical or short > ODD_SIZE * typical:
            odd.append((picture.name, f"{size}: the median short side is {typical:.0f}"))
    return odd


def _warnings(found: Inspection) -> list[Remark]:
    """The findings that deserve a look, the gravest first."""
    copies = sum(len(group) - 1 for group in found.duplicates)
    groups = [
        (found.leaked, "{} pictures lie in more than one split, so the accuracy looks too good",
         "in two splits"),
        (found.conflicts, "{} pictures have copies with another label", "labels differ"),
        (found.duplicates, f"{copies} files are exact copies of another", ""),
        (found.same_pixels, "{} pictures exist as different files with equal pixels", ""),
    ]  # fmt: skip
    singles = [
        (found.unreadable, "{} files cannot be read and are left out", "unreadable"),
        (found.odd, "{} pictures are unlike the others in size or shape", "odd size"),
    ]
    remarks = []
    for group, text, short in groups:
        if group:
            # copies within a split are listed, not drawn: they look like any other picture
            spots = tuple(Spot(name) for names in group for name in names) if short else ()
            said = f"{text.format(len(group))}: {_first(group)}"
            remarks.append(Remark(said, True, short, spots))
    for named, text, short in singles:
        if named:
            first = "; ".join(f"{name} ({why})" for name, why in named[:3])
            spots = tuple(Spot(name) for name, _ in named)
            remarks.append(Remark(f"{text.format(len(named))}: {first}", True, short, spots))
    remarks += [remark for remark in found.data.remarks if remark.flaw]
    return remarks + [Remark(line, True) for line in _of_classes(found)]


def _of_classes(found: Inspection) -> list[str]:
    """Warnings about classes with few pictures, and about pixel formats."""
    counts: Mapping[str, int] = dict(zip(found.classes, found.counts["train"], strict=True))
    least, most = min(counts, key=lambda c: counts[c]), max(counts, key=lambda c: counts[c])
    lines = []
    if found.empty_classes:
        lines.append(f"classes without a picture: {listed(found.empty_classes)}")
    if len(found.modes) > 1:
        modes = ", ".join(f"{count} {mode}" for mode, count in found.modes.items())
        lines.append(f"different pixel formats: {modes}")
    if counts[most] > IMBALANCE * counts[least]:
        lines.append(
            f"the classes are unbalanced: {counts[most]} training pictures of {most!r}, "
            f"{counts[least]} of {least!r}; plain accuracy hides the rare ones, look at F1"
        )
    few = [name for name, count in counts.items() if count < FEW]
    if few:
        lines.append(f"fewer than {FEW} training pictures of {listed(few)}")
    unseen = [n for n, c in zip(found.classes, found.counts["val"], strict=True) if c == 0]
    if unseen:
        lines.append(f"classes without a validation picture: {listed(unseen)}")
    return lines


def _first(groups: Sequence[Sequence[str]]) -> str:
    return "; ".join(" = ".join(group[:3]) for group in groups[:3])
