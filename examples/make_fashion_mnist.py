"""Cut the bundled demonstration data out of the full Fashion-MNIST.

    python examples/make_fashion_mnist.py /usr/share/datasets/fashion-mnist

The source is the folder of the four IDX files (Debian package `dataset-fashion-mnist`, or
https://github.com/zalandoresearch/fashion-mnist). Result: `examples/fashion-mnist/` with 1,000
training and 200 test pictures of each class, the same ones every time.
"""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sinet.data.readers.idx import read_idx
from sinet.files import atomic_path, write_text

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
PER_CLASS = {"train": 1000, "t10k": 200}
SEED = 0


def main(source: Path, target: Path) -> None:
    """Write the subset of both splits and the class names."""
    for prefix, count in PER_CLASS.items():
        images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        chosen = balanced(labels, count)
        write_idx(target / f"{prefix}-images-idx3-ubyte.gz", images[chosen])
        write_idx(target / f"{prefix}-labels-idx1-ubyte.gz", labels[chosen])
    write_text(target / "labels.txt", "\n".join(CLASSES) + "\n")


def balanced(labels: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int64]:
    """Positions of `count` random samples of each class, in their original order."""
    random = np.random.default_rng(SEED)
    members = (np.flatnonzero(labels == value) for value in np.unique(labels))
    return np.sort(np.concatenate([random.choice(m, count, replace=False) for m in members]))


def write_idx(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """One gzipped IDX file of unsigned bytes; the same bytes every time (no time stamp)."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(header + values.tobytes(), 9, mtime=0))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(__file__).parent / "fashion-mnist")
