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
from sinet.data.readers._layout import Found, assemble, seen_from, split_in
from sinet.data.remarks import Remark, Spot, left_out
from sinet.errors import DataError, missing_extra

FORMAT = "Parquet"
EXPECTS = "data/train-*.parquet with an image column (bytes) and a label column"
TASK = "classify"

KEPT = 10
"""Pictures without a label that are kept to be looked at: those of a test split may be many."""
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
    of = {f: split_in(seen_from(root, f) if root.is_dir() else f.stem) or ALL for f in files}
    # labels of a test split may be missing
    image, label, names = _columns(next((f for f in files if of[f] != "test"), files[0]))
    said = f"{len(files)} Parquet files, images in {image!r}, labels in {label!r}"
    remarks = [Remark(said)]
    found: dict[str, Found] = {}
    unlabelled: list[Spot] = []
    without = [Spot(seen_from(root, f)) for f in files if not _has(f, image, label)]
    remarks += left_out(without, f"files lack the column {image!r} or {label!r}", "no labels")
    for file in files:
        split = of[file]
        part = found.setdefault(split, Found([], [], []))
        for number, (cell, key) in enumerate(_rows(file, image, label), start=1):
            item, name = _item(cell, file)
            if key is None or key == -1:  # -1: how hidden test labels are published
                seen = item if len(unlabelled) < KEPT else None
                unlabelled.append(Spot(f"{file.name}, row {number}", seen))
                continue
            _check_named(key, names, f"{file}, row {number}")
            part.items.append(item)  # type: ignore[union-attr]
            part.labels.append(key)  # type: ignore[attr-defined]
            part.names.append(f"{split}/{len(part.names)}" + (f":{name}" if name else ""))
    found = {split: part for split, part in found.items() if part.names}
    remarks += left_out(unlabelled, "rows have no label", "no label")
    keys = [key for part in found.values() for key in part.labels]
    multilabel = any(isinstance(key, list) for key in keys)
    ids = _ids(root, keys, multilabel)
    classes: dict[ClassId, str] = {key: str(key) for key in ids}
    if names:  # also those without a sample
        classes = {key: name for key, name in enumerate(names)}
    return assemble(root, FORMAT, found, classes, multilabel, remarks)


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


def _check_named(key: Any, names: Sequence[str], where: str) -> None:
    """Raise a DataError where the schema names classes, but not this label's."""
    values = key if isinstance(key, list) else [key]
    strange = [v for v in values if isinstance(v, int) and not 0 <= v < len(names)]
    if names and strange:
        raise DataError(
            f"{where}: label {strange[0]}, but the schema names {len(names)} classes, 0 to "
            f"{len(names) - 1}; correct the label, or name its class"
        )


def _has(file: Path, *columns: str) -> bool:
    return set(columns) <= set(_open(file).schema_arrow.names)


def _rows(file: Path, image: str, label: str) -> Sequence[tuple[Any, Any]]:
    if not _has(file, image, label):
        return []  # a test file without labels
    data = _open(file).read(columns=[image, label])
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
