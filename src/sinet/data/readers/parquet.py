"""Parquet with images inside, as Hugging Face data sets come: `data/train-00000-of-00001.parquet`.

Class id = the integer (or text) of the label column; names come from the ClassLabel feature that
the Hugging Face library writes into the schema. Encoded images are kept in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sinet.data.dataset import ALL, ClassId, ImageDataset
from sinet.data.readers._layout import Found, assemble, split_in
from sinet.errors import DataError, missing_extra

FORMAT = "Parquet"
EXPECTS = "data/train-*.parquet with an image column (bytes) and a label column"
TASK = "classify"

LABELS = ("label", "labels", "fine_label", "class", "category", "target")


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
    image, label, names = _columns(files[0])
    notes = [f"{len(files)} Parquet files, images in {image!r}, labels in {label!r}"]
    found: dict[str, Found] = {}
    unlabelled = 0
    for file in files:
        split = split_in(file.relative_to(root).as_posix() if root.is_dir() else file.stem) or ALL
        part = found.setdefault(split, Found([], [], []))
        for cell, key in _rows(file, image, label):
            if key is None or key == -1:  # -1: how hidden test labels are published
                unlabelled += 1
                continue
            item, name = _item(cell, file)
            part.items.append(item)  # type: ignore[union-attr]
            part.labels.append(key)  # type: ignore[attr-defined]
            part.names.append(f"{split}/{len(part.names)}" + (f":{name}" if name else ""))
    found = {split: part for split, part in found.items() if part.names}
    if unlabelled:
        notes.append(f"{unlabelled} rows without a label are left out")
    keys = [key for part in found.values() for key in part.labels]
    multilabel = any(isinstance(key, list) for key in keys)
    ids = _ids(root, keys, multilabel)
    if names and ids and int(max(ids)) >= len(names):
        raise DataError(f"{root}: label {max(ids)} but only {len(names)} class names in the schema")
    classes: dict[ClassId, str] = {key: str(key) for key in ids}
    if names:  # also those without a sample
        classes = {key: name for key, name in enumerate(names)}
    return assemble(root, FORMAT, found, classes, multilabel, notes)


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


def _columns(file: Path) -> tuple[str, str, list[str]]:
    """Names of the image and the label column, and the class names if the schema has them."""
    schema = _open(file).schema_arrow
    import pyarrow.types as kinds  # after the friendly error of a missing pyarrow

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


def _rows(file: Path, image: str, label: str) -> Sequence[tuple[Any, Any]]:
    table = _open(file)
    missing = [name for name in (image, label) if name not in table.schema_arrow.names]
    if missing:
        return []  # a test file without labels
    data = table.read(columns=[image, label])
    return list(zip(data[image].to_pylist(), data[label].to_pylist(), strict=True))


def _item(cell: Any, file: Path) -> tuple[Path | bytes, str]:
    """The encoded image, or the path where it lies, and its own name."""
    if isinstance(cell, bytes):
        return cell, ""
    cell = cell or {}
    path = str(cell.get("path") or "")
    if cell.get("bytes") is None and path:
        return file.parent / path, path
    return cell.get("bytes") or b"", path


def _ids(root: Path, keys: Sequence[Any], multilabel: bool) -> list[ClassId]:
    values = {value for key in keys for value in key} if multilabel else set(keys)
    if not values:
        raise DataError(f"{root}: no row has an image and a label; check the label column")
    kinds = {type(value) for value in values}
    if not kinds <= {int} and not kinds <= {str}:
        given = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"{root}: labels of type {given}; expected integers or texts (or lists)")
    return sorted(values)
