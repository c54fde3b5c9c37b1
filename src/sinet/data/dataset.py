"""What a data set is, whatever its format on disk: typed splits, the user's own classes and ids."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.image import ImageError, Pixels, opened, quick_check, read_image
from sinet.data.remarks import Remark, Spot, listed
from sinet.data.slices import Slice
from sinet.data.splitting import stratified
from sinet.errors import DataError, UsageError

Item = Path | bytes | Slice
Items = Sequence[Item] | Pixels
ClassId = int | str
ALL = "all"  # the name a reader gives to samples that belong to no split


@dataclass(eq=False)
class Split(Sequence[tuple[Pixels, Any]]):
    """Samples of one split; `split[i]` is (uint8 image (H, W, C), label)."""

    items: Items
    """Paths, file contents, slices of larger files, or one uint8 array (N, H, W[, C])."""
    labels: npt.NDArray[Any]
    """int64 (N,) class indices, or float32 (N, classes) of 0 and 1."""
    names: list[str]
    """One stable name a sample."""
    channels: int = 3
    """Channels that `split[i]` gives."""
    targets: Sequence[Any] = ()
    """What a picture shows besides its labels, one a sample: masks or boxes, by the task."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[Pixels, Any]:  # type: ignore[override]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self.image(i), self.labels[i]

    def image(self, i: int, channels: int | None = None, at_least: int | None = None) -> Pixels:
        """Decode sample `i`; see `read_image`.

        Raises:
            ImageError: it cannot be read.
            DataError: nor can the larger file that it is a slice of.
        """
        source = self.source(i)
        try:
            return read_image(source, channels or self.channels, at_least)
        except ImageError as error:
            raise ImageError(self.names[i], error.reason) from error

    def source(self, i: int) -> Path | bytes | Pixels:
        """Sample `i` as what reads pictures takes it.

        Raises:
            DataError: the larger file that it is a slice of cannot be read.
        """
        item = self.items[i]
        return item.read_bytes() if isinstance(item, Slice) else item

    def subset(self, indices: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Split:
        """The samples at these positions (or where a mask is true), in this order."""
        chosen = np.arange(len(self))[indices]
        items: Items
        if isinstance(self.items, np.ndarray):
            items = self.items[chosen]
        else:
            items = [self.items[i] for i in chosen]
        names = [self.names[i] for i in chosen]
        targets = [self.targets[i] for i in chosen] if self.targets else ()
        return replace(self, items=items, labels=self.labels[chosen], names=names, targets=targets)

    def check(self, i: int) -> str | None:
        """Why sample `i` cannot be read, judged quickly, or None; see `quick_check`."""
        return None if isinstance(self.items, np.ndarray) else quick_check(self.items[i])

    def content(self, i: int) -> bytes:
        """The file of sample `i`, or its pixels."""
        item = self.items[i]
        if isinstance(item, np.ndarray):
            return item.tobytes()
        return item if isinstance(item, bytes) else item.read_bytes()

    def form(self, i: int) -> str:
        """The pixel format of sample `i`, as Pillow names it."""
        source = self.source(i)
        if isinstance(source, np.ndarray):
            return "L" if source.ndim == 2 or source.shape[-1] == 1 else "RGB"
        return opened(source).mode

    def found_channels(self) -> int:
        """1 if every sampled image is grey, else 3."""
        return 1 if _all_grey(self) else 3

    def per_class(self, num_classes: int) -> list[int]:
        """Number of samples of each class."""
        if self.labels.ndim == 2:
            return [int(count) for count in self.labels.sum(0)]
        return [int(count) for count in np.bincount(self.labels, minlength=num_classes)]


@dataclass(eq=False)
class ImageDataset:
    """Labelled images, split into train, val and perhaps test.

    Where they have masks or boxes (`Split.targets`), the labels say which classes occur.
    """

    root: Path
    format: str
    classes: list[str]
    """Class names, in label order."""
    class_ids: list[ClassId]
    """The user's own ids, in label order: folder names, CSV values, Parquet or IDX integers."""
    multilabel: bool
    """Whether an image may have several labels; true for all that has `targets`."""
    splits: dict[str, Split]
    channels: int = 3
    """1 if every sampled image is grey, else 3."""
    remarks: list[Remark] = field(default_factory=list)
    """What was recognised, decided and found, to be said aloud."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of unreadable files that are left out."""
    empty_classes: list[str] = field(default_factory=list)
    """Classes that are declared but have no sample; left out where images have class labels."""
    task: str = "classify"
    """What the labels are for."""

    @property
    def train(self) -> Split:
        """Samples to learn from."""
        return self.splits["train"]

    @property
    def val(self) -> Split:
        """Samples to choose by."""
        return self.splits["val"]

    @property
    def test(self) -> Split:
        """Samples to report on; the validation samples where there is no test split."""
        return self.splits.get("test", self.splits["val"])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def fingerprint(self) -> str:
        """A stable hash of names, labels, classes and file sizes (of the pixels, for arrays)."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.classes, self.class_ids, self.multilabel)).encode())
        for name, split in sorted(self.splits.items()):
            digest.update(repr((name, split.names)).encode())
            digest.update(np.ascontiguousarray(split.labels).tobytes())
            if isinstance(split.items, np.ndarray):
                digest.update(np.ascontiguousarray(split.items).tobytes())
            else:
                digest.update(repr([_bytes(item) for item in split.items]).encode())
            if split.targets:
                digest.update(repr(list(split.targets)).encode())
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What was found, as plain values for JSON (no pictures)."""
        counts = {name: split.per_class(self.num_classes) for name, split in self.splits.items()}
        return {
            "root": str(self.root),
            "format": self.format,
            "task": self.task,
            "classes": self.classes,
            "class_ids": self.class_ids,
            "multilabel": self.multilabel,
            "channels": self.channels,
            "samples": {name: len(split) for name, split in self.splits.items()},
            "per_class": counts,
            "notes": [remark.text for remark in self.remarks],
            "skipped": [list(pair) for pair in self.skipped],
            "empty_classes": self.empty_classes,
            "fingerprint": self.fingerprint(),
        }


def _bytes(item: Item) -> int:
    if isinstance(item, Slice):
        return item.size
    return len(item) if isinstance(item, bytes) else item.stat().st_size


def open_dataset(
    root: str | Path,
    *,
    val_share: float | None = None,
    seed: int = 0,
    max_bad_share: float = 0.05,
    task: str = "",
) -> ImageDataset:
    """Recognise the format, read the labels, check the files and see to a validation split.

    Without a validation split one is cut from the training samples, the same share of each class;
    a test split is never touched for it. Files are judged by their first and last bytes; damage
    in the middle is found when they are decoded.

    Args:
        root: a folder, a CSV or Parquet file, or a zip or tar archive of those.
        val_share: share of the training samples that becomes `val` when there is none; None = a
            fifth, but no more than 10 sqrt(n) of n: 2,236 of 50,000 tell models half a point apart.
        seed: of that cut.
        max_bad_share: greatest share of unreadable files; they are left out and listed.
        task: read the labels as this task's, such as `segment`; empty = as they look.

    Raises:
        DataError: missing, not a data set, one class only, a class without training samples, or
            too many unreadable files.
        UsageError: `val_share` outside 0..1.
    """
    from sinet.data.readers import read_any  # readers import this module

    if val_share is not None and not 0 < val_share < 1:
        raise UsageError(f"val_share {val_share} given; a share between 0 and 1 expected")
    data = read_any(Path(root).expanduser(), task)
    _leave_out_unreadable(data, max_bad_share)
    _leave_out_empty_classes(data)
    _check_splits(data)
    _cut_validation(data, val_share, seed)
    data.channels = data.train.found_channels()
    for split in data.splits.values():
        split.channels = data.channels
    sizes = ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())
    kind = "labels" if data.multilabel else "classes"
    colour = {1: "grey", 3: "colour"}.get(data.channels, f"{data.channels} channels")
    recognised = f"{data.format}: {data.num_classes} {kind}, {sizes}, {colour}"
    data.remarks.insert(0, Remark(recognised))
    return data


