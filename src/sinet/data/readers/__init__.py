"""One file = one format on disk. A file put into this folder is found; nothing else to touch.

A reader is a module with

    FORMAT: str      what is said when it was recognised, e.g. "class folders"
    EXPECTS: str     what it looks for, in one line (listed when nothing is recognised)
    TASK: str        what its labels are for, such as "classify" or "segment"; "" = it depends
    ASKED: bool      optional: whether it looks only when its task is named
    detect(root: Path) -> bool             cheap, never raises for a wrong format
    read(root: Path) -> ImageDataset       splits named train, val, test or `ALL`

`read` leaves checking and splitting to `open_dataset`.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from sinet.data.dataset import ImageDataset
from sinet.data.image import SUFFIXES
from sinet.data.readers._layout import SPLITS, visible
from sinet.data.remarks import Remark
from sinet.errors import DataError


class Reader(Protocol):
    """What each module of this folder provides."""

    FORMAT: str
    EXPECTS: str
    TASK: str

    def detect(self, root: Path) -> bool:
        """Whether `root` looks like this format."""
        ...

    def read(self, root: Path) -> ImageDataset:
        """Read names and labels; no picture is decoded."""
        ...


def readers(task: str = "") -> list[Reader]:
    """All readers, or those of one task; those of class labels, which are content with less, last.

    Within that, in alphabetical order of their files.
    """
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    found = [cast(Reader, importlib.import_module(f"{__name__}.{name}")) for name in names]
    if task:
        found = [reader for reader in found if reader.TASK in ("", task)]
    else:
        found = [reader for reader in found if not getattr(reader, "ASKED", False)]
    return sorted(found, key=lambda reader: reader.TASK == "classify")


def read_any(root: Path, task: str = "") -> ImageDataset:
    """Read `root` with the reader that recognises it, or the one folder inside it.

    Args:
        root: a folder or file.
        task: only what its labels are for; empty = whatever they are for.

    Raises:
        DataError: missing, unreadable, empty, or no known format.
    """
    if not root.exists():
        raise DataError(
            f"{root} does not exist; expected a folder of images, a CSV or Parquet file, or an "
            "archive: check the path"
        )
    try:
        return _read(root, task)
    except PermissionError as error:
        raise DataError(
            f"no permission to read {error.filename or root}; make it readable (chmod -R u+rX)"
        ) from error


def _read(root: Path, task: str) -> ImageDataset:
    known = readers(task)
    for folder in _candidates(root):
        found = [reader for reader in known if reader.detect(folder)]
        if found:
            data = _read_one(folder, *found)
            data.root, data.task = root, found[0].TASK or data.task
            return data
    raise DataError(_not_a_dataset(root, known))


def _read_one(folder: Path, first: Reader, *others: Reader) -> ImageDataset:
    """Read with the first reader; that the folder looks like others too is noted.

    Raises:
        DataError: the first cannot read it.
    """
    # any folders of images look like class folders: that alone leaves no choice to be made
    rivals = [other for other in others if other.TASK not in ("", "classify")]
    alike = [other.FORMAT for other in others if other not in rivals]
    ways = [f"`--task {other.TASK}` reads it as {other.FORMAT}" for other in rivals
            if other.TASK != first.TASK]  # fmt: skip
    try:
        data = first.read(folder)
    except DataError as error:
        if not ways:
            raise
        said = f"{error}\nread as {first.FORMAT}; {', '.join(ways)}"
        raise DataError(said, error.faults) from error
    if rivals:
        given = " and ".join(reader.FORMAT for reader in (first, *rivals))
        if len(ways) < len(rivals):
            about = "; ".join(f"{reader.FORMAT}: {reader.EXPECTS}" for reader in (first, *rivals))
            ways.append(f"take the files of the other formats away ({about})")
        said = f"there is more than one format, {given}; read as {first.FORMAT}: to choose, "
        data.remarks.append(Remark(said + ", or ".join(ways), flaw=True))
    if alike:
        said = f"read as {first.FORMAT}; it also looks like {', '.join(alike)}"
        data.remarks.append(Remark(said))
    return data


def _candidates(root: Path) -> list[Path]:
    """The path itself, then the only folder inside it, and so on (archives wrap their content)."""
    found = [root]
    while root.is_dir():
        folders = [path for path in visible(root) if path.is_dir()]
        if len(folders) != 1 or folders[0].name.lower() in SPLITS:
            break
        root = folders[0]
        found.append(root)
    return found


def _not_a_dataset(root: Path, known: list[Reader]) -> str:
    if root.is_dir():
        inside = visible(root)
        if not inside:
            return f"{root} is empty; expected images: check the path"
        given = ", ".join(path.name + ("/" if path.is_dir() else "") for path in inside[:6])
        given = f"found {given}{' ...' if len(inside) > 6 else ''}"
        if any(path.suffix.lower() in SUFFIXES for path in inside):
            given += " (images, but no labels: put those of each class into a folder of its own)"
    else:
        given = f"a file of {root.stat().st_size} bytes"
    expected = "".join(f"\n  {reader.FORMAT}: {reader.EXPECTS}" for reader in known)
    return f"{root} is not a data set: {given}; looked for{expected}"
