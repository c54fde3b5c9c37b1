"""Tables whose rows are an image and a label: what Parquet and saved Hugging Face sets share.

Class id = the integer (or text) of the label column; names come from the ClassLabel feature that
the Hugging Face library writes into the schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sinet.data.dataset import ClassId, ImageDataset, Item
from sinet.data.readers._layout import Found, assemble, seen_from
from sinet.data.remarks import Remark, Spot, left_out
from sinet.data.slices import Slice
from sinet.errors import DataError, missing_extra

KEPT = 10
"""Pictures without a label that are kept to be looked at: those of a test split may be many."""
LABELS = ("label", "labels", "fine_label", "class", "category", "target")

Row = tuple[Item | None, str, Any]
"""An encoded image (None = it lies in a file of its own), its name or path, and its label."""


def read_tables(
    root: Path,
    format: str,
    files: Mapping[Path, str],
    schema: Callable[[Path], Any],
    found_in: Callable[[Path, str, str], Iterable[Row]],
) -> ImageDataset:
    """The data set of tables.

    Args:
        root: of the data set.
        format: what it is called.
        files: the tables, and the split of each.
        schema: the Arrow schema of a table.
        found_in: the rows of a table; its columns of images and labels are given.

    Raises:
        DataError: no image column, no label column, or a label that is not named.
    """
    # labels of a test split may be missing
    first = next((file for file, split in files.items() if split != "test"), next(iter(files)))
    image, label, names = _columns(schema(first), first)
    said = f"{len(files)} {format} files, images in {image!r}, labels in {label!r}"
    remarks = [Remark(said)]
    whole = [file for file in files if {image, label} <= set(schema(file).names)]
    without = [Spot(seen_from(root, file)) for file in files if file not in whole]
    remarks += left_out(without, f"files lack the column {image!r} or {label!r}", "no labels")
    found: dict[str, Found] = {}
    unlabelled: list[Spot] = []
    for file in whole:
        part = found.setdefault(files[file], Found([], [], []))
        for number, (given, name, key) in enumerate(found_in(file, image, label), start=1):
            item = given if given is not None else (file.parent / name if name else b"")
            if key is None or key == -1:  # -1: how hidden test labels are published
                seen = _seen(item) if len(unlabelled) < KEPT else None
                unlabelled.append(Spot(f"{file.name}, row {number}", seen))
                continue
            _check_named(key, names, f"{file}, row {number}")
            part.items.append(item)  # type: ignore[union-attr]
            part.labels.append(key)  # type: ignore[attr-defined]
            part.names.append(f"{files[file]}/{len(part.names)}" + (f":{name}" if name else ""))
    found = {split: part for split, part in found.items() if part.names}
    remarks += left_out(unlabelled, "rows have no label", "no label")
    keys = [key for part in found.values() for key in part.labels]
    multilabel = any(isinstance(key, list) for key in keys)
    ids = _ids(root, keys, multilabel)
    classes: dict[ClassId, str] = {key: str(key) for key in ids}
    if names:  # also those without a sample
        classes = {key: name for key, name in enumerate(names)}
    return assemble(root, format, found, classes, multilabel, remarks)


def rows(batches: Iterable[Any], image: str, label: str) -> Iterator[Row]:
    """Rows of Arrow record batches, images as bytes."""
    for batch in batches:
        cells, names = _cells(batch.column(image))
        yield from zip(cells.to_pylist(), names, batch.column(label).to_pylist(), strict=True)


def stored_rows(file: Path, image: str, label: str) -> Iterator[Row]:
    """Rows of an Arrow file, images as slices of it: none is read.

    Raises:
        DataError: not a whole Arrow file, or its images are compressed.
    """
    content, batches = _mapped(file)
    for batch in _whole(file, batches):
        cells, names = _cells(batch.column(image))
        keys = batch.column(label).to_pylist()
        yield from zip(_slices(file, content, cells), names, keys, strict=True)


def stored_schema(file: Path) -> Any:
    """The schema of an Arrow file.

    Raises:
        DataError: not a whole Arrow file.
    """
    return _mapped(file)[1].schema


def _mapped(file: Path) -> tuple[Any, Any]:
    """The content of an Arrow file, mapped into memory, and the reader of its batches."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    try:
        content = pa.memory_map(str(file)).read_buffer()
        return content, pa.ipc.open_stream(content)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _whole(file: Path, batches: Any) -> Iterator[Any]:
    import pyarrow as pa

    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> Exception:
    if isinstance(error, PermissionError):
        return error  # said better by whoever reads
    return DataError(f"{file} is not a whole Arrow file ({error}); get it again, or save it again")


