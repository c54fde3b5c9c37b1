"""Writes the same small data set in every format that the readers know."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet as pq

Sample = tuple[str, int | str, np.ndarray]  # split, class id, pixels


def samples(ids: Sequence[int | str], splits: Sequence[str], each: int = 3) -> list[Sample]:
    """`each` distinct grey 8 x 8 pictures of every class in every split."""
    found: list[Sample] = []
    for split in splits:
        for key in ids:
            for _ in range(each):
                pixels = np.full((8, 8), len(found), dtype=np.uint8)
                pixels[0] = 255 - len(found)
                found.append((split, key, pixels))
    return found


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def folders(root: Path, data: Sequence[Sample], names: dict[str, str] | None = None) -> Path:
    for i, (split, key, pixels) in enumerate(data):
        folder = root / (names or {}).get(split, split) / str(key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(png(pixels))
    return root


def table(root: Path, data: Sequence[Sample]) -> Path:
    (root / "pictures").mkdir(parents=True)
    with (root / "all.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split"])
        for i, (split, key, pixels) in enumerate(data):
            (root / "pictures" / f"{i}.png").write_bytes(png(pixels))
            writer.writerow([f"pictures/{i}.png", key, split])
    return root


def parquet(root: Path, data: Sequence[Sample], names: Sequence[str] = ()) -> Path:
    (root / "data").mkdir(parents=True)
    feature: dict[str, object] = {"_type": "Value"}
    if names:
        feature = {"_type": "ClassLabel", "names": list(names)}
    info = {"info": {"features": {"img": {"_type": "Image"}, "label": feature}}}
    for split in dict.fromkeys(sample[0] for sample in data):
        rows = [
            {"img": {"bytes": png(pixels), "path": None}, "label": key}
            for part, key, pixels in data
            if part == split
        ]
        arrow = pa.Table.from_pylist(rows).replace_schema_metadata(
            {"huggingface": json.dumps(info)}
        )
        pq.write_table(arrow, root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def idx(root: Path, data: Sequence[Sample], zipped: bool = False) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split in dict.fromkeys(sample[0] for sample in data):
        part = [sample for sample in data if sample[0] == split]
        prefix = "t10k" if split == "test" else split
        images = np.stack([pixels for _, _, pixels in part])
        labels = np.array([key for _, key, _ in part], dtype=np.uint8)
        for kind, values in (("images", images), ("labels", labels)):
            content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            content += values.tobytes()
            name = f"{prefix}-{kind}-idx{values.ndim}-ubyte" + (".gz" if zipped else "")
            (root / name).write_bytes(gzip.compress(content) if zipped else content)
    return root


def idx_gz(root: Path, data: Sequence[Sample]) -> Path:
    return idx(root, data, zipped=True)


def packed(write: Callable[..., Path], suffix: str) -> Callable[[Path, Sequence[Sample]], Path]:
    """A writer that packs what another one wrote."""

    def pack(root: Path, data: Sequence[Sample]) -> Path:
        write(root / "content", data)
        archive = root / f"photos.{suffix}"
        if suffix == "zip":
            with zipfile.ZipFile(archive, "w") as out:
                for path in sorted((root / "content").rglob("*")):
                    out.write(path, path.relative_to(root))
        else:
            with tarfile.open(archive, f"w:{suffix.partition('.')[2]}") as out:
                out.add(root / "content", "content")
        return archive

    return pack


WITH_TEXT_IDS = {
    "folders": folders,
    "csv": table,
    "parquet": parquet,
    "folders.zip": packed(folders, "zip"),
    "csv.tar": packed(table, "tar"),
    "parquet.tar.xz": packed(parquet, "tar.xz"),
    "folders.tar.bz2": packed(folders, "tar.bz2"),
}
WITH_INTEGER_IDS = {
    "csv": table,
    "parquet": parquet,
    "idx": idx,
    "idx.gz": idx_gz,
    "idx.gz.tar.gz": packed(idx_gz, "tar.gz"),
    "csv.zip": packed(table, "zip"),
}
