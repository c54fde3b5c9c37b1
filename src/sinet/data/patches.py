"""Samples larger than a network's input: cut into patches, answered patch by patch, put together.

A file for volumes or hyperspectral scenes takes patches of one shape, float32 (N, C, *sides):
convolutions in three dimensions, attention windows and INT8 all want it fixed. Samples of any size
are handled outside of the file: windows slide over them, and their logits are averaged with the
weights of a Gaussian, so that the middle of a window, which sees most, counts most (nnU-Net,
arXiv:1809.10486). `slide` does exactly what MONAI's `sliding_window_inference` does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sinet.data.inputs import Input
from sinet.data.preprocess import Preprocess

Array = npt.NDArray[Any]
Window = Callable[[Array], Array]
"""Patches (N, C, *sides) -> their logits (N, classes, *sides), or (N, classes, 1, 1)."""

AT_ONCE = 2**18
"""Voxels or pixels of the patches that run together."""
SIGMA, LEAST = 0.125, 1e-3  # of the Gaussian, as a share of the side; the least weight


@dataclass(frozen=True)
class Patches(Preprocess):
    """How a volume or a scene becomes patches.

    `size` is the longest side; `mean` and `std` are of the values as they are, one a channel, or
    empty: then every sample is normalised by its own, zeros left out.
    """

    fit: str = "patches"
    """Nothing is resized to the patch."""
    sides: tuple[int, ...] = ()
    """Of a patch: two or three. Two on a volume: its slices across the last axis."""
    low: float | None = None
    """Smaller values become this one before they are normalised."""
    high: float | None = None
    """Larger values likewise."""
    spacing: tuple[float, ...] = ()
    """Millimetres a voxel to which volumes are resampled; empty = they stay as they are."""
    overlap: float = 0.5
    """Share of a window that the next one sees again."""
    centre: bool = False
    """Whether a window answers for its central pixel alone."""

    def __post_init__(self) -> None:
        if len(self.sides) not in (2, 3) or min(self.sides) < 1 or self.channels < 1:
            raise ValueError(f"two or three sides and a channel or more expected: {self}")
        if len(self.mean) not in (0, self.channels) or len(self.mean) != len(self.std):
            raise ValueError(f"one mean and one std for each channel, or none, expected: {self}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"an overlap from 0 to below 1 expected: {self}")

    @property
    def shape(self) -> tuple[int, int]:
        """Sides of the network's input; there may be three."""
        return self.sides  # type: ignore[return-value]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Patches:
        """The inverse of `to_dict`."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain)

    def normalised(self, array: Array) -> Array:
        """Clip, shift and scale, (C, ...) -> float32 (C, ...)."""
        array = array.astype(np.float32)
        if self.low is not None and self.high is not None:
            array = array.clip(self.low, self.high)
        rows = array.reshape(len(array), -1)
        if self.mean:
            mean, std = np.array(self.mean)[:, None], np.array(self.std)[:, None]
            rows = (rows - mean) / std
        else:
            rows = np.stack([_own(row) for row in rows])
        return rows.reshape(array.shape).astype(np.float32)


def _own(values: Array) -> Array:
    """Normalised by what is not zero; zeros, which are what lies outside of a scan, stay."""
    there = values != 0
    if not there.any():
        return values
    known = values[there]
    return np.where(there, (values - known.mean()) / max(float(known.std()), 1e-6), 0)


class PatchInput(Input):
    """Patches: float32 (N, C, *sides), normalised outside of the file.

    Args:
        preprocess: how a sample becomes patches.
    """

    in_graph = False

    def __init__(self, preprocess: Preprocess) -> None:
        assert isinstance(preprocess, Patches)
        self.preprocess = preprocess

    @abstractmethod
    def ready(self, sample: Any) -> Array:
        """What windows slide over, float32 (C, *S), normalised."""

    def feed(self, sample: Any) -> Array:
        """The first patch."""
        seen: list[Array] = []

        def keep(patches: Array) -> Array:
            seen.append(patches[:1])
            sides = (1, 1) if self.preprocess.centre else patches.shape[2:]
            return np.zeros((len(patches), 1, *sides), np.float32)

        self.slide(keep, self.ready(sample))
        return seen[0]

    def example(self, sides: Sequence[int]) -> Array:
        """A patch of noise."""
        shape = (1, self.preprocess.channels, *self.preprocess.sides)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def blank(self, count: int) -> Tensor:
        """Empty patches."""
        return torch.zeros(count, self.preprocess.channels, *self.preprocess.sides)

    def front(self) -> nn.Module:
        """Nothing: a file takes what the network takes."""
        return nn.Identity()

    def stack(self, samples: Sequence[Any]) -> Any:
        """A list: samples are cut one by one."""
        return list(samples)

    def conditions(self) -> dict[str, Any]:
        """The patch."""
        return {"sides": self.preprocess.sides}

    def slide(self, run: Window, array: Array) -> Array:
        """Logits of a normalised sample, (C, *S) -> (classes, *S)."""
        p = self.preprocess
        return centres(run, array, p.sides) if p.centre else slide(run, array, p.sides, p.overlap)

    @property
    def described(self) -> str:
        """Patches of one shape."""
        p = self.preprocess
        sides = ", ".join(map(str, p.sides))
        return f"float32 (N, {p.channels}, {sides}), a patch of normalised values"


def slide(run: Window, array: Array, sides: Sequence[int], overlap: float) -> Array:
    """Mean of the logits of windows, each weighted by a Gaussian.

    Args:
        run: a network.
        array: (C, *S); with one axis more than `sides`, its slices across the last axis.
        sides: of a window; what is smaller is padded with zeros on both ends.
        overlap: share of a window that the next one sees again.

    Returns:
        (classes, *S).
    """
    if array.ndim - 1 > len(sides):
        slices = np.moveaxis(array, -1, 0)
        return np.stack([slide(run, one, sides, overlap) for one in slices], -1)
    padded, inside = padded_to(array, sides)
    weight = gaussian(sides)
    total, weights = np.zeros((0,)), np.zeros(padded.shape[1:], np.float32)
    for places in _batches(places_of(padded.shape[1:], sides, overlap), prod(sides)):
        logits = run(np.stack([padded[place] for place in places]))
        if not total.size:
            total = np.zeros((logits.shape[1], *padded.shape[1:]), np.float32)
        for place, one in zip(places, logits, strict=True):
            total[place] += one * weight
            weights[place[1:]] += weight
    total /= weights
    whole: Array = total[inside]
    return whole


def centres(run: Window, array: Array, sides: Sequence[int]) -> Array:
    """Logits of the pixel in the middle of each window, (C, H, W) -> (classes, H, W)."""
    rim = [(side // 2, side - 1 - side // 2) for side in sides]
    padded = np.pad(array, [(0, 0), *rim])
    views = np.lib.stride_tricks.sliding_window_view(padded, tuple(sides), (1, 2))
    windows = views.transpose(1, 2, 0, 3, 4).reshape(-1, len(array), *sides)
    step = max(1, 8 * AT_ONCE // (len(array) * prod(sides)))
    parts = [run(windows[i : i + step].copy()) for i in range(0, len(windows), step)]
    logits = np.concatenate([part.reshape(len(part), -1) for part in parts])
    return logits.T.reshape(-1, *array.shape[1:])


def padded_to(array: Array, sides: Sequence[int], value: float = 0) -> tuple[Array, Any]:
    """The array with every side as long as the patch at least, and where it lies in there."""
    spare = [max(0, side - given) for side, given in zip(sides, array.shape[1:], strict=True)]
    rim = [(s // 2, s - s // 2) for s in spare]
    inside = [slice(r[0], r[0] + n) for r, n in zip(rim, array.shape[1:], strict=True)]
    return np.pad(array, [(0, 0), *rim], constant_values=value), (slice(None), *inside)


def places_of(
    shape: Sequence[int], sides: Sequence[int], overlap: float
) -> list[tuple[slice, ...]]:
    """Where the windows lie in an array (C, *shape), the last ones ending with it."""
    starts = []
    for given, side in zip(shape, sides, strict=True):
        step = side if side == given else max(1, int(side * (1 - overlap)))
        count = ceil((given - side) / step) + 1
        starts.append([min(i * step, given - side) for i in range(count)])
    return [
        (slice(None), *(slice(at, at + side) for at, side in zip(corner, sides, strict=True)))
        for corner in product(*starts)
    ]


def _batches(places: list[tuple[slice, ...]], volume: int) -> Iterator[list[tuple[slice, ...]]]:
    step = max(1, AT_ONCE // volume)
    for start in range(0, len(places), step):
        yield places[start : start + step]


def gaussian(sides: Sequence[int]) -> npt.NDArray[np.float32]:
    """Weights of a window's values: the product of a bell over each side, one in the middle."""
    weight = np.ones((), np.float32)
    for side in sides:
        x = np.arange(side, dtype=np.float32) - (side - 1) / 2
        weight = weight[..., None] * np.exp(-(x**2) / (2 * (SIGMA * side) ** 2)).astype(np.float32)
    return np.maximum(weight, max(float(weight.min()), LEAST)).astype(np.float32)