def _cells(column: Any) -> tuple[Any, list[str]]:
    """The encoded images of a column (an Arrow array of binary), and their names or paths."""
    import pyarrow.types as kinds

    if not kinds.is_struct(column.type):
        return column, [""] * len(column)
    parts = dict(zip([field.name for field in column.type], column.flatten(), strict=True))
    paths = parts["path"].to_pylist() if "path" in parts else [None] * len(column)
    return parts["bytes"], [path or "" for path in paths]


def _slices(file: Path, content: Any, cells: Any) -> Iterator[Slice | None]:
    """Where in a mapped file the images lie; None where there is none."""
    if not len(cells):
        return
    _, offsets, values = cells.buffers()
    size = 8 if str(cells.type).startswith("large") else 4
    ends = np.frombuffer(offsets, f"<i{size}")[cells.offset : cells.offset + len(cells) + 1]
    base = values.address - content.address if values is not None else 0
    if not 0 <= base <= content.size - int(ends[-1]):
        raise DataError(
            f"{file} holds compressed columns, of which no image can be read by itself; save it "
            "again with the data set's save_to_disk"
        )
    for there, start, end in zip(cells.is_valid().to_pylist(), ends, ends[1:], strict=False):
        yield Slice(file, base + int(start), int(end - start)) if there else None


def _seen(item: Item) -> Path | bytes:
    return item.read_bytes() if isinstance(item, Slice) else item


def _columns(schema: Any, file: Path) -> tuple[str, str, list[str]]:
    """Names of the image and the label column, and the class names if the schema has them."""
    import pyarrow.types as kinds

    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: Mapping[str, Any] = metadata.get("info", {}).get("features", {})
    images = [name for name in schema.names if _type(features.get(name)) == "Image"]
    for field in schema:
        inside = [f.name for f in field.type] if kinds.is_struct(field.type) else []
        if "bytes" in inside or kinds.is_binary(field.type) or kinds.is_large_binary(field.type):
            images.append(field.name)
    named = [name for name in schema.names if _names(features.get(name))]
    labels = [*named, *(name for name in LABELS if name in schema.names)]
    for kind, names, like in (
        ("image", images, "a struct {bytes, path} or binary"),
        ("label", labels, f"ClassLabel, or named {', '.join(LABELS[:3])} ..."),
    ):
        if not names:
            raise DataError(
                f"{file} has no {kind} column ({like}); its columns are {', '.join(schema.names)}: "
                "rename the one that is meant"
            )
    return images[0], labels[0], _names(features.get(labels[0]))


def _type(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def _names(feature: Any) -> list[str]:
    """Class names of a ClassLabel, or of a list of them."""
    if isinstance(feature, list) and feature:
        return _names(feature[0])
    if _type(feature) == "ClassLabel":
        return [str(name) for name in feature["names"]]
    return _names(feature["feature"]) if isinstance(feature, dict) and "feature" in feature else []


def _check_named(key: Any, names: Sequence[str], where: str) -> None:
    """Raise a DataError where the schema names classes, but not this label's."""
    values = key if isinstance(key, list) else [key]
    strange = [v for v in values if isinstance(v, int) and not 0 <= v < len(names)]
    if names and strange:
        raise DataError(
            f"{where}: label {strange[0]}, but the schema names {len(names)} classes, 0 to "
            f"{len(names) - 1}; correct the label, or name its class"
        )


def _ids(root: Path, keys: Sequence[Any], multilabel: bool) -> list[ClassId]:
    values = {value for key in keys for value in key} if multilabel else set(keys)
    if not values:
        raise DataError(f"{root}: no row has an image and a label; check the label column")
    kinds = {type(value) for value in values}
    if not kinds <= {int} and not kinds <= {str}:
        given = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"{root}: labels of type {given}; expected integers or texts (or lists)")
    return sorted(values)
