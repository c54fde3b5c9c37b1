"""Segmentation of volumes: logits of patches -> the class of every voxel on the volume's grid."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from sinet.data.dataset import Split
from sinet.data.masks import VOID, draw_mask
from sinet.data.volumes import VolumeInput, planes_of, spacing_of, write_labels
from sinet.tasks.signatures.base import Array, Facts, Result, Run, Scorer, Signature, bootstrap


@dataclass(frozen=True)
class Labels(Result):
    """The class of every voxel of one volume."""

    source: str
    """Path of the file or the series, or its place in the input such as `#3`."""
    classes: npt.NDArray[np.uint8]
    """Class index of each voxel, (X, Y, Z); empty where the volume could not be read."""
    affine: npt.NDArray[np.float64]
    """From voxels to millimetres, as the volume has it."""
    facts: Facts
    """Of the model: its classes and ids."""
    error: str | None = None
    """Why the volume could not be read."""

    @property
    def millilitres(self) -> dict[str, float]:
        """Volume of each class."""
        counts = np.bincount(self.classes.ravel(), minlength=256)
        each = abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000
        return {name: counts[i] * each for i, name in enumerate(self.facts.classes)}

    def rows(self, top: int = 1) -> list[dict[str, Any]]:
        """One row: millilitres of each class."""
        failed = self.error is not None
        found = self.millilitres.items()
        return [{f"{k} ml": "" if failed else round(float(v), 4) for k, v in found}]

    def to_json(self) -> dict[str, Any]:
        """Sides, affine and millilitres; the map itself is what `save` writes."""
        known = self.error is None
        return {
            "source": self.source,
            "size": list(self.classes.shape),
            "affine": self.affine.tolist() if known else [],
            "millilitres": {k: float(v) for k, v in self.millilitres.items()} if known else {},
            "error": self.error,
        }

    def draw(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        """Three planes through the middle with their classes as colours."""
        names = ["background", *self.facts.classes[1:]]  # the first class is what is around
        return draw_mask(image, planes_of(self.classes, labels=True), names)

    def save(self, folder: Path) -> Path:
        """`NAME.nii.gz`: the user's own label of every voxel, with the affine of the volume."""
        ids = self.facts.class_ids
        own = [v if isinstance(v, int) else i for i, v in enumerate(ids)]
        table = np.array([*own, *[0] * (256 - len(own))], np.int64)
        name = Path(self.source).name.split(".")[0].strip("#") or "volume"
        return write_labels(folder / f"{name}.nii.gz", table[self.classes], self.affine)


class VolumeLabels(Signature):
    """`logits` (N, classes, *sides) of patches -> `classes` uint8 (N, *sides) of patches.

    `through` puts the patches together: both outputs are then those of the whole volume, and
    `affine` says where it is.
    """

    raw = ("logits",)
    names = ("classes",)
    metric = "val/dice"
    metric_name = "mean Dice"
    hub_tag = "image-segmentation"
    batched = False
    mirror, maps = 2, True

    @cached_property
    def input(self) -> VolumeInput:
        """Volumes, in patches."""
        return VolumeInput(self.facts.preprocess)

    def through(self, run: Run, samples: Any, names: Sequence[str]) -> dict[str, Array]:
        """Windows over every volume, which must have one shape where there are several."""
        found = []
        for volume in samples:
            ready = self.input.ready(volume)
            logits = self.input.slide(lambda patches: run(patches, ["logits"])["logits"], ready)
            found.append(self.input.own_grid(logits, volume))
        logits = np.stack(found)
        known = {"logits": logits, "classes": logits.argmax(1).astype(np.uint8)}
        affines = np.stack([volume.affine for volume in samples])
        return {name: known[name] for name in names} | {"affine": affines}

    @property
    def described(self) -> str:
        """The map of classes."""
        sides = ", ".join(map(str, self.facts.preprocess.shape))
        return f"`classes`, uint8 (N, {sides}), the class of every voxel of a patch; and `logits`"

    def tail(self) -> nn.Module:
        """The likeliest class."""
        return Likeliest()

    def scorer(self) -> Scorer:
        """Mean Dice, with the Hausdorff distance of each class."""
        return VoxelScorer(self.facts)

    def result(self, source: str, outputs: Mapping[str, Array]) -> Labels:
        """The map as it is; a patch alone has no place."""
        affine = outputs.get("affine", np.eye(4))
        return Labels(source, outputs["classes"], affine, self.facts)

    def failed(self, source: str, reason: str) -> Labels:
        """A map without voxels."""
        return Labels(source, np.zeros((0, 0, 0), np.uint8), np.eye(4), self.facts, reason)

    def truth(self, split: Split, i: int, order: Array | None = None) -> Any:
        """The labels, uint8 (X, Y, Z), in the model's order of classes."""
        mask: Array = split.targets[i].read()
        return mask if order is None else reordered(mask, order)

    def truth_result(self, source: str, truth: Any) -> Labels:
        """The labels as an answer."""
        return Labels(source, truth, np.eye(4), self.facts)


