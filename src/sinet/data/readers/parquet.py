"""Parquet with images inside, as Hugging Face data sets come: `data/train-00000-of-00001.parquet`.

Encoded images of small data sets are kept in memory. Those of larger ones are copied once into the
user's cache, as an Arrow file, from which each is read when it is wanted: a Parquet file gives none
without a hundred others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sinet.data.dataset import ALL, ImageDataset
from sinet.data.readers._layout import seen_from, split_in
from sinet.data.readers._tables import Row, read_tables, rows, stored_rows
from sinet.data.readers.archive import place_for
from sinet.errors import DataError, missing_extra
from sinet.files import atomic_path

FORMAT = "Parquet"
EXPECTS = "data/train-*.parquet with an image column (bytes) and a label column"
TASK = "classify"

IN_MEMORY = 1_000_000_000
"""Bytes of Parquet files whose images are kept in memory."""


def detect(root: Path) -> bool:
    """A Parquet file, or a folder with some in it or below."""
    return bool(_files(root))


def read(root: Path) -> ImageDataset:
    """Read the image and label columns of all files.

    Raises:
        DataError: no image column, no label column, or a damaged file.
        UsageError: pyarrow is not installed.
    """
    files = _files(root)
    of = {f: split_in(seen_from(root, f) if root.is_dir() else f.stem) or ALL for f in files}
    small = sum(file.stat().st_size for file in files) <= IN_MEMORY

    def found(file: Path, image: str, label: str) -> Iterator[Row]:
        if not small:
            return stored_rows(_copied(file, image, label), image, label)
        return rows(_open(file).iter_batches(columns=[image, label]), image, label)

    return read_tables(root, FORMAT, of, lambda file: _open(file).schema_arrow, found)


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix == ".parquet" else []
    folders = (root, root / "data")
    near = [path for folder in folders if folder.is_dir() for path in folder.glob("*.parquet")]
    # The Hub's automatic conversion: CONFIGURATION/SPLIT/0000.parquet
    return sorted(
        near or (path for part in ("*", "*/*") for path in root.glob(f"{part}/*.parquet"))
    )


def _open(file: Path) -> Any:
    try:
        import pyarrow as pa
        from pyarrow import parquet as pq
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise DataError(f"{file} is not a whole Parquet file ({error}); get it again") from error


def _copied(file: Path, image: str, label: str) -> Path:
    """Both columns as an Arrow file in the cache, copied if they are not there yet."""
    import pyarrow as pa

    target = place_for(file).with_suffix(".arrow")
    if not target.is_file():
        source = _open(file)
        schema = pa.schema([source.schema_arrow.field(name) for name in (image, label)])
        with atomic_path(target) as temporary, pa.ipc.new_stream(temporary, schema) as copy:
            for batch in source.iter_batches(batch_size=256, columns=[image, label]):
                copy.write_batch(batch.select([image, label]))
    return target
