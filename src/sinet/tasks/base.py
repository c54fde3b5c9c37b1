"""What the tasks on images share: a new task gives its loss, its metrics and its predictions."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn

from sinet.data.cache import EvalImages, ImageCache
from sinet.data.dataset import ImageDataset, Split
from sinet.data.preprocess import Preprocess
from sinet.data.transforms import BatchAugment
from sinet.models.spec import ModelSpec
from sinet.tasks.signatures import Described, Result, signature
from sinet.training.distil import Distiller
from sinet.training.inputs import Stats, pixel_stats, preprocess_for
from sinet.training.loader import derived_seed, eval_batches
from sinet.training.optimizer import build_optimizer, build_schedule, fixed_norms, image_size
from sinet.training.recipe import Recipe

Batch = tuple[Tensor, Tensor]

_log = logging.getLogger(__name__)

# The decoded images of the last training on each split: a search trains many networks on one.
_decoded: WeakKeyDictionary[Split, tuple[Any, ImageCache | EvalImages]] = WeakKeyDictionary()
_sides: WeakKeyDictionary[ImageDataset, list[tuple[int, ...]]] = WeakKeyDictionary()
_LOOKED_AT = 64
"""Images that say how large images usually are."""


def described(data: ImageDataset, preprocess: Preprocess) -> Described:
    """The facts of a model for these data."""
    return Described(
        data.task, list(data.classes), list(data.class_ids), data.multilabel, preprocess
    )


def backbones(usual: Sequence[ModelSpec]) -> list[ModelSpec]:
    """The first spec of each name, without the networks that take images of one size only."""
    first: dict[str, ModelSpec] = {}
    for spec in usual:
        first.setdefault(spec.name, spec)
    configs = {name: timm.get_pretrained_cfg(name) for name in first}
    return [s for name, s in first.items() if not getattr(configs[name], "fixed_input_size", False)]


class TrainImages:
    """Images to learn from, as `BatchAugment` wants them, and their labels."""

    def __init__(self, split: Split, recipe: Recipe, preprocess: Preprocess) -> None:
        size, channels, crop, scale = (
            preprocess.size,
            preprocess.channels,
            recipe.crop,
            recipe.crop_scale,
        )
        self.cache: ImageCache = once(
            split,
            (size, channels, crop, scale),
            lambda: ImageCache(split, size, channels, crop=crop, crop_scale=scale),
        )
        self.seed = recipe.seed

    def __len__(self) -> int:
        return len(self.cache)

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch; where images differ in size, its random crops follow from seed and images."""
        draws = torch.Generator().manual_seed(derived_seed(self.seed, *indices[:8]))
        return self.cache.batch(indices, generator=draws), self.cache.labels[indices]


