"""Segmentation of volumes: networks learn patches, and are judged on whole volumes.

MONAI (extra `medical`) cuts and changes the patches; the rest is the road of every task.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from sinet.data.dataset import ImageDataset, Split
from sinet.data.image import ImageError
from sinet.data.masks import VOID
from sinet.data.memory import available_bytes
from sinet.data.patches import Patches, padded_to
from sinet.data.preprocess import Preprocess
from sinet.data.volumes import Volume, VolumeInput, resampled, shape_of, turned
from sinet.models.spec import ModelSpec
from sinet.tasks._patches import Case, PatchTask
from sinet.tasks._volume_stats import typical_sides, volume_stats
from sinet.tasks.base import once
from sinet.tasks.signatures.volume import dices
from sinet.training.recipe import Recipe

USUAL = (
    "swin_unetr_small", "swin_unetr_tiny", "unetpp_monai_3d", "swin_unetr", "swin_unetr_v2",
    "hdenseunet_3d", "unetpp_nnunet_3d", "swin_unetr_2d", "hdenseunet",
)  # fmt: skip
SIZES = (64, 96, 128)
"""Longest sides of the patches that are tried, voxels, as far as the volumes are that large."""
MEMORY_SHARE = 0.4
CALIBRATION_VOXELS = 2**21
PLACES = 20_000
"""Voxels of each class in a volume that a patch may be centred on."""


class Cases:
    """Volumes as windows slide over them, with their labels on the same grid.

    They are kept in memory as far as they fit into it.
    """

    def __init__(self, split: Split, preprocess: Preprocess, places: bool) -> None:
        self.split, self.input, self.places = split, VolumeInput(preprocess), places
        voxels = [prod(shape_of(path)[0]) for path in split.items if isinstance(path, Path)]
        self._fits = 12 * sum(voxels) <= MEMORY_SHARE * available_bytes()
        self._kept: dict[int, Case] = {}

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: list[int]) -> list[Case]:
        """`image` (C, X, Y, Z), `label` (X, Y, Z), and where each class is."""
        return [self._kept.get(i) or self._read(i) for i in indices]

    def _read(self, i: int) -> Case:
        volume = self.input.load(self.split, i)
        label = self.split.targets[i].read()
        if label.shape != volume.shape[1:]:
            raise ImageError(self.split.names[i], "its label map has another shape")
        right = turned(volume)
        labels = turned(Volume(label[None], volume.affine)).array
        sides = self.input.sides(right)
        labels = resampled(labels, sides, labels=True).astype(np.uint8)
        image = self.input.preprocess.normalised(resampled(right.array, sides))
        case: Case = {}
        if self.places:  # patches are cut from it: nothing may be smaller than one
            wanted = (*self.input.preprocess.sides, 1)[:3]
            image, _ = padded_to(image, wanted)
            labels, _ = padded_to(labels, wanted, VOID)
            case["places"] = _places(labels[0], len(self.split.targets[i].values), seed=i)
        case |= {"image": torch.from_numpy(image), "label": torch.from_numpy(labels[0]).long()}
        if self._fits:
            self._kept[i] = case
        return case


def _places(labels: npt.NDArray[np.uint8], classes: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Flat indices of each class, at most `PLACES` of them."""
    random = np.random.default_rng(seed)
    flat = labels.ravel()
    found = [np.flatnonzero(flat == c) for c in range(classes)]
    return [random.choice(f, PLACES, replace=False) if len(f) > PLACES else f for f in found]