def _leave_out_unreadable(data: ImageDataset, max_bad_share: float) -> None:
    total = sum(len(split) for split in data.splits.values())
    with ThreadPoolExecutor() as pool:
        for key, split in data.splits.items():
            if isinstance(split.items, np.ndarray):
                continue
            reasons = list(pool.map(split.check, range(len(split)), chunksize=64))
            data.skipped += [(split.names[i], why) for i, why in enumerate(reasons) if why]
            if any(reasons):
                data.splits[key] = split.subset(np.array([why is None for why in reasons]))
    if data.skipped:
        check_bad_share(data.skipped, total, max_bad_share)
        said = f"{len(data.skipped)} of {total} files cannot be read and are left out"
        data.remarks.append(Remark(said))  # no flaw here: an inspection names them from `skipped`


def check_bad_share(skipped: Sequence[tuple[str, str]], total: int, max_bad_share: float) -> None:
    """Raise a DataError that lists the first unreadable files when they are too many."""
    if len(skipped) <= max_bad_share * total:
        return
    first = "".join(f"\n  {name}: {reason}" for name, reason in skipped[:5])
    more = f"\n  ... and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    raise DataError(
        f"{len(skipped)} of {total} images cannot be read, more than the share of "
        f"{max_bad_share:g} that may be skipped:{first}{more}\nreplace or delete these files, or "
        "raise max_bad_share"
    )