def reordered(mask: Array, order: Array) -> Array:
    """A mask in the model's order of classes; what the model does not know becomes void."""
    table = np.full(256, VOID, dtype=np.uint8)
    table[: len(order)] = np.where(order >= 0, order, VOID)
    return table[mask]


class Likeliest(nn.Module):
    """The class with the largest logit, uint8."""

    def forward(self, images: Tensor, logits: Tensor) -> tuple[Tensor]:
        """(N, classes, ...) -> (N, ...)."""
        return (logits.argmax(1).to(torch.uint8),)


class VoxelScorer(Scorer):
    """Dice of every volume and class but the first, which is what is around them.

    As usual for volumes, a class counts where the truth has it, and the mean is over volumes first.

    Args:
        facts: about the model.
    """

    name = "val/dice"

    def __init__(self, facts: Facts) -> None:
        self.classes = facts.classes
        self._dices: list[Array] = []
        self._maps: list[tuple[Array, Array, tuple[float, ...]]] = []

    def update(self, outputs: Mapping[str, Array], truths: Sequence[Any]) -> None:
        """Take in maps (N, X, Y, Z) and their labels."""
        affines = outputs.get("affine", [np.eye(4)] * len(truths))
        for found, truth, affine in zip(outputs["classes"], truths, affines, strict=True):
            self._dices.append(dices(found, truth, len(self.classes)))
            self._maps.append((found, truth, spacing_of(affine)))

    def value(self) -> float:
        """Mean over the classes of the mean over volumes."""
        return mean_dice(np.stack(self._dices))

    def interval(self) -> tuple[float, float]:
        """A bootstrap over volumes."""
        table = np.stack(self._dices)
        return bootstrap(lambda drawn: mean_dice(table[drawn]), len(table))

    def per_class(self) -> list[dict[str, Any]]:
        """Share of the voxels, Dice, and the 95th percentile of the distance of surfaces."""
        table = np.stack(self._dices)
        distances = [hausdorff(f, t, len(self.classes), mm) for f, t, mm in self._maps]
        truths = [np.bincount(t[t != VOID], minlength=len(self.classes)) for _, t, _ in self._maps]
        voxels = np.sum(truths, 0)
        rows = []
        for i, name in enumerate(self.classes):
            dice, far = _mean(table[:, i]), _mean(np.stack(distances)[:, i])
            rows.append(
                {
                    "name": name,
                    "voxels": float(voxels[i] / max(1, voxels.sum())),
                    "dice": 0.0 if np.isnan(dice) else float(dice),
                    "hd95 mm": "" if np.isnan(far) else f"{far:.2f}",
                }
            )
        return rows

    def per_input(self) -> Array:
        """Mean Dice of each volume."""
        return np.array([mean_dice(row[None]) for row in self._dices])


def _mean(values: Array) -> float:
    """Mean of what is known; nan if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def dices(found: Array, truth: Array, classes: int) -> Array:
    """Dice of each class, (classes,); nan where the truth lacks it. Void counts for nothing."""
    known = truth != VOID
    flat = truth[known].astype(np.int64) * classes + found[known].astype(np.int64)
    counts = np.bincount(flat, minlength=classes**2).reshape(classes, classes)
    both, true, said = np.diag(counts), counts.sum(1), counts.sum(0)
    return np.where(true > 0, 2 * both / np.maximum(true + said, 1), np.nan)


def mean_dice(table: Array) -> float:
    """Mean over the classes but the first of the mean over volumes, (volumes, classes)."""
    means = [_mean(column) for column in table[:, 1:].T]
    known = [mean for mean in means if not np.isnan(mean)]
    return float(np.mean(known)) if known else 0.0


def hausdorff(found: Array, truth: Array, classes: int, spacing: tuple[float, ...]) -> Array:
    """95th percentile of the distance between surfaces, mm, (classes,); MONAI's.

    nan for the first class and where truth or answer lacks the class; everywhere without MONAI.
    """
    scores = np.full(classes, np.nan)
    both = [
        c
        for c in range(1, classes)
        if (truth == c).any() and ((found == c) & (truth != VOID)).any()
    ]
    if not both or any(importlib.util.find_spec(name) is None for name in ("monai", "scipy")):
        return scores
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_hausdorff_distance

        said = np.stack([(found == c) & (truth != VOID) for c in both])[None]
        true = np.stack([truth == c for c in both])[None]
        distance = compute_hausdorff_distance(
            torch.from_numpy(said),
            torch.from_numpy(true),
            include_background=True,
            percentile=95,
            spacing=list(spacing),
        )
    scores[both] = distance[0].numpy()
    return scores


SIGNATURE = VolumeLabels
