"""Hyperspectral scenes: patch-free networks with the GS2 sampler, and a patch-based baseline.

A patch-free network sees the whole scene in every step; the pixels that count in the step are a
stratum of the labelled ones (`sinet.data.gs2`). The baseline sees the patch around one pixel. An
epoch is once through all strata, or all pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from sinet.data.cubes import CubeInput, read_cube
from sinet.data.dataset import ImageDataset, Split
from sinet.data.gs2 import GS2
from sinet.data.masks import VOID
from sinet.data.patches import Patches, padded_to
from sinet.data.preprocess import Preprocess
from sinet.data.readers.cubes import SEED
from sinet.models.spec import ModelSpec
from sinet.tasks._patches import Case, PatchTask
from sinet.tasks.base import once
from sinet.tasks.signatures.hyperspectral import accuracies
from sinet.training.recipe import Recipe

PATCH = 9
"""Side of the baseline's patches, pixels."""
MULTIPLE, LARGEST = 16, 2**20
"""Sides of a window are multiples of the first; it has no more pixels than the second."""
PER_STRATUM = 20
CALIBRATION_PATCHES = 256


def looks_at_patches(name: str) -> bool:
    """Whether a network classifies the pixel in the middle of a patch."""
    return name.startswith("spectral_patch")


class Scenes:
    """Scenes as windows slide over them, and their labels."""

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        self.split, self.input = split, CubeInput(preprocess)
        self._kept: dict[int, Case] = {}

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: list[int]) -> list[Case]:
        """`image` (bands, H, W) and `label` (H, W)."""
        return [self[i] for i in indices]

    def __getitem__(self, i: int) -> Case:
        if i not in self._kept:
            image = self.input.ready(self.input.load(self.split, i))
            label = self.split.targets[i].read()
            label = torch.from_numpy(label).long()
            self._kept[i] = {"image": torch.from_numpy(image), "label": label}
        return self._kept[i]


class Strata:
    """Scenes to learn from: a sample is a stratum of one of them; see `GS2`."""

    def __init__(self, split: Split, preprocess: Patches, limit: int | None, seed: int = 0) -> None:
        scenes = Scenes(split, preprocess)
        self.cases: list[Case] = []
        for i, gs2 in enumerate(samplers(split, preprocess.sides, seed)):
            case = scenes[i]
            image, _ = padded_to(case["image"].numpy(), preprocess.sides)
            label, _ = padded_to(case["label"].numpy()[None], preprocess.sides, VOID)
            tensors = {"image": torch.from_numpy(image), "label": torch.from_numpy(label[0])}
            self.cases += [{**tensors, "gs2": gs2, "stratum": t} for t in range(len(gs2))]
        self.cases = self.cases[:limit]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitems__(self, indices: list[int]) -> list[Case]:
        """Whole scenes, each with the sampler and the number of the stratum."""
        return [self.cases[i] for i in indices]