def _leave_out_empty_classes(data: ImageDataset) -> None:
    counts = np.sum([split.per_class(data.num_classes) for split in data.splits.values()], axis=0)
    keep = np.flatnonzero(counts)
    if len(keep) == data.num_classes:
        return
    if data.task != "classify":  # masks and boxes keep the numbers that they have
        data.empty_classes = [data.classes[i] for i in np.flatnonzero(counts == 0)]
        return
    data.empty_classes = [data.classes[i] for i in np.flatnonzero(counts == 0)]
    # no flaw here: an inspection warns of them from `empty_classes`
    said = f"classes without an image are left out: {listed(data.empty_classes)}"
    data.remarks.append(Remark(said))
    data.classes = [data.classes[i] for i in keep]
    data.class_ids = [data.class_ids[i] for i in keep]
    for split in data.splits.values():
        if data.multilabel:
            split.labels = split.labels[:, keep]
        else:
            split.labels = np.searchsorted(keep, split.labels).astype(np.int64)


def _check_splits(data: ImageDataset) -> None:
    base = data.splits.get("train", data.splits.get(ALL))
    if base is None or len(base) == 0:
        raise DataError(
            f"{data.root}: no training images (splits found: {', '.join(data.splits) or 'none'}); "
            "expected a `train` split, or all images in one split"
        )
    if data.num_classes < 2 and not data.multilabel:
        raise DataError(
            f"{data.root}: only one class, {data.classes[0]!r}; at least two are needed: give "
            "each class its own folder (or label), for instance an `other` class"
        )
    trained = np.array(base.per_class(data.num_classes))
    for name, split in data.splits.items():
        extra = (trained == 0) & (np.array(split.per_class(data.num_classes)) > 0)
        if extra.any():
            absent = listed([data.classes[i] for i in np.flatnonzero(extra)])
            said = f"classes in {name} without a training image: {absent}"
            if not split.targets:
                raise DataError(f"{data.root}: {said}; add training images of them, or take them "
                                f"out of {name}")  # fmt: skip
            # of many classes in a picture some are rare: that spoils a number, not the training
            said += "; they cannot be learned, and count as missed"
            showing = np.flatnonzero(split.labels[:, extra].any(1))
            spots = tuple(Spot(split.names[i]) for i in showing)
            data.remarks.append(Remark(said, True, "not in training", spots))


def _cut_validation(data: ImageDataset, share: float | None, seed: int) -> None:
    data.splits = {name: split for name, split in data.splits.items() if len(split)}
    if "val" in data.splits:
        return
    source = "train" if "train" in data.splits else ALL
    base = data.splits.pop(source)
    share = share or min(0.2, 10 / math.sqrt(len(base)))
    held_out = stratified(base.labels, share, seed)
    if not held_out.any():
        raise DataError(
            f"{data.root}: {len(base)} training images are too few to hold some out for "
            "validation; at least two of some class are needed"
        )
    cut = {"train": base.subset(~held_out), "val": base.subset(held_out)}
    data.splits = {**cut, **data.splits}
    said = f"no validation split: {held_out.sum()} of {len(base)} training images held out"
    data.remarks.append(Remark(f"{said}, stratified, seed {seed}"))


def _all_grey(split: Split, sample: int = 64) -> bool:
    """Whether a sample of images, evenly spaced, has three equal channels throughout."""
    if isinstance(split.items, np.ndarray) and (
        split.items.ndim == 3 or split.items.shape[-1] == 1
    ):
        return True
    for i in np.unique(np.linspace(0, len(split) - 1, sample).astype(int)):
        try:
            image = split.image(int(i), 3)
        except ImageError:
            continue  # counted when the images are decoded
        if (image != image[..., :1]).any():
            return False
    return True
