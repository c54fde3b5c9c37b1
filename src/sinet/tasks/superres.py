"""Super-resolution: the picture, several times larger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from sinet.data.bicubic import enlarge
from sinet.data.dataset import ImageDataset, Split
from sinet.data.pairs import as_seen
from sinet.data.photos import PhotoPairs
from sinet.data.preprocess import Preprocess
from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.tasks.base import ImageTask, once
from sinet.tasks.signatures.superres import luma, psnr, ssim
from sinet.training.inputs import Stats
from sinet.training.loader import derived_seed
from sinet.training.recipe import Recipe

PATCH, PATCHES = 48, 4
"""Side of a training window before it is enlarged, pixels, and windows of each picture in a batch:
decoding a picture for one window would be a waste."""
MIDDLE = 64
"""Side of what is validated on, before it is enlarged: the middle of every picture."""

_NAMES = ("loss", "psnr", "ssim", "gain")
# Narrow ones first learn more in few minutes; all are this library's.
_NETWORKS: dict[int, list[tuple[str, dict[str, Any]]]] = {
    2: [
        ("cfsr_x2", {}),
        ("cfsr_x2", {"dim": 32, "depths": [4, 4]}),
        ("cfsr_x2", {"dim": 24, "depths": [3]}),
        ("ffnet_sr_light_x2", {}),
    ],
    3: [("cfsr_x3", {}), ("cfsr_x3", {"dim": 32, "depths": [4, 4]})],
    4: [("cfsr_x4", {}), ("cfsr_x4", {"dim": 32, "depths": [4, 4]})],
}


class TrainWindows:
    """Random windows of photographs; all randomness follows from seed and pictures."""

    def __init__(self, split: Split, recipe: Recipe, preprocess: Preprocess) -> None:
        channels = preprocess.channels
        self.pairs = once(split, ("pairs", channels), lambda: PhotoPairs(split, channels))
        self.recipe = recipe

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, p, p) and (N, C, s p, s p); `PATCHES` of each picture."""
        draws = torch.Generator().manual_seed(derived_seed(self.recipe.seed, *indices[:8]))
        windows: tuple[Tensor, Tensor] = self.pairs.random(indices, PATCH, PATCHES, draws)
        return windows


class ValWindows:
    """The middle of every photograph."""

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        channels = preprocess.channels
        self.pairs = once(split, ("pairs", channels), lambda: PhotoPairs(split, channels))
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """float32 (N, C, m, m) as the network sees them, and uint8 (N, C, s m, s m)."""
        small, large = self.pairs.middle(indices, MIDDLE)
        return as_seen(small, self.preprocess), large


class SuperRes(ImageTask):
    """Learns a network that gives a larger image, 0..1, by the mean absolute difference.

    Metrics, of the middle of each picture: PSNR and SSIM of the luma, PSNR more than bicubic
    interpolation's, loss. The exported file is judged on whole pictures.
    """

    name = "superres"
    options = frozenset({"flip", "tta"})

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__(network, data, recipe, preprocess)
        self.scale = int(data.class_ids[0])
        given = getattr(network, "scale", self.scale)
        if given != self.scale:
            raise UsageError(
                f"this network makes images {given} times larger, but the data are made for "
                f"{self.scale} times; write {given} into {data.root / 'scale.txt'}, or take a "
                f"network for x{self.scale}"
            )
        # in double precision: sums of hundreds of decibels must not depend on the batches
        self.means: Any = nn.ModuleDict({n: MeanMetric().set_dtype(torch.float64) for n in _NAMES})

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """Our networks of the enlargement that the data are for."""
        height = ImageTask.typical(data)[0]
        return [ModelSpec(n, height, options) for n, options in _NETWORKS[int(data.class_ids[0])]]

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """One recipe."""
        return "superres"

    @staticmethod
    def preprocessing(
        spec: ModelSpec, data: ImageDataset, stats: Stats | None = None
    ) -> Preprocess:
        """Values from 0 to 1, and any size; that of a typical picture is what is timed."""
        height, width = ImageTask.typical(data)[:2]
        wide = max(1, round(spec.size * width / height))
        nothing, one = (0.0,) * data.channels, (1.0,) * data.channels
        return Preprocess(spec.size, data.channels, nothing, one, width=wide, fit="none")

    def train_source(self, limit: int | None = None) -> Any:
        """Windows of the training pictures, or of the first `limit` of them."""
        return TrainWindows(self.train_split(limit), self.recipe, self.preprocess)

    def val_source(self, split: Split | None = None) -> Any:
        """The middle of the validation pictures, or of another split's."""
        return ValWindows(split or self.data.val, self.preprocess)

    def augment(self, batch: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, Tensor]:
        """One of the eight ways to turn and mirror a square, the same for both sizes."""
        small, large = batch
        if self.recipe.flip == "horizontal":
            for turn in (_mirrored, _upside_down, _transposed):
                chosen = (torch.rand(len(small)) < 0.5).view(-1, 1, 1, 1).to(small.device)
                small = torch.where(chosen, turn(small), small)
                large = torch.where(chosen, turn(large), large)
        return as_seen(small, self.preprocess), large

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute difference, on the scale 0..1."""
        return F.l1_loss(outputs.float(), targets.float() / 255)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Take a batch into the means, picture by picture."""
        images, targets = batch
        found = self.outputs(images)
        for small, large, truth in zip(images, found, targets, strict=True):
            values = self._quality(_plain(small), _plain(large.clamp(0, 1)), _rows(truth))
            values["loss"] = float(F.l1_loss(large, truth.float() / 255))
            for name, value in values.items():
                self.means[name].update(value)

    def _quality(self, small: np.ndarray, large: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        found, wanted = luma(large), luma(truth)
        pixels = small.round().astype(np.uint8)
        plain = psnr(luma(enlarge(pixels, self.scale)), wanted, self.scale)
        reached = psnr(found, wanted, self.scale)
        alike = ssim(found, wanted, self.scale)
        return {"psnr": reached, "ssim": alike, "gain": reached - plain}

    def metrics(self) -> dict[str, float]:
        """Means over the pictures."""
        values = {f"val/{name}": float(self.means[name].compute()) for name in _NAMES}
        for name in _NAMES:
            self.means[name].reset()
        return values


def _mirrored(x: Tensor) -> Tensor:
    return x.flip(-1)


def _upside_down(x: Tensor) -> Tensor:
    return x.flip(-2)


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-1, -2)


def _rows(planes: Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, C)."""
    return planes.permute(1, 2, 0).cpu().numpy()


def _plain(planes: Tensor) -> np.ndarray:
    """(C, H, W), 0..1 -> (H, W, C), 0..255."""
    return _rows(planes.double() * 255)


LEARNER = SuperRes
