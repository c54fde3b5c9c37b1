"""A picture inside a larger file, such as a tar or a table: read when it is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sinet.errors import DataError


@dataclass(frozen=True, slots=True)
class Slice:
    """Where a picture's own file lies within a larger one."""

    file: Path
    """The larger file, its name shared by all slices of it."""
    start: int
    """Position of the first byte."""
    size: int
    """Number of bytes."""

    def read_bytes(self) -> bytes:
        """The picture's file.

        Raises:
            DataError: the larger file has vanished or is shorter than it was.
        """
        return self._read(self.start, self.size)

    def ends(self) -> tuple[bytes, bytes]:
        """The first and the last 16 bytes, or fewer of a smaller picture."""
        some = min(16, self.size)
        return self._read(self.start, some), self._read(self.start + self.size - some, some)

    def _read(self, start: int, size: int) -> bytes:
        try:
            with self.file.open("rb") as stream:
                stream.seek(start)
                content = stream.read(size)
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error
        if len(content) < size:
            raise self._lost("it is shorter than it was")
        return content

    def _lost(self, why: str) -> DataError:
        # not as one bad picture, which another could stand in for: thousands go with a file
        return DataError(
            f"{self.file} cannot be read any more ({why}), and with it all its pictures; bring "
            "the file back as it was, then run the same command again: a training goes on from "
            "its last checkpoint"
        )