class ValImages:
    """Images to validate on: float32 (B, C, size, size) as the network sees them, and labels."""

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        self.images: EvalImages = once(split, preprocess, lambda: EvalImages(split, preprocess))

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch."""
        return self.images.batch(indices), self.images.labels[indices]


def once(split: Split, key: Any, decode: Callable[[], Any]) -> Any:
    """What was decoded from a split last time, if it was for the same key; else decoded now."""
    if split not in _decoded or _decoded[split][0] != key:
        _decoded[split] = key, decode()
    return _decoded[split][1]


class ImageTask(pl.LightningModule, ABC):  # type: ignore[misc]
    """A network that learns from images: the training side of a task.

    What its exported file gives is said by its `signature`, which needs none of this.

    Args:
        network: the model.
        data: the data set.
        recipe: how it learns.
        preprocess: what happens to an image before the network sees it.

    Raises:
        UsageError: the recipe asks for what the task does not know.
    """

    name: str
    """As in `sinet.tasks.signatures`."""
    options: frozenset[str]
    """Those of `TASK_OPTIONS` of a recipe that this task knows; what it does not is refused."""

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__()
        recipe.check_for(self.name, self.options)
        self.network = network
        self.data, self.recipe, self.preprocess = data, recipe, preprocess
        self.total_steps = 1
        self.distil: Distiller | None = None
        self.signature = signature(described(data, preprocess))
        self._augment = BatchAugment(recipe, preprocess)
        cfg: Any = getattr(network, "pretrained_cfg", None) or {}
        self._any_size = not cfg.get("fixed_input_size", False)
        if recipe.progressive < 1 and not self._any_size:
            _log.warning("the network takes one size only: trained without progressive")

    @staticmethod
    def specs(usual: Sequence[ModelSpec], data: ImageDataset) -> list[ModelSpec]:
        """The networks that are tried.

        Args:
            usual: the backbones that suit images of this size, the most promising first.
            data: the data set.
        """
        return list(usual)

    @staticmethod
    def recipe_name(spec: ModelSpec) -> str:
        """The recipe that a network learns by unless another is asked for."""
        return "finetune" if spec.weights else "default"

    @staticmethod
    def preprocessing(
        spec: ModelSpec, data: ImageDataset, stats: Stats | None = None
    ) -> Preprocess:
        """How an image of these data becomes this network's input; see `preprocess_for`."""
        return preprocess_for(spec, data, stats)

    @staticmethod
    def typical(data: ImageDataset) -> tuple[int, ...]:
        """Median sides of a sample of the data, evenly spaced; (height, width) of pictures."""
        if data not in _sides:
            chosen = np.unique(np.linspace(0, len(data.val) - 1, _LOOKED_AT).astype(int))
            _sides[data] = [data.val.image(int(i)).shape[:2] for i in chosen]
        return tuple(int(side) for side in np.median(np.array(_sides[data]), axis=0).astype(int))

    @staticmethod
    def stats(data: ImageDataset) -> Any:
        """Mean and deviation of the data, where `preprocessing` has a use for them."""
        return pixel_stats(data)

    @staticmethod
    def epoch_samples(data: ImageDataset, spec: ModelSpec) -> int:
        """How many training samples are an epoch."""
        return len(data.train)

    def calibration(self, split: Split) -> Iterator[npt.NDArray[np.float32]]:
        """Batches of the network's input, to set the ranges of INT8."""
        for images, *_ in eval_batches(self.val_source(split), 32):
            yield images.numpy()

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss to minimise."""

    @abstractmethod
    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Take a batch into the metrics."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """The metrics over the batches since the last call (all processes together)."""

    @torch.inference_mode()
    def predict(self, images: Tensor) -> list[Result]:
        """Typed results, one per network input of float32 (B, C, height, width)."""
        # the tail looks at the sides of images as a file gets them, channels last
        run = self.signature.eager(self.outputs, lambda given: given.movedim(-1, 1))
        named = {k: v.cpu().numpy() for k, v in run(images.movedim(1, -1)).items()}
        return [
            self.signature.result(f"#{i}", {name: value[i] for name, value in named.items()})
            for i in range(len(images))
        ]

    def output_names(self) -> list[str]:
        """Names of the network's outputs in an exported file."""
        return list(self.signature.raw)

    def example_input(self) -> Tensor:
        """A network input (1, C, height, width) for export."""
        shape = self.preprocess.shape
        return torch.zeros(1, self.preprocess.channels, *shape, device=self.device)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Loss of one augmented batch; all randomness follows from (seed, step, part of it).

        A teacher that looks at each image once wants batches that are `Numbered`.
        """
        at: Tensor | None = None
        if self.distil is not None and self.distil.once:
            batch, at = batch
        part = 0
        if self._trainer is not None:  # of the whole batch, over processes and what each adds up
            parts = self.trainer.accumulate_grad_batches
            part = self.global_rank * parts + batch_index % parts
        torch.manual_seed(derived_seed(self.recipe.seed, self.global_step, part))
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            images, targets = self.augment(batch, self.train_size())
        images = self.ordered(images)
        if self.distil is not None:
            return self.distil(self, images, targets, at)  # type: ignore[no-any-return]
        return self.learn(images, targets)

    def learn(self, images: Tensor, targets: Any) -> Tensor:
        """Loss of network inputs (B, C, height, width), without a teacher."""
        return self.loss(self.network(images), targets)

    def on_train_start(self) -> None:
        """Let the teacher look at the images, if once is enough."""
        if self.distil is not None:
            self.distil.prepare(self)

    def augment(self, batch: Any, size: int) -> tuple[Tensor, Any]:
        """Network input float32 (B, C, size, size), and the targets (here: as they are)."""
        images, targets = batch
        return self._augment(images, size), targets

    def train_size(self) -> int:
        """Image size of the current step, pixels."""
        if not self._any_size:
            return self.preprocess.size
        done = self.global_step / self.total_steps
        return image_size(self.recipe, self.preprocess.size, done)

    def train_shape(self, size: int) -> tuple[int, int]:
        """Height and width of a training image of this height, pixels, in the usual shape."""
        high, wide = self.preprocess.shape
        if size == high:
            return high, wide
        return size, min(wide, max(32, round(wide * size / high / 32) * 32))

    def ordered(self, images: Tensor) -> Tensor:
        """The images in the memory order of the recipe."""
        order = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=order)

    def outputs(self, images: Tensor) -> Any:
        """What the file will give: raw outputs for network inputs, a tensor or a tuple of them."""
        network = self.signature.mirrored(self.network) if self.recipe.tta else self.network
        found = network(self.ordered(images))
        if isinstance(found, Tensor):
            return found.float()
        return tuple(part.float() for part in found)

    def train_split(self, limit: int | None = None) -> Split:
        """The training samples, or the first `limit` of them."""
        split = self.data.train
        return split if limit is None else split.subset(np.arange(min(limit, len(split))))

    def train_source(self, limit: int | None = None) -> TrainImages:
        """The training images, or the first `limit` of them."""
        return TrainImages(self.train_split(limit), self.recipe, self.preprocess)

    def val_source(self, split: Split | None = None) -> ValImages:
        """The validation images, or those of another split, as the network sees them."""
        return ValImages(split or self.data.val, self.preprocess)

    def train(self, mode: bool = True) -> ImageTask:
        """Training mode, with frozen BatchNorms left in evaluation mode."""
        super().train(mode)
        if mode:
            for norm in fixed_norms(self.network, self.recipe.freeze_norm):
                norm.eval()
        return self

    def on_validation_epoch_end(self) -> None:
        """Log the metrics when a plain Lightning Trainer runs the validation."""
        self.log_dict(self.metrics())

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer, and its schedule by step."""
        beside = self.distil.parameters() if self.distil is not None else ()
        optimizer = build_optimizer(self.network, self.recipe, beside)
        schedule = build_schedule(optimizer, self.recipe, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
