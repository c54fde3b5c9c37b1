"""Hugging Face data sets as `save_to_disk` leaves them: `train/data-00000-of-00001.arrow`.

Images stay in these files and are read when they are wanted; nothing is copied. (What the Hub
holds is Parquet: see `parquet`.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sinet.data.dataset import ALL, ImageDataset
from sinet.data.readers._layout import split_in
from sinet.data.readers._tables import read_tables, stored_rows, stored_schema
from sinet.errors import DataError

FORMAT = "Hugging Face"
EXPECTS = "what Hugging Face's save_to_disk wrote: dataset_dict.json, SPLIT/state.json, *.arrow"
TASK = "classify"

_SPLITS, _STATE = "dataset_dict.json", "state.json"


def detect(root: Path) -> bool:
    """A folder with the notes that `save_to_disk` leaves."""
    return (root / _SPLITS).is_file() or (root / _STATE).is_file()


def read(root: Path) -> ImageDataset:
    """Read the labels of all splits, and where the images lie.

    Raises:
        DataError: a damaged file, no image column or no label column.
        UsageError: pyarrow is not installed.
    """
    folders = {root: ALL}
    if (root / _SPLITS).is_file():
        names = _notes(root / _SPLITS, "splits")
        folders = {root / str(name): split_in(str(name)) or ALL for name in names}
    files = {file: split for folder, split in folders.items() for file in _files(folder)}
    if not files:
        raise DataError(f"{root} names no files of rows; save the data set again")
    return read_tables(root, FORMAT, files, stored_schema, stored_rows)


def _files(folder: Path) -> list[Path]:
    """The Arrow files of a split, in order."""
    listed = _notes(folder / _STATE, "_data_files")
    return [folder / str(entry["filename"]) for entry in listed]


def _notes(file: Path, key: str) -> list[Any]:
    """A list of one of the notes beside the files."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))[key]
    except PermissionError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{file} is missing or damaged ({type(error).__name__}); save the data set again"
        ) from error
    return list(found)
