"""Hyperspectral scenes: logits of windows -> the class of every pixel of the scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import nn

from sinet.data.cubes import CubeInput
from sinet.data.dataset import Split
from sinet.data.masks import palette
from sinet.files import atomic_path
from sinet.tasks.signatures.base import Array, Facts, Run, Scorer, Signature, wilson
from sinet.tasks.signatures.segment import Segmentation, confusion
from sinet.tasks.signatures.volume import Likeliest, reordered


@dataclass(frozen=True)
class Scene(Segmentation):
    """The class of every pixel of one scene."""

    def save(self, folder: Path) -> Path:
        """`NAME.classes.png`: the class number of every pixel, with a palette."""
        name = Path(self.source).name.rsplit(".", 1)[0].strip("#") or "scene"
        picture = Image.fromarray(self.classes)
        picture.putpalette(palette(256).ravel().tolist())
        path = folder / f"{name}.classes.png"
        with atomic_path(path) as temporary:
            picture.save(temporary, format="PNG")
        return path


class Hyperspectral(Signature):
    """`logits` (N, classes, h, w) of windows -> `classes` uint8 (N, h, w) of windows.

    `through` puts the windows together: both outputs are then those of the whole scene.
    """

    raw = ("logits",)
    names = ("classes",)
    metric = "val/oa"
    metric_name = "overall accuracy"
    hub_tag = "image-segmentation"
    batched = False
    mirror, maps = 2, True

    @cached_property
    def input(self) -> CubeInput:
        """Scenes, in windows."""
        return CubeInput(self.facts.preprocess)

    def through(self, run: Run, samples: Any, names: Sequence[str]) -> dict[str, Array]:
        """Windows over every scene; they must have one shape where there are several."""
        ready = [self.input.ready(scene) for scene in samples]
        logits = np.stack(
            [self.input.slide(lambda part: run(part, ["logits"])["logits"], s) for s in ready]
        )
        known = {"logits": logits, "classes": logits.argmax(1).astype(np.uint8)}
        return {name: known[name] for name in names}

    @property
    def described(self) -> str:
        """The map of classes."""
        return "`classes`, uint8, the class of every pixel of the window; and `logits`"

    def tail(self) -> nn.Module:
        """The likeliest class."""
        return Likeliest()

    def scorer(self) -> Scorer:
        """Overall accuracy, with that of each class."""
        return SceneScorer(self.facts)

    def result(self, source: str, outputs: Mapping[str, Array]) -> Scene:
        """The map as it is."""
        return Scene(source, outputs["classes"], self.facts)

    def failed(self, source: str, reason: str) -> Scene:
        """A map without pixels."""
        return Scene(source, np.zeros((0, 0), np.uint8), self.facts, reason)

    def truth(self, split: Split, i: int, order: Array | None = None) -> Any:
        """The labelled pixels of the split, uint8 (H, W); void elsewhere."""
        mask: Array = split.targets[i].read()
        return mask if order is None else reordered(mask, order)

    def truth_result(self, source: str, truth: Any) -> Scene:
        """The labels as an answer."""
        return Scene(source, truth, self.facts)


class SceneScorer(Scorer):
    """Counts labelled pixels by truth and answer.

    Args:
        facts: about the model.
    """

    name = "val/oa"

    def __init__(self, facts: Facts) -> None:
        self.classes = facts.classes
        self._counts: list[Array] = []

    def update(self, outputs: Mapping[str, Array], truths: Sequence[Any]) -> None:
        """Take in maps (N, H, W) and their labels."""
        for found, truth in zip(outputs["classes"], truths, strict=True):
            self._counts.append(confusion(found, truth, len(self.classes)))

    def value(self) -> float:
        """Share of the labelled pixels that are right."""
        return accuracies(np.sum(self._counts, 0))["oa"]

    def interval(self) -> tuple[float, float]:
        """Wilson's, as if pixels were independent."""
        total = np.sum(self._counts, 0)
        return wilson(self.value(), int(total.sum()))

    def per_class(self) -> list[dict[str, Any]]:
        """Share of the pixels, and the shares of the truth and of the answers that are right."""
        total = np.sum(self._counts, 0)
        both, truth, said = np.diag(total), total.sum(1), total.sum(0)
        return [
            {
                "name": name,
                "pixels": float(truth[i] / max(1, truth.sum())),
                "accuracy": float(both[i] / max(1, truth[i])),
                "precision": float(both[i] / max(1, said[i])),
            }
            for i, name in enumerate(self.classes)
        ]

    def per_input(self) -> Array:
        """Overall accuracy of each scene."""
        return np.array([accuracies(count)["oa"] for count in self._counts])


def accuracies(counts: npt.NDArray[Any]) -> dict[str, float]:
    """Overall accuracy, average accuracy over the classes that occur, and Cohen's kappa."""
    both, truth, said = np.diag(counts), counts.sum(1), counts.sum(0)
    total = max(1, int(counts.sum()))
    there = truth > 0
    overall = float(both.sum() / total)
    average = float((both[there] / truth[there]).mean()) if there.any() else 0.0
    chance = float((truth / total * (said / total)).sum())
    kappa = (overall - chance) / (1 - chance) if chance < 1 else 0.0
    return {"oa": overall, "aa": average, "kappa": kappa}


SIGNATURE = Hyperspectral
