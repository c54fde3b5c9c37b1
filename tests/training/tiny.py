"""Small things to train: generated images, and networks of a few thousand weights."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from sinet.data.dataset import ImageDataset, Split
from sinet.data.preprocess import Preprocess
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.loop import train
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

PREPROCESS = Preprocess(16, 3, (0.5,) * 3, (0.25,) * 3)
SPEC = ModelSpec("tiny_test_net", 16)
QUICK = Recipe(epochs=3, batch_size=16, lr=0.01, warmup=0.0)


class TinyNet(nn.Module):
    """Two convolutions with all that timm's models have and training relies on."""

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 8, 3, stride=2, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.body = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu() * self.scale
        return self.head(self.drop(self.body(x).relu().mean((2, 3))))

    def get_classifier(self) -> nn.Module:
        return self.head

    def no_weight_decay(self) -> set[str]:
        return {"scale"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^(?:stem|norm|scale)", "blocks": [(r"^body", (0,))]}


default_cfgs = generate_default_cfgs({"tiny_test_net": {}, "tiny_plain_net": {}})


@register_model
def tiny_test_net(pretrained: bool = False, **options: Any) -> TinyNet:
    return TinyNet(**without_timms(options))


@register_model
def tiny_plain_net(pretrained: bool = False, **options: Any) -> nn.Module:
    """Knows no dropout and no layer groups."""

    def build(num_classes: int, in_chans: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 16 * 16, num_classes))

    return build(**without_timms(options))


def without_timms(options: dict[str, Any]) -> dict[str, Any]:
    """The options that a person gave."""
    timms = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return {key: value for key, value in options.items() if key not in timms}


def images(count: int, classes: int = 4, seed: int = 0, size: int = 16) -> Split:
    """Noise whose colour gives the class away."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    colours = np.random.default_rng(99).integers(0, 200, (classes, 3))
    pixels = colours[labels][:, None, None] + draw.integers(0, 56, (count, size, size, 3))
    return Split(pixels.astype(np.uint8), labels, [str(i) for i in range(count)])


def png(pixels: np.ndarray[Any, Any], width: int) -> bytes:
    """The image as a file, widened."""
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, 16)).save(file, "PNG")
    return file.getvalue()


def dataset(train: int = 80, val: int = 24, classes: int = 4) -> ImageDataset:
    splits = {"train": images(train, classes, 0), "val": images(val, classes, 1)}
    names = [f"class {i}" for i in range(classes)]
    return ImageDataset(
        Path("made"), "made", names, [10 * i for i in range(classes)], False, splits
    )


def multilabel(train: int = 60, val: int = 20) -> ImageDataset:
    """Three labels an image: which of its colour channels are bright."""
    splits = {}
    for name, count, seed in (("train", train, 0), ("val", val, 1)):
        draw = np.random.default_rng(seed)
        labels = draw.integers(0, 2, (count, 3)).astype(np.float32)
        labels[:3] = np.eye(3)
        pixels = labels[:, None, None] * 150 + draw.integers(0, 56, (count, 16, 16, 3))
        names = [str(i) for i in range(count)]
        splits[name] = Split(pixels.astype(np.uint8), labels, names)
    return ImageDataset(Path("made"), "made", list("rgb"), list("rgb"), True, splits)


def run(
    out: Path,
    recipe: Recipe = QUICK,
    data: ImageDataset | None = None,
    spec: ModelSpec = SPEC,
    **options: Any,
) -> Trained:
    options = {"preprocess": PREPROCESS, "task": Classify, "device": "cpu", **options}
    return train(spec, data or dataset(), recipe, out, progress=False, **options)


def weights(trained: Trained) -> dict[str, Tensor]:
    return trained.model().state_dict()


def identical(a: Trained, b: Trained) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


if os.environ.get("TINY_ONE_THREAD"):
    torch.set_num_threads(1)
