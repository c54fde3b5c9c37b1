"""Archives are unpacked once, whole or not at all, and never outside their folder."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from sinet.data import open_dataset
from sinet.data.readers.archive import unpacked
from sinet.errors import DataError

from .writers import folders, packed, samples

OUTSIDE = ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "..\\evil.png", "C:\\evil.png"]


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as out:
        for member in members:
            member.size = 4 if member.isreg() else 0
            out.addfile(member, io.BytesIO(b"evil") if member.isreg() else None)
    return path


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_members_outside_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    archive, cache = tmp_path / f"a.{kind}", tmp_path / "cache"
    if kind == "tar":
        tar_of(archive, tarfile.TarInfo("good.png"), tarfile.TarInfo(name))
    else:
        with zipfile.ZipFile(archive, "w") as out:
            out.writestr("good.png", b"good")
            out.writestr(name, b"evil")
    with pytest.raises(DataError, match="outside the archive's own folder; expected plain files"):
        unpacked(archive, cache)
    assert kept(cache) == []
    assert kept(tmp_path) == [archive.name, "cache"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                                  tarfile.BLKTYPE, tarfile.FIFOTYPE])  # fmt: skip
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo("train/a/1.png")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match=r"member 'train/a/1.png' is a link or device"):
        unpacked(tar_of(tmp_path / "a.tar", member), tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("train/a/1.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match="is a link or device"):
        unpacked(tmp_path / "a.zip", tmp_path / "cache")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("1.png", b"secret")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"'1.png' is encrypted"):
        unpacked(tmp_path / "a.zip", tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_cut_short(suffix: str, share: float, tmp_path: Path, cache_folder: Path) -> None:
    archive = packed(folders, suffix)(tmp_path, samples(["a", "b"], ("train", "val"), 30))
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"not a whole zip or tar archive .*it may be cut short"):
        open_dataset(archive)
    assert not list(cache_folder.glob("sinet/datasets/*"))


def test_unpacked_once_and_again_when_changed(tmp_path: Path) -> None:
    archive = packed(folders, "tar")(tmp_path / "one", samples(["a", "b"], ("train", "val")))
    cache = tmp_path / "cache"
    first = unpacked(archive, cache)
    stamp = first.stat().st_ino
    assert unpacked(archive, cache) == first
    assert first.stat().st_ino == stamp
    packed(folders, "tar")(tmp_path / "two", samples(["a", "b"], ("train", "val"), 9))
    (tmp_path / "two" / "photos.tar").replace(archive)
    assert unpacked(archive, cache) != first


def test_an_archive_without_images(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", tarfile.TarInfo("notes.txt"))
    with pytest.raises(DataError, match=r"is not a data set: found notes\.txt; looked for"):
        open_dataset(tmp_path / "a.tar")


def test_too_large_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    archive = packed(folders, "zip")(tmp_path, samples(["a", "b"], ("train", "val")))
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 5, 5))
    with pytest.raises(DataError, match=r"unpacks to .* GB but .* has 0.0 GB free; free"):
        unpacked(archive, tmp_path / "cache")
