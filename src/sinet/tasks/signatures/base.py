"""The contract between a task and whatever runs its exported file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor, nn

from sinet.data.dataset import Split
from sinet.data.inputs import ImageInput, Input
from sinet.data.preprocess import Preprocess

Array = npt.NDArray[Any]
Run: TypeAlias = Callable[[Array, Sequence[str]], dict[str, Array]]
"""One call of a file: its input, and names of outputs -> those outputs."""
Outputs: TypeAlias = tuple[Tensor, ...]


class Facts(Protocol):
    """What there is to know about a model besides its weights; its training and its file say it."""

    @property
    def task(self) -> str:
        """What the outputs mean."""
        ...

    @property
    def classes(self) -> list[str]:
        """Names in the order of the outputs."""
        ...

    @property
    def class_ids(self) -> list[int | str]:
        """The user's own ids in the same order."""
        ...

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the network's input."""
        ...


@dataclass(frozen=True)
class Described:
    """The facts of a model that has neither training nor file yet."""

    task: str
    classes: list[str]
    class_ids: list[int | str]
    multilabel: bool
    preprocess: Preprocess


class Result(ABC):
    """What a file says about one input, or why it could not look."""

    source: str
    """Path of the file, or its place in the input such as `#3`."""
    error: str | None
    """Why the input could not be read."""

    @abstractmethod
    def rows(self, top: int = 1) -> list[dict[str, Any]]:
        """Rows of a table, the same columns for every input, without source and error.

        Args:
            top: answers a row where a task ranks its answers.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain values."""

    @abstractmethod
    def draw(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        """The input, uint8 (H, W, 1 or 3), with the answer on it."""

    def save(self, folder: Path) -> Path | None:
        """Write the answer into a folder as a file of its own; None where a row says it all."""
        return None


class Scorer(ABC):
    """How good are a file's outputs on labelled inputs: one metric, its interval, its parts."""

    name: str
    """Of the metric, such as `val/top1`."""

    @abstractmethod
    def update(self, outputs: Mapping[str, Array], truths: Sequence[Any]) -> None:
        """Take in the outputs for a batch of inputs, and what they should have been."""

    @abstractmethod
    def value(self) -> float:
        """The metric over everything seen, in units of 1 / `Signature.scale`."""

    @abstractmethod
    def interval(self) -> tuple[float, float]:
        """Its 95% interval."""

    @abstractmethod
    def per_class(self) -> list[dict[str, Any]]:
        """A row a class: `name`, then what the task counts, shares as 0..1."""

    @abstractmethod
    def per_input(self) -> Array:
        """How well each input was answered, in the order seen; the least is the worst."""


class Signature(ABC):
    """What a task's file gives, and what to make of it.

    The network gives `raw` outputs; `tail` turns them into the `names` that a user wants, inside
    the exported file. A file has both.

    Args:
        facts: about the model.
    """

    raw: tuple[str, ...]
    """Names of the network's outputs, in order."""
    names: tuple[str, ...]
    """Names of the tail's outputs, in order."""
    metric: str
    """The metric by which models are compared, such as `val/top1`; larger is better."""
    metric_name: str
    """The same in words, such as `top-1 accuracy`."""
    scale: float = 100.0
    """What a metric is multiplied with before it is shown."""
    unit: str = "%"
    """What it is then given in; `points` of it are what INT8 may lose."""
    hub_tag: str
    """The task as model hubs call it, such as `image-classification`."""
    batched: bool = True
    """Whether several images of one size can run at once."""
    mirror: int = -1
    """The axis of the network's input along which `mirrored` turns it around."""
    maps: bool = False
    """Whether the network's outputs are maps of its input, which turn with it."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @cached_property
    def input(self) -> Input:
        """How a sample is read and enters the file."""
        return ImageInput(self.facts.preprocess)

    def through(self, run: Run, samples: Any, names: Sequence[str]) -> dict[str, Array]:
        """The outputs of these names for samples, stacked as `Input.stack` does it.

        Args:
            run: one call of a file, or of what stands for it.
            samples: they need more than one call where a file takes only a part of a sample.
            names: of outputs.
        """
        return run(samples, names)

    @property
    @abstractmethod
    def described(self) -> str:
        """The outputs in words: names, types and shapes, for the model card."""

    @abstractmethod
    def tail(self) -> nn.Module:
        """From (images, *raw outputs) to a tuple of `names`; images as the file takes them."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """A new count."""

    @abstractmethod
    def result(self, source: str, outputs: Mapping[str, Array]) -> Result:
        """The typed answer for one input, from its outputs without the batch axis."""

    @abstractmethod
    def failed(self, source: str, reason: str) -> Result:
        """The result for an input that cannot be read."""

    @abstractmethod
    def truth(self, split: Split, i: int, order: Array | None = None) -> Any:
        """What the outputs for sample `i` should be.

        Args:
            split: of a data set.
            i: which sample.
            order: the model's index of each class of the data set, -1 where it has none; None where
                both have the same classes.
        """

    @abstractmethod
    def truth_result(self, source: str, truth: Any) -> Result:
        """A truth as if a file had said it, to be drawn beside the answer."""

    def mirrored(self, network: nn.Module) -> nn.Module:
        """The network, looking at the mirrored image too, with outputs as its own."""
        return Mirrored(network, self)

    def together(self, plain: Outputs, turned: Outputs, width: int) -> Outputs:
        """The raw outputs for an image and for its mirror image as one answer: their mean.

        Args:
            plain: for the image.
            turned: for the mirrored one, the same shapes.
            width: of the network's input along `mirror`, pixels.
        """
        back = tuple(part.flip(self.mirror) for part in turned) if self.maps else turned
        return tuple((one + other) / 2 for one, other in zip(plain, back, strict=True))

    def reordered(self, network: nn.Module) -> str:
        """Why another runtime may give this network's rows in another order; "" if it may not."""
        return ""

    def gap(
        self, found: Mapping[str, Array], eager: Mapping[str, Array], reordered: str = ""
    ) -> float:
        """Largest difference of the network's outputs between two runs on the same samples."""
        gaps = [np.abs(found[part] - eager[part]).max() for part in self.raw]
        return float(np.max(gaps))  # numpy's maximum keeps a NaN, which must stop everything

    def shown(self, value: float) -> str:
        """A value of the metric with its unit, such as `92.05%`."""
        space = "" if self.unit == "%" else " "
        return f"{self.scale * value:.2f}{space}{self.unit}"

    def eager(
        self, network: Callable[[Tensor], Any], front: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """The whole file in torch: its input (pictures: uint8 (N, H, W, C)) -> all outputs."""
        tail = self.tail().eval()

        def run(images: Tensor) -> dict[str, Tensor]:
            raw = network(front(images))
            raw = (raw,) if isinstance(raw, Tensor) else tuple(raw)
            raw = tuple(part.float() for part in raw)
            named = dict(zip(self.raw, raw, strict=True))
            return named | dict(zip(self.names, tail(images, *raw), strict=True))

        return run


class Mirrored(nn.Module):
    """A network that looks at an image and at its mirror image: twice the time, one answer.

    While the network is in training mode it is that alone.

    Args:
        network: with the raw outputs of the signature.
        task: says how both answers go together.
    """

    def __init__(self, network: nn.Module, task: Signature) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, x: Tensor) -> Any:
        """Network inputs -> what the network gives: a tensor, or a tuple of them."""
        plain = self.network(x)
        if self.network.training:
            return plain
        turned = self.network(x.flip(self.task.mirror))
        width = int(x.shape[self.task.mirror])
        if isinstance(plain, Tensor):
            return self.task.together((plain,), (turned,), width)[0]
        return self.task.together(tuple(plain), tuple(turned), width)


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share seen in `count` trials (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    # Rounding must not push the interval off its own share at 0 and 1.
    return float(max(0.0, min(share, centre - half))), float(min(1.0, max(share, centre + half)))


def bootstrap(value: Callable[[Array], float], count: int, draws: int = 200) -> tuple[float, float]:
    """95% interval of a metric over inputs drawn again with replacement.

    Args:
        value: the metric of the inputs at these indices.
        count: how many inputs there are.
        draws: how often.
    """
    rng = np.random.default_rng(0)
    values = [value(rng.integers(0, count, count)) for _ in range(draws)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
