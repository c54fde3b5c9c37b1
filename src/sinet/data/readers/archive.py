"""zip, tar, tar.gz, tar.xz, tar.bz2 of any other format: unpacked once into the user's cache.

The folder appears whole or not at all. A member that would land elsewhere, a link or a device is
refused before anything is written.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from sinet.data.dataset import ImageDataset
from sinet.data.remarks import Remark
from sinet.errors import DataError, SinetError

FORMAT = "archive"
EXPECTS = "a .zip, .tar, .tar.gz, .tar.xz or .tar.bz2 of any of these"
TASK = ""  # that of what is inside

# RuntimeError: an unknown compression; ValueError: a name that no file can have.
_DAMAGED = (
    *(EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError),
    *(gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile),
)


def detect(root: Path) -> bool:
    """A file that begins as a zip or a tar does, whatever its name."""
    if not root.is_file() or root.suffix.lower() in (".csv", ".tsv", ".parquet"):
        return False
    return zipfile.is_zipfile(root) or _is_tar(root) or _named_so(root)


def read(root: Path) -> ImageDataset:
    """Unpack, then read what is inside.

    Raises:
        DataError: damaged, unsafe, or no data set inside.
    """
    from sinet.data.readers import read_any  # which imports this module

    folder = unpacked(root)
    data = read_any(folder)
    data.format = f"{data.format} in {root.name}"
    data.remarks.append(Remark(f"unpacked into {folder}"))
    return data


def unpacked(archive: Path, cache: Path | None = None) -> Path:
    """The folder with the archive's content, unpacked if it is not there yet.

    Args:
        archive: the file.
        cache: where to unpack; None = `$XDG_CACHE_HOME/sinet/datasets`.
    """
    target = place_for(archive, cache)
    cache = target.parent
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".") as temporary:
            content = Path(temporary) / "content"
            content.mkdir()
            _unpack(archive, content)
            os.replace(content, target)
    except _DAMAGED as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if target.is_dir():  # another process was faster
            return target
        raise SinetError(
            f"cannot unpack {archive} into {cache}: {error.strerror or error}; free some "
            "space, or set XDG_CACHE_HOME to another folder"
        ) from error
    return target


def place_for(file: Path, cache: Path | None = None) -> Path:
    """Where what is made of a file is kept: another place when the file changes.

    Args:
        file: what it is made of.
        cache: the folder; None = `$XDG_CACHE_HOME/sinet/datasets`.
    """
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        cache = Path(home) / "sinet" / "datasets"
    state = file.stat()
    key = f"{file.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    digest = hashlib.blake2b(key.encode(), digest_size=6).hexdigest()
    return cache / f"{file.name.split('.')[0]}-{digest}"


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except _DAMAGED:
        return False


def _named_so(path: Path) -> bool:
    """A name that promises an archive: then damage is reported as such."""
    name = path.name.lower()
    return name.endswith((".zip", ".tgz", ".tar")) or ".tar." in name


def _unpack(archive: Path, target: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            members = [(m.filename, m.file_size, _zip_kind(m)) for m in file.infolist()]
            _check(archive, members, target)
            wanted = (m for m in file.infolist() if not m.is_dir())
            _write(target, ((m.filename, file.open(m)) for m in wanted))
        return
    with tarfile.open(archive) as tar:
        infos = tar.getmembers()
        check_end(tar)
        _check(archive, [(m.name, m.size, _tar_kind(m)) for m in infos], target)
        _write(target, _tar_files(tar, infos))


def check_end(tar: tarfile.TarFile) -> None:
    """A tar ends with a block of zeros; one that was cut between two members does not.

    Raises:
        tarfile.ReadError: it was cut; all members have been listed before.
    """
    stream = tar.fileobj
    assert stream is not None  # it is open for reading
    stream.seek(tar.offset)
    if len(stream.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the end is missing")


def _tar_files(
    tar: tarfile.TarFile, infos: list[tarfile.TarInfo]
) -> Iterator[tuple[str, IO[bytes]]]:
    for info in infos:
        stream = tar.extractfile(info) if info.isreg() else None
        if stream is not None:
            yield info.name, stream


def _zip_kind(member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    if member.flag_bits & 1:
        return "encrypted"
    if member.is_dir() or stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR):
        return "plain"
    return "a link or device"


def _tar_kind(member: tarfile.TarInfo) -> str:
    return "plain" if member.isreg() or member.isdir() else "a link or device"


def _check(archive: Path, members: list[tuple[str, int, str]], target: Path) -> None:
    """Refuse what would land outside, is not a plain file, or does not fit on the disk."""
    for name, _, kind in members:
        if _outside(name):
            kind = "outside the archive's own folder"
        if kind != "plain":
            raise DataError(
                f"{archive} is refused: its member {name!r} is {kind}; expected plain files only: "
                "pack the images again"
            )
    size, free = sum(size for _, size, _ in members), shutil.disk_usage(target).free
    if size > 0.9 * free:
        raise DataError(
            f"{archive} unpacks to {size / 1e9:.1f} GB but {target.parent.parent} has "
            f"{free / 1e9:.1f} GB free; free some space, or set XDG_CACHE_HOME to another disk"
        )


def _outside(name: str) -> bool:
    windows = PureWindowsPath(name)
    parts = {*PurePosixPath(name).parts, *windows.parts}
    return name.startswith("/") or bool(windows.drive or windows.root) or ".." in parts


def _write(target: Path, files: Iterable[tuple[str, IO[bytes]]]) -> None:
    for name, stream in files:
        path = target / name
        with stream:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                shutil.copyfileobj(stream, out)


def _damaged(archive: Path, error: Exception) -> DataError:
    reason = str(error).partition(":")[0]  # tarfile tells what each decompressor thought of it
    return DataError(
        f"{archive} is not a whole zip or tar archive ({reason}); it may be cut short: get it again"
    )
