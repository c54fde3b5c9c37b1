"""WebDataset shards: tar files whose members of one name are a sample, `KEY.jpg` and `KEY.cls`.

Only names, places and labels are read at first. The images stay in the shards, and each is read
when it is wanted. Class id = the integer or text in KEY.cls, or the label in KEY.json.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinet.data.dataset import ALL, ClassId, ImageDataset
from sinet.data.image import SUFFIXES
from sinet.data.readers._layout import SPLITS, Found, assemble, seen_from, split_in, visible
from sinet.data.readers._tables import LABELS
from sinet.data.readers.archive import check_end
from sinet.data.remarks import Remark, Spot, left_out
from sinet.data.slices import Slice
from sinet.errors import DataError

FORMAT = "WebDataset shards"
EXPECTS = "train-0000.tar, ... (not compressed) with KEY.jpg and KEY.cls, or KEY.json with a label"
TASK = "classify"

_FIRST = 16
"""Members of a shard among which there must be a sample."""


def detect(root: Path) -> bool:
    """A folder with a tar, here or in folders of splits, that begins with an image and a label."""
    shards = _shards(root)
    if not shards:
        return False
    try:
        with tarfile.open(shards[0], "r:") as tar:
            begins = [tar.next() for _ in range(_FIRST)]
    except (tarfile.TarError, OSError):
        return False
    parts = [_parts(member.name) for member in begins if member]
    images = {key for key, ending in parts if f".{ending}" in SUFFIXES}
    return any(key in images for key, ending in parts if ending in ("cls", "json"))


def read(root: Path) -> ImageDataset:
    """List the samples of all shards.

    Raises:
        DataError: a shard that is cut short, or samples whose labels cannot be understood.
    """
    shards = _shards(root)
    found: dict[str, Found] = {}
    alone: list[Spot] = []
    for shard in shards:
        part = found.setdefault(split_in(seen_from(root, shard)) or ALL, Found([], [], []))
        for sample in _samples(shard):
            name = f"{seen_from(root, shard)}/{sample.key}"
            if sample.image is None or sample.label is None:
                alone.append(Spot(name))
                continue
            part.items.append(sample.image)  # type: ignore[union-attr]
            part.labels.append(sample.label)  # type: ignore[attr-defined]
            part.names.append(name)
    keys = {key for part in found.values() for key in part.labels}
    if len({type(key) for key in keys}) > 1:
        raise DataError(f"{root}: labels are numbers and texts; use one of both throughout")
    classes: dict[ClassId, str] = {key: str(key) for key in sorted(keys)}
    remarks = [Remark(f"{len(shards)} shards; images are read from them when they are wanted")]
    remarks += left_out(alone, "samples lack the image or the label", "incomplete")
    return assemble(root, FORMAT, found, classes, remarks=remarks)


def _shards(root: Path) -> list[Path]:
    """The tars of a folder, or of the folders of splits in it."""
    if not root.is_dir():
        return []
    inside = visible(root)
    splits = [path for path in inside if path.is_dir() and path.name.lower() in SPLITS]
    paths = [*inside, *(path for folder in splits for path in visible(folder))]
    return [path for path in paths if path.suffix == ".tar" and path.is_file()]


@dataclass
class _Sample:
    """Members of a shard that share a name."""

    key: str
    image: Slice | None = None
    label: ClassId | None = None


def _samples(shard: Path) -> Iterator[_Sample]:
    """Samples in the order of the shard; their members follow one another."""
    sample: _Sample | None = None
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, ending = _parts(member.name)
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield sample
                    sample = _Sample(key)
                _add(sample, ending, tar, member, shard)
            check_end(tar)
    except tarfile.TarError as error:
        raise DataError(
            f"{shard} is not a whole tar file ({error}); it may be cut short: get it again"
        ) from error
    if sample is not None:
        yield sample


def _add(
    sample: _Sample, ending: str, tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path
) -> None:
    """Take in a member; the class of a `.cls` counts more than what a `.json` says."""
    if f".{ending}" in SUFFIXES:
        sample.image = Slice(shard, member.offset_data, member.size)
    elif ending == "cls" or (ending == "json" and sample.label is None):
        stream = tar.extractfile(member)
        assert stream is not None  # it is a file
        content = stream.read()
        try:
            text = content.decode("utf-8")
            given = text.strip() if ending == "cls" else _label(json.loads(text))
        except ValueError as error:
            raise _wrong(shard, member.name, f"is not text or not JSON ({error})") from error
        if not isinstance(given, str | int | None) or isinstance(given, bool):
            raise _wrong(shard, member.name, f"has the label {given!r}, which is no class")
        sample.label = _class_id(given)


def _label(found: Any) -> Any:
    """What a JSON says of the class; None where it says nothing."""
    if not isinstance(found, dict):
        return None
    return next((found[name] for name in ("cls", *LABELS) if name in found), None)


def _class_id(given: str | int | None) -> ClassId | None:
    """Numbers as numbers; nothing, and the -1 of hidden labels, as no label."""
    if isinstance(given, str) and re.fullmatch(r"0|-?[1-9]\d*", given):
        given = int(given)
    return None if given in ("", -1) else given


def _parts(name: str) -> tuple[str, str]:
    """`a/b.c.jpg` -> (`a/b`, `c.jpg`): WebDataset splits at the first dot of the last name."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _wrong(shard: Path, member: str, problem: str) -> DataError:
    return DataError(
        f"{shard}: its member {member!r} {problem}; expected an integer or a name: write the "
        "shard again"
    )
