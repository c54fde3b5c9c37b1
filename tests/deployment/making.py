"""Small networks that answer differently to different images, without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.deployment.export import assemble, describe, export_network
from sinet.models.spec import ModelSpec
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained, save_weights

IDS: list[int | str] = [7, "x1", -3, "007"]
CLASSES = ["cat", "dög", "fish, grilled", "bird|x"]


def lively(model: nn.Module) -> nn.Module:
    """Give BatchNorm something to do and scale the answer up: it would hardly vary."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        model.get_classifier().weight *= 100  # type: ignore[operator]
    return model.eval()


@torch.no_grad()
def _spread(model: nn.Module, images: torch.Tensor) -> None:
    """Set the last layer so that logits have mean 0 and deviation 2: every class is named."""
    head: nn.Linear = model.get_classifier()  # type: ignore[operator]
    head.weight *= 2 / model(images).std(0)[:, None]
    head.bias -= model(images).mean(0)


def make_trained(
    folder: Path, name: str = "test_efficientnet", size: int = 48, channels: int = 3, **kwargs: Any
) -> Trained:
    """What a training would have left in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    spec = ModelSpec(name, size)
    preprocess = Preprocess(size, channels, (0.4, 0.5, 0.6)[:channels], (0.2,) * channels, 0.9)
    model = lively(spec.create(len(IDS), channels))
    _spread(model, PreprocessModule(preprocess)(torch.from_numpy(pictures(32, 60, 60, channels))))
    save_weights(model.state_dict(), folder)
    trained = Trained(
        spec=spec,
        preprocess=preprocess,
        recipe=Recipe(),
        classes=CLASSES,
        class_ids=IDS,
        channels=channels,
        folder=folder,
        **{
            "multilabel": False,
            "metrics": {"val/top1": 0.5},
            "epochs": 1.0,
            "steps": 10,
            "seconds": 1.0,
            "images_per_second": 100.0,
            "init": "scratch",
            **kwargs,
        },
    )
    trained.save()
    return trained


def make_file(trained: Trained, out: Path) -> Path:
    """The assembled ONNX file of a training."""
    size, channels = trained.preprocess.size, trained.channels
    network = export_network(trained.model(), size, channels, out.with_suffix(".body.onnx"))
    return assemble(network, trained.preprocess, describe(trained, licence="MIT"), out)


def pictures(
    count: int, height: int, width: int, channels: int = 3, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """Blotches of colour: more alike to photos than noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 8 + 1, width // 8 + 1, channels))
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return np.clip(fine + rng.integers(-20, 20, fine.shape), 0, 255).astype(np.uint8)