class Centres:
    """Patches around the labelled pixels, and the classes of these."""

    def __init__(self, split: Split, preprocess: Patches, limit: int | None) -> None:
        scenes, side = Scenes(split, preprocess), preprocess.sides[0]
        self.side, self.images, places = side, [], []
        for number in range(len(scenes)):
            case = scenes[number]
            rim = (side // 2, side - 1 - side // 2)
            self.images.append(nn.functional.pad(case["image"], (*rim, *rim)))
            at = (case["label"] != VOID).nonzero()
            classes = case["label"][at[:, 0], at[:, 1]]
            places.append(torch.cat([torch.full((len(at), 1), number), at, classes[:, None]], 1))
        self.places = torch.cat(places)
        if limit is not None:
            self.places = self.places[:: max(1, len(self.places) // limit)][:limit]

    def __len__(self) -> int:
        return len(self.places)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """float32 (N, bands, side, side) and int64 (N, 1, 1)."""
        rows, s = self.places[indices].tolist(), self.side
        patches = [self.images[n][:, y : y + s, x : x + s] for n, y, x, _ in rows]
        return torch.stack(patches), torch.tensor([c for *_, c in rows]).view(-1, 1, 1)


class SpectralTask(PatchTask):
    """Learns the class of every pixel of a scene.

    Metrics: overall accuracy, average accuracy over the classes, Cohen's kappa, loss.
    """

    name = "hyperspectral"
    options = frozenset({"loss", "label_smoothing", "flip", "tta"})

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__(network, data, recipe, preprocess)
        self.counts = MulticlassConfusionMatrix(data.num_classes, ignore_index=VOID)
        self.mean_loss = MeanMetric()

    @staticmethod
    def typical(data: ImageDataset) -> tuple[int, ...]:
        """Sides of the largest training scene."""
        shapes = [target.read().shape for target in data.train.targets]
        return tuple(int(side) for side in np.max(shapes, 0))

    @staticmethod
    def stats(data: ImageDataset) -> Any:
        """Mean and deviation of every band over the training scenes, labelled or not."""
        return once(data.train, "stats", lambda: _band_stats(data.train))

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """FreeNet in three widths on the whole scene, and the baseline on patches."""
        longest = max(_window(SpectralTask.typical(data)))
        ratios: list[dict[str, Any]] = [{}, {"ratio": 0.5}, {"ratio": 0.25}]
        free = [ModelSpec("freenet_paviau", longest, ratio) for ratio in ratios]
        return [*free, ModelSpec("spectral_patch", PATCH)]

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """Scenes and patches are learned in different ways."""
        return "hyperspectral_patch" if looks_at_patches(spec.name) else "hyperspectral"

    @staticmethod
    def preprocessing(spec: ModelSpec, data: ImageDataset, stats: Any = None) -> Preprocess:
        """The whole scene in one window where it is not too large; or a patch."""
        mean, std = stats or SpectralTask.stats(data)
        centre = looks_at_patches(spec.name)
        sides = (min(spec.size, PATCH),) * 2 if centre else _window(SpectralTask.typical(data))
        return Patches(max(sides), data.channels, mean, std, sides=sides, centre=centre)

    @staticmethod
    def epoch_samples(data: ImageDataset, spec: ModelSpec) -> int:
        """Strata, or labelled pixels."""
        if looks_at_patches(spec.name):
            labels = [target.read() for target in data.train.targets]
            return sum(int((label != VOID).sum()) for label in labels)
        return sum(len(gs2) for gs2 in samplers(data.train, _window(SpectralTask.typical(data))))

    def train_source(self, limit: int | None = None) -> Any:
        """Strata of scenes, or patches around pixels."""
        if self.patches.centre:
            return Centres(self.data.train, self.patches, limit)
        return Strata(self.data.train, self.patches, limit, self.recipe.seed)

    def val_source(self, split: Split | None = None) -> Any:
        """Whole scenes."""
        chosen = split or self.data.val
        return once(chosen, ("val", self.patches), lambda: Scenes(chosen, self.patches))

    def calibration(self, split: Split) -> Iterator[npt.NDArray[np.float32]]:
        """Patches of training pixels, or the scenes."""
        if self.patches.centre:
            source = Centres(split, self.patches, CALIBRATION_PATCHES)
            for start in range(0, len(source), 32):
                indices = list(range(start, min(start + 32, len(source))))
                yield source.__getitems__(indices)[0].numpy()
            return
        random = torch.Generator().manual_seed(self.recipe.seed)
        for case in Scenes(split, self.patches).__getitems__(list(range(len(split)))):
            image, _ = padded_to(case["image"].numpy(), self.patches.sides)
            yield self._cut(torch.from_numpy(image), random)[0][None].numpy()

    def augment(self, batch: Any, size: int) -> tuple[Tensor, Tensor]:
        """Windows with the stratum of this step, or patches; mirrored if the recipe asks."""
        images, targets = batch if self.patches.centre else self._strata(batch)
        if self.recipe.flip == "horizontal":
            for axis in (-1, -2):
                if torch.rand(()) < 0.5:
                    images, targets = images.flip(axis), targets.flip(axis)
        return images, targets

    def _strata(self, batch: Sequence[Case]) -> tuple[Tensor, Tensor]:
        drawn = samplers(self.data.train, self.patches.sides, self.recipe.seed)
        epoch = self.global_step * len(batch) // max(1, sum(map(len, drawn)))
        images, targets = [], []
        for case in batch:
            label = case["label"]
            image, place = self._cut(case["image"], None)
            if image.shape == case["image"].shape:
                chosen = torch.from_numpy(case["gs2"].order(epoch)[case["stratum"]])
                target = torch.full_like(label, VOID).flatten()
                target[chosen] = label.flatten()[chosen.to(label.device)]
                label = target.view_as(label)
            images.append(image)
            targets.append(label[place[1:]])
        return torch.stack(images), torch.stack(targets)

    def _cut(self, image: Tensor, random: torch.Generator | None) -> tuple[Tensor, Any]:
        """A window somewhere in a scene that is larger than it."""
        place: list[slice] = [slice(None)]
        for given, side in zip(image.shape[1:], self.patches.sides, strict=True):
            start = int(torch.randint(given - side + 1, (), generator=random))
            place.append(slice(start, start + side))
        return image[tuple(place)], tuple(place)

    def validation_step(self, batch: Sequence[Case], batch_index: int) -> None:
        """Take scenes into loss and counts."""
        for case in batch:
            logits, label = self.whole(case["image"]), case["label"].cpu()
            self.mean_loss.update(self.whole_loss(logits, label))
            found = logits.argmax(0)
            self.counts.update(found.to(self.device)[None], label.to(self.device)[None])

    def metrics(self) -> dict[str, float]:
        """Over the labelled pixels of all scenes at once."""
        counts, loss = self.counts.compute().cpu().numpy(), float(self.mean_loss.compute())
        self.counts.reset()
        self.mean_loss.reset()
        return {"val/loss": loss} | {f"val/{k}": v for k, v in accuracies(counts).items()}


def samplers(split: Split, sides: Sequence[int], seed: int = 0) -> list[GS2]:
    """A sampler for every scene, on the grid of the padded one."""

    def make() -> list[GS2]:
        made = []
        for target in split.targets:
            label, _ = padded_to(target.read()[None], sides, VOID)
            known = np.where(label[0] == VOID, 0, label[0].astype(np.int64) + 1)
            made.append(GS2(known, np.flatnonzero(known > 0), PER_STRATUM, SEED + seed))
        return made

    found: list[GS2] = once(split, ("gs2", tuple(sides), seed), make)
    return found


def _window(sides: Sequence[int]) -> tuple[int, ...]:
    """The scene's sides rounded up, the longer halved while there are too many pixels."""
    window = [-(-side // MULTIPLE) * MULTIPLE for side in sides]
    while prod(window) > LARGEST:
        longest = int(np.argmax(window))
        window[longest] = -(-window[longest] // (2 * MULTIPLE)) * MULTIPLE
    return tuple(window)


def _band_stats(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    count, total, squares = 0, 0.0, 0.0
    for item in split.items:
        rows = read_cube(item).astype(np.float64)
        rows = rows.reshape(-1, rows.shape[-1])
        count, total = count + len(rows), total + rows.sum(0)
        squares = squares + np.square(rows).sum(0)
    mean = np.asarray(total / count)
    std = np.sqrt(np.maximum(np.asarray(squares / count) - mean**2, 1e-12))
    first, second = ([float(f"{v:.6g}") for v in both] for both in (mean, std))
    return tuple(first), tuple(second)


LEARNER = SpectralTask
