"""What the tasks on images share: a new task gives its loss, its metrics and its predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from sinet.data.cache import ImageCache
from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.data.transforms import BatchAugment
from sinet.training.loader import Source, derived_seed
from sinet.training.optimizer import build_optimizer, build_schedule, fixed_norms, image_size
from sinet.training.recipe import Recipe

Images = Tensor | list[Tensor]
Batch = tuple[Images, Tensor]


class CachedImages:
    """Decoded images of a split with their targets, fetched a batch at a time."""

    def __init__(self, cache: ImageCache, targets: np.ndarray[Any, Any]) -> None:
        self.cache = cache
        self.targets = torch.as_tensor(targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Images, uint8 (B, C, H, W) or a list where sizes differ, and their targets."""
        return self.cache.batch(indices), self.targets[indices]


class ImageTask(pl.LightningModule, ABC):
    """A network that learns from images.

    Args:
        network: the model.
        data: the data set.
        recipe: how it learns.
        preprocess: what happens to an image before the network sees it.
    """

    monitor: str
    """The metric by which two trainings are compared."""
    mode: str = "max"
    """Whether `monitor` is better when `max` or when `min`."""

    def __init__(
        self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
    ) -> None:
        super().__init__()
        self.network = network
        self.data, self.recipe, self.preprocess = data, recipe, preprocess
        self.total_steps = 1
        self.augment = BatchAugment(recipe, preprocess)
        self.prepare = PreprocessModule(preprocess)
        cfg: Any = getattr(network, "pretrained_cfg", None) or {}
        self._any_size = not cfg.get("fixed_input_size", False)

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss to minimise."""

    @abstractmethod
    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Take a batch into the metrics."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """The metrics over the batches since the last call (all processes together)."""

    @abstractmethod
    def predict(self, images: Images) -> list[Any]:
        """Typed results, one per image."""

    @abstractmethod
    def output_names(self) -> list[str]:
        """Names of the network's outputs in an exported file."""

    def example_input(self) -> Tensor:
        """A network input (1, C, size, size) for export."""
        size = self.preprocess.size
        return torch.zeros(1, self.preprocess.channels, size, size, device=self.device)

    def mix(self, images: Tensor, targets: Any) -> tuple[Tensor, Any]:
        """Blend the images of a batch with one another; a task that can overrides this."""
        return images, targets

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one augmented batch; all randomness follows from (seed, step, process)."""
        rank = 0 if self._trainer is None else self.global_rank
        seed = derived_seed(self.recipe.seed, self.global_step, rank)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  timm's mixup draws from the global generator
        images, targets = batch
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            images, targets = self.mix(self.augment(images, self.train_size()), targets)
        return self.loss(self.network(self.ordered(images)), targets)

    def train_size(self) -> int:
        """Image size of the current step, pixels."""
        if not self._any_size:
            return self.preprocess.size
        done = self.global_step / self.total_steps
        return image_size(self.recipe, self.preprocess.size, done)

    def ordered(self, images: Tensor) -> Tensor:
        """The images in the memory order of the recipe."""
        order = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=order)

    def prepared(self, images: Images) -> Tensor:
        """Network input (B, C, size, size) exactly as it will be once deployed."""
        groups = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        ready = [self.prepare(group.permute(0, 2, 3, 1)) for group in groups]
        return self.ordered(torch.cat(ready))

    def outputs(self, images: Images) -> Tensor:
        """The network's outputs for uint8 images, with test-time mirroring if the recipe asks."""
        ready = self.prepared(images)
        outputs: Tensor = self.network(ready)
        if self.recipe.tta and self.recipe.flip == "horizontal":
            outputs = (outputs + self.network(ready.flip(-1))) / 2
        return outputs.float()

    def source(self, split: str, limit: int | None = None) -> Source:
        """The decoded images of a split, or the first `limit` of them."""
        images = self.data.splits[split]
        if limit is not None:
            images = images.subset(np.arange(min(limit, len(images))))
        cache = ImageCache.build(images, self.preprocess)
        return CachedImages(cache, images.labels)

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
        optimizer = build_optimizer(self.network, self.recipe)
        schedule = build_schedule(optimizer, self.recipe, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
