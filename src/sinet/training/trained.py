"""A trained model as a folder: its weights, and everything one must know to use them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sinet.data.inputs import preprocess_from
from sinet.data.preprocess import Preprocess
from sinet.errors import UsageError
from sinet.files import atomic_path, read_json, write_json
from sinet.models.spec import ModelSpec
from sinet.training.recipe import Recipe

_WEIGHTS, _FACTS = "weights.safetensors", "trained.json"


@dataclass
class Trained:
    """The result of a training."""

    spec: ModelSpec
    """The network."""
    preprocess: Preprocess
    """What happens to an image before the network sees it."""
    recipe: Recipe
    """How it learned."""
    classes: list[str]
    """Names of the classes in the order of the outputs."""
    class_ids: list[int | str]
    """The user's own ids of the classes, in the same order."""
    multilabel: bool
    """Several labels per image."""
    channels: int
    """Colour channels of the input, 1 or 3."""
    folder: Path
    """Where `weights.safetensors` and `trained.json` lie."""
    metrics: dict[str, float]
    """Validation metrics of the kept weights; accuracies in 0..1."""
    epochs: float
    """Passes over the training images."""
    steps: int
    """Optimizer steps."""
    seconds: float
    """Seconds of optimizer steps, without validation, over all resumptions."""
    images_per_second: float
    """Training images per second of `seconds`."""
    init: str
    """What it started from: `scratch`, the pretrained weights' name, or an earlier run's path."""
    task: str = "classify"
    """What it learned."""

    def model(self) -> nn.Module:
        """The network with its weights, in evaluation mode."""
        network = self.spec.create(len(self.classes), self.channels, load=False)
        network.load_state_dict(load_file(self.folder / _WEIGHTS))
        return network.eval()

    def save(self, described: dict[str, Any] | None = None) -> Path:
        """Write `trained.json` (`save_weights` writes the weights).

        Args:
            described: what identifies the run that made it.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "folder"}
        for key in ("spec", "preprocess", "recipe"):
            values[key] = values[key].to_dict()
        return write_json(self.folder / _FACTS, {"version": 1, "run": described or {}, **values})

    @classmethod
    def load(cls, folder: str | Path) -> Trained:
        """Read what `save` wrote.

        Raises:
            UsageError: the folder holds no finished training.
        """
        folder = Path(folder)
        if not finished(folder):
            raise UsageError(f"{folder} holds no finished training ({_WEIGHTS} and {_FACTS})")
        values: dict[str, Any] = read_json(folder / _FACTS)
        del values["version"], values["run"]
        values["spec"] = ModelSpec.from_dict(values["spec"])
        values["preprocess"] = preprocess_from(values["preprocess"])
        values["recipe"] = Recipe.from_dict(values["recipe"])
        return cls(folder=folder, **values)


def finished(folder: Path) -> bool:
    """Whether a training in `folder` has come to its end."""
    return (folder / _WEIGHTS).is_file() and (folder / _FACTS).is_file()


def described_in(folder: Path) -> dict[str, Any]:
    """What identifies the run whose result lies in `folder`."""
    return dict(read_json(folder / _FACTS).get("run", {}))


def forget(folder: Path) -> None:
    """Remove the result of an earlier training."""
    for name in (_WEIGHTS, _FACTS):
        (folder / name).unlink(missing_ok=True)


def weights_file(start: Path) -> Path:
    """The file of weights that `start` names: itself, or that of a training's folder."""
    return start / _WEIGHTS if start.is_dir() else start


def save_weights(weights: dict[str, Tensor], folder: Path) -> Path:
    """Write a network's state as `weights.safetensors`, whole or not at all."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    with atomic_path(folder / _WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    return folder / _WEIGHTS
