"""IDX files, as MNIST and its relatives come: `train-images-idx3-ubyte[.gz]` with its labels.

Class id = the integer in the file; names come from `labels.txt` or `classes.txt` beside it, one a
line, line 1 for class 0. The format: two zero bytes, a type, the number of dimensions, the
dimensions as big-endian 32-bit integers, then the values (http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sinet.data.dataset import ALL, ImageDataset
from sinet.data.readers._layout import Found, assemble, split_in, visible
from sinet.errors import DataError

FORMAT = "IDX files"
EXPECTS = "train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], t10k-..., labels.txt"
TASK = "classify"

_IMAGES = re.compile(r"images[-._]idx[34]-ubyte(\.gz)?$", re.IGNORECASE)
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4"}


def detect(root: Path) -> bool:
    """A folder with a file of images in it."""
    return root.is_dir() and bool(_image_files(root))


def read(root: Path) -> ImageDataset:
    """Read images and labels into memory."""
    found: dict[str, Found] = {}
    for path in _image_files(root):
        split = split_in(path.name) or ALL
        if split in found:
            raise DataError(f"{root}: more than one IDX file for {split}; keep one: {path.name}")
        images, labels = read_idx(path), read_idx(_labels_of(path))
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.ndim != 1:
            raise DataError(f"{path} holds {images.dtype} {images.shape}; expected uint8 images")
        if len(images) != len(labels):
            raise DataError(
                f"{path.name} has {len(images)} images but its label file {len(labels)} labels; "
                "they must belong together: download both again"
            )
        found[split] = Found(images, labels.tolist(), [f"{split}/{i}" for i in range(len(images))])
    ids = sorted({label for part in found.values() for label in part.labels})
    names = _names(root)
    if names and max(ids) >= len(names):
        raise DataError(
            f"{root}: label {max(ids)} has no line in the file of class names ({len(names)} "
            "lines); add the missing names, or delete the file"
        )
    return assemble(root, FORMAT, found, {i: names[i] if names else str(i) for i in ids})


def _image_files(root: Path) -> list[Path]:
    return [path for path in visible(root) if _IMAGES.search(path.name)]


def _labels_of(images: Path) -> Path:
    """The label file that belongs to a file of images, compressed or not."""
    name = re.sub("images", "labels", images.name, flags=re.IGNORECASE)
    name = re.sub("idx[34]", "idx1", name, flags=re.IGNORECASE).removesuffix(".gz")
    for path in (images.with_name(name), images.with_name(name + ".gz")):
        if path.is_file():
            return path
    raise DataError(f"{images} has no label file beside it; expected {name} or {name}.gz")


def _names(root: Path) -> list[str]:
    for name in ("labels.txt", "classes.txt"):
        if (root / name).is_file():
            lines = (root / name).read_text(encoding="utf-8").splitlines()
            return [line.strip() for line in lines if line.strip()]
    return []


def read_idx(path: Path) -> npt.NDArray[Any]:
    """One IDX file as an array.

    Raises:
        DataError: not an IDX file, or cut short.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        zeros, kind, ndim = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
        dtype = np.dtype(_TYPES[kind])
        values = content[4 + 4 * ndim :]
        if zeros or len(values) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(values)} bytes of values for the shape {shape}")
    except (EOFError, OSError, zlib.error, struct.error, KeyError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        raise DataError(
            f"{path} is not a whole IDX file ({error}); expected a header and the values that it "
            "announces: download it again"
        ) from error
    # A copy that may be written to: torch warns about read-only memory.
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="))
