"""The teacher of a distillation: a trained network, asked about another network's images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.errors import UsageError, unknown
from sinet.models.spec import ModelSpec
from sinet.models.weights import find_pretrained, load_weights
from sinet.training.inputs import preprocess_for
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained, finished, weights_file


@dataclass(frozen=True)
class Teacher:
    """A trained network and what it wants to see.

    Attributes:
        network: in evaluation mode.
        preprocess: of its input.
    """

    network: nn.Module
    preprocess: Preprocess

    @torch.no_grad()
    def __call__(self, images: Tensor, seen: Preprocess, *, maps: bool = False) -> Tensor:
        """What it says of images.

        Args:
            images: another network's input, float32 (B, C, H, W).
            seen: the preprocessing that made them.
            maps: return the last feature maps instead of logits.

        Returns:
            float32: logits (B, classes), or maps (B, channels, h, w).
        """
        if next(self.network.parameters()).device != images.device:
            self.network.to(images.device)
        images = self.translated(images, seen).contiguous(memory_format=torch.channels_last)
        if maps:
            return feature_maps(self.network, images).float()
        return self.network(images).float()  # type: ignore[no-any-return]

    def translated(self, images: Tensor, seen: Preprocess) -> Tensor:
        """Another network's input as this one's: other mean and deviation, other size."""
        own = self.preprocess
        mine, theirs = (
            tuple(images.new_tensor(v).view(-1, 1, 1) for v in (p.mean, p.std)) for p in (own, seen)
        )
        if (own.mean, own.std) != (seen.mean, seen.std):
            images = (images * theirs[1] + theirs[0] - mine[0]) / mine[1]
        if images.shape[-2:] != own.shape:
            images = F.interpolate(images, own.shape, mode="bilinear", antialias=True)
        return images


def feature_maps(network: nn.Module, images: Tensor) -> Tensor:
    """The last feature maps, (B, channels, h, w).

    Raises:
        UsageError: the network has none, but tokens or another order of axes.
    """
    run: Any = getattr(network, "forward_features", None)
    found = run(images) if run is not None else None
    ordered = getattr(network, "output_fmt", "NCHW") == "NCHW"
    if not (isinstance(found, Tensor) and found.ndim == 4 and ordered):
        raise UsageError(
            f"distil: {type(network).__name__} gives no feature maps (B, C, H, W) to compare; use "
            "distil=logits or distil=hard"
        )
    return found


def open_teacher(recipe: Recipe, data: ImageDataset, preprocess: Preprocess) -> Teacher:
    """The recipe's teacher, with weights for the classes of the data.

    Args:
        recipe: names it; see `Recipe.teacher`.
        data: what is to be learned.
        preprocess: of the network that learns; a teacher by name sees images of this size, unless
            it was built for another.

    Raises:
        UsageError: no such teacher, no weights for it, or it knows other classes.
    """
    folder = Path(recipe.teacher)
    folder = folder.parent if folder.name == "trained.json" else folder
    if finished(folder):
        teacher = _from_run(folder, data)
    elif folder.exists():
        raise UsageError(
            f"teacher {recipe.teacher}: not the folder of a finished training; give that folder "
            "(of `sinet train` or `sinet fit`: a file made from it cannot teach), or a model's name"
        )
    elif timm.is_model(recipe.teacher):
        teacher = _by_name(recipe, data, preprocess)
    else:
        raise unknown("teacher", recipe.teacher, timm.list_models())
    teacher.network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    return teacher


def _from_run(folder: Path, data: ImageDataset) -> Teacher:
    trained = Trained.load(folder)
    if trained.task != data.task or trained.classes != data.classes:
        raise UsageError(
            f"teacher {folder} learned to {trained.task} {_few(trained.classes)}, but these data "
            f"are to {data.task} {_few(data.classes)}; give a teacher that was trained on the same "
            "classes in the same order"
        )
    if trained.channels != data.channels:
        raise UsageError(
            f"teacher {folder} sees images of {trained.channels} channels, these have "
            f"{data.channels}; give a teacher that was trained on images like these"
        )
    return Teacher(trained.model(), trained.preprocess)


def _by_name(recipe: Recipe, data: ImageDataset, preprocess: Preprocess) -> Teacher:
    name = recipe.teacher
    weights = recipe.teacher_weights or find_pretrained(name)
    if weights is None:
        raise UsageError(
            f"no weights of the teacher {name} are at hand; give them with --teacher-weights, or "
            f"name the folder of a training: sinet train DATA --model {name} --out runs/teacher"
        )
    cfg = timm.get_pretrained_cfg(name)
    size = cfg.input_size[-1] if cfg.fixed_input_size else preprocess.size
    spec = ModelSpec(name, size, weights=weights)
    network = spec.create(data.num_classes, data.channels, load=False)
    if "classifier starts fresh" in load_weights(network, weights).adapted:
        raise UsageError(
            f"{weights} of the teacher {name} knows other classes than the {data.num_classes} of "
            f"these data; train it on them first (sinet train DATA --model {name} --out "
            "runs/teacher), then give --teacher runs/teacher; sinet fit --teacher does both"
        )
    return Teacher(network, preprocess_for(spec, data))


def _few(classes: list[str]) -> str:
    more = ", ..." if len(classes) > 3 else ""
    return f"{len(classes)} classes ({', '.join(classes[:3])}{more})"


def teacher_identity(recipe: Recipe) -> str:
    """What tells a teacher from another of the same path: a hash of its weights, if it is here."""
    for source in (recipe.teacher_weights, recipe.teacher):
        file = weights_file(Path(source))
        if source and file.is_file():
            return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    return ""