class Volumes(PatchTask):
    """Learns a network that gives logits of a patch; metrics are those of whole volumes.

    Metrics: mean Dice over the classes but the first, and the loss.
    """

    name = "volume"
    options = frozenset({"loss", "label_smoothing", "color_jitter", "flip", "tta"})

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__(network, data, recipe, preprocess)
        self.dice = nn.ModuleList(MeanMetric() for _ in data.classes)
        self.mean_loss = MeanMetric()

    @staticmethod
    def typical(data: ImageDataset) -> tuple[int, ...]:
        """Median sides of some training volumes."""
        return typical_sides(data)

    @staticmethod
    def stats(data: ImageDataset) -> Any:
        """What the training volumes are like, from some of them."""
        return once(data.train, "stats", lambda: volume_stats(data))

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """Networks for volumes, with patches of the volumes' shape."""
        longest = max(typical_sides(data))
        sizes = [s for s in SIZES if s == SIZES[0] or longest >= s][:2]
        return [ModelSpec(name, size) for size in sizes for name in USUAL]

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """One recipe."""
        return "volume"

    @staticmethod
    def preprocessing(spec: ModelSpec, data: ImageDataset, stats: Any = None) -> Preprocess:
        """Patches as nearly of the volumes' shape as the network allows."""
        known = stats or Volumes.stats(data)
        sides = patch_sides(spec.name, spec.size, known.sides)
        return Patches(
            max(sides),
            data.channels,
            known.mean,
            known.std,
            sides=sides,
            low=known.low,
            high=known.high,
            spacing=known.spacing,
        )

    def train_source(self, limit: int | None = None) -> Any:
        """The training volumes; patches are cut by `augment`."""
        split = self.train_split(limit)
        return once(split, ("train", self.patches), lambda: Cases(split, self.patches, True))

    def val_source(self, split: Split | None = None) -> Any:
        """Whole volumes."""
        chosen = split or self.data.val
        return once(chosen, ("val", self.patches), lambda: Cases(chosen, self.patches, False))

    def calibration(self, split: Split) -> Iterator[npt.NDArray[np.float32]]:
        """Patches around training voxels of every class, one at a time."""
        count = max(4, min(128, CALIBRATION_VOXELS // prod(self.patches.sides)))
        source = Cases(split, self.patches, True)
        random = np.random.default_rng(self.recipe.seed)
        for i in random.integers(0, len(source), count):
            (case,) = source.__getitems__([int(i)])
            crop = self._transforms[0].set_random_state(seed=int(random.integers(2**31)))
            yield self._flat(crop(case))[0][None].numpy()

    @cached_property
    def _transforms(self) -> list[Any]:
        """MONAI's: a crop around a voxel of any class, mirroring, intensities."""
        with warnings.catch_warnings():  # of packages that MONAI imports if they are there
            warnings.simplefilter("ignore")
            from monai import transforms as mt

        sides, both = (*self.patches.sides, 1)[:3], ["image", "label"]
        crop = _Crop(mt.RandCropByLabelClasses, sides, self.data.num_classes)
        found: list[Any] = [crop]
        if self.recipe.flip == "horizontal":
            axes = range(len(self.patches.sides))
            found += [mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in axes]
        if strength := self.recipe.color_jitter:
            found.append(mt.RandScaleIntensityd(["image"], factors=strength, prob=0.5))
            found.append(mt.RandShiftIntensityd(["image"], offsets=strength, prob=0.5))
            found.append(mt.RandGaussianNoised(["image"], prob=0.2, std=strength))
        return found

    def augment(self, batch: Sequence[Case], size: int) -> tuple[Tensor, Tensor]:
        """Cut a patch of each volume, mirror it, change its intensities."""
        images, labels = [], []
        for case in batch:
            changed = case
            for transform in self._transforms:
                transform.set_random_state(seed=int(torch.randint(2**31, ())))
                changed = transform(changed)
            image, label = self._flat(changed)
            images.append(image)
            labels.append(label)
        return torch.stack(images), torch.stack(labels)

    def _flat(self, case: Case) -> tuple[Tensor, Tensor]:
        """Plain tensors (C, *sides) and (*sides); a slice loses its third axis."""
        image, label = (
            torch.as_tensor(case[key]).as_subclass(Tensor) for key in ("image", "label")
        )
        if len(self.patches.sides) == 2:
            image, label = image[..., 0], label[..., 0]
        return image.float(), label[0].long()

    def validation_step(self, batch: Sequence[Case], batch_index: int) -> None:
        """Take volumes into loss and Dice."""
        for case in batch:
            logits, label = self.whole(case["image"]), case["label"].cpu()
            self.mean_loss.update(self.whole_loss(logits, label))
            found = logits.argmax(0).numpy().astype(np.uint8)
            scores = dices(found, label.numpy().astype(np.uint8), self.data.num_classes)
            each: list[Any] = list(self.dice)
            for metric, score in zip(each, scores.tolist(), strict=True):
                known = score == score
                metric.update(score if known else 0.0, float(known))

    def metrics(self) -> dict[str, float]:
        """Mean over classes of the mean over the volumes that have them."""
        each: list[Any] = list(self.dice)
        means = [float(metric.compute()) for metric in each[1:]]
        known = [mean for mean in means if mean == mean]
        loss = float(self.mean_loss.compute())
        for metric in (*each, self.mean_loss):
            metric.reset()
        return {"val/loss": loss, "val/dice": float(np.mean(known)) if known else 0.0}


class _Crop:
    """`RandCropByLabelClasses` with the places known beforehand."""

    def __init__(self, kind: Any, sides: tuple[int, ...], classes: int) -> None:
        self.kind, self.sides, self.classes = kind, sides, classes
        self.seed = 0

    def set_random_state(self, seed: int) -> _Crop:
        self.seed = seed
        return self

    def __call__(self, case: Case) -> Case:
        label, places = case["label"][None], case["places"]
        there = [float(len(found) > 0) for found in places]
        crop = self.kind(self.sides, there, num_classes=self.classes, num_samples=1)
        crop.set_random_state(seed=self.seed)
        (cut,) = crop(label, label, indices=places)
        (image,) = crop(case["image"], randomize=False)
        return {"image": image, "label": cut}


def patch_sides(name: str, size: int, typical: Sequence[int]) -> tuple[int, ...]:
    """Sides of a network's patch: as the volumes are, at most `size`, in the multiples it takes."""
    planar = is_planar(name)
    steps = [32, 32, 4] if name.startswith("hdenseunet") else [16 if "unetpp" in name else 32] * 3
    axes = range(2 if planar else 3)
    sides = [max(steps[a], round(min(size, typical[a]) / steps[a]) * steps[a]) for a in axes]
    if name.startswith("swin_unetr") and max(sides) == 32:
        sides[int(np.argmax([typical[a] for a in axes]))] = 64  # a single position has no variance
    return tuple(sides)


def is_planar(name: str) -> bool:
    """Whether a network looks at slices, not at volumes."""
    if name.startswith("swin_unetr"):
        return "2d" in name or name.endswith("test")
    if name.startswith("hdenseunet"):
        return "2d" in name
    return "3d" not in name


LEARNER = Volumes
