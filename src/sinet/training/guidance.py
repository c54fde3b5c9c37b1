"""Guidance: a network learns its task and, layer by layer, to represent images as a guide does.

"Training the Untrainable: Introducing Inductive Bias via Representational Alignment", arXiv
2410.20035. The guide, trained or not, is frozen and sees the same images. The loss becomes

    L = L_task + alpha * sum over pairs of layers of (1 - CKA(A_target, A_guide))

The authors run the target twice a step, once for the logits and once for the layers, so that
dropout differs between the two and BatchNorm statistics move twice. Here hooks read the layers
during the one pass that the task makes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool
from torch import Tensor, nn

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.errors import UsageError, unknown
from sinet.models.spec import ModelSpec
from sinet.training.checkpoint import difference
from sinet.training.loop import TaskFactory
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

LAYERS = (
    nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d, FastAdaptiveAvgPool, nn.LSTM, nn.RNN,
    nn.TransformerDecoderLayer, nn.LayerNorm, nn.MultiheadAttention,
)  # fmt: skip
"""Kinds of layers whose outputs are compared: before norm and activation, where those follow."""


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of two layers on a batch, 0 to 1; the biased form.

    With K = X X^T and L = Y Y^T, both centred: sum(K L) / sqrt(sum(K K) sum(L L)). Even random
    layers are far from 0 where a batch is smaller than a layer; 0 if a layer is constant.

    Args:
        x: outputs of one layer, (B, ...), flattened to (B, p).
        y: outputs of another, (B, ...).
    """
    alignment: Tensor = (_gram(x) * _gram(y)).sum()
    return alignment


def _gram(x: Tensor) -> Tensor:
    """Inner products of centred rows, of norm 1, (B, B); at least in float32.

    Rows are centred before they are multiplied: after it, rounding hides what differs in images
    that are nearly alike.
    """
    x = x.flatten(1)
    x = x if x.dtype == torch.float64 else x.float()
    x = x - x.mean(0)
    products = x @ x.T
    normed: Tensor = products / products.norm().clamp_min(torch.finfo(x.dtype).tiny)
    return normed


def spread(guide: int, target: int) -> dict[int, int]:
    """Target layer -> guide layer, spread evenly: i -> round(i (target - 1) / (guide - 1)).

    Where several layers of a deeper guide meet at one of the target's, the last of them counts.

    Args:
        guide: number of the guide's layers.
        target: number of the target's layers.
    """
    return {round(i * (target - 1) / max(guide - 1, 1)): i for i in range(guide)}


class Maps:
    """The outputs of a network's layers, as (name, output) in the order of their calls.

    Args:
        network: any.
        names: of modules; all layers of the kinds in `LAYERS` if empty.

    Raises:
        UsageError: a name that the network does not have; the nearest is offered.
    """

    def __init__(self, network: nn.Module, names: Sequence[str] = ()) -> None:
        modules = dict(network.named_modules())
        for name in names:
            if name not in modules:
                raise unknown(f"layer of {type(network).__name__}", name, filter(None, modules))
        kept = names or [name for name, module in modules.items() if isinstance(module, LAYERS)]
        self._layers = {name: modules[name] for name in kept}
        self.found: list[tuple[str, Tensor]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note what the layers give out, until the block ends; what was noted before is gone."""
        self.found = []

        def note(name: str, output: Any) -> None:
            # a recurrent layer's sequence without its state, attention without its weights
            self.found.append((name, output[0] if isinstance(output, tuple) else output))

        handles = [
            module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
            for name, module in self._layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def body(self, batch: int) -> list[Tensor]:
        """All but the last, which is the classifier; those whose first axis is not the batch."""
        return [output for _, output in self.found[:-1] if len(output) == batch]

    def named(self, name: str, batch: int) -> Tensor:
        """The output of one layer, of its last call.

        Raises:
            UsageError: it was not called, or its first axis is not the batch.
        """
        outputs = [output for found, output in self.found if found == name]
        if not outputs or len(outputs[-1]) != batch:
            said = f"gave {tuple(outputs[-1].shape)}" if outputs else "was not called"
            raise UsageError(
                f"layer {name!r} {said} for a batch of {batch}; choose a layer whose output "
                "has an entry for each image"
            )
        return outputs[-1]


class Alignment:
    """How far a target's layers are from those of a frozen guide.

    Args:
        target: the network that learns.
        guide: put into evaluation mode and frozen.
        pairs: (layer of the target, layer of the guide) by name; spread evenly if empty.

    Raises:
        UsageError: a pair names a layer that is not there.
    """

    def __init__(
        self, target: nn.Module, guide: nn.Module, pairs: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.guide, self.pairs = guide.eval().requires_grad_(False), tuple(pairs)
        self.ours = Maps(target, [ours for ours, _ in pairs])
        self.theirs = Maps(guide, [theirs for _, theirs in pairs])

    def distances(self, images: Tensor) -> Tensor:
        """1 - CKA of each pair, in the order of the target's layers, (pairs,).

        Args:
            images: what the target saw while `ours` was recording, (B, C, H, W).

        Raises:
            UsageError: a network has no layers to compare.
        """
        self.guide.to(images.device)
        with self.theirs.recording(), torch.no_grad():
            self.guide(images)
        return torch.stack([1 - linear_cka(x, y) for x, y in self._matched(len(images))])

    def _matched(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        if self.pairs:
            return [(self.ours.named(x, batch), self.theirs.named(y, batch)) for x, y in self.pairs]
        ours, theirs = self.ours.body(batch), self.theirs.body(batch)
        if not ours or not theirs:
            raise UsageError(
                f"{len(ours)} layers of the target and {len(theirs)} of the guide can be compared; "
                "name pairs of layers, or choose another network"
            )
        return [(ours[x], theirs[y]) for x, y in sorted(spread(len(theirs), len(ours)).items())]


@dataclass(frozen=True)
class Guidance:
    """Who guides, how strongly and how long.

    Raises:
        UsageError: alpha below 0, or a share outside 0 to 1.
    """

    guide: ModelSpec | Path
    """A network, untrained unless it names weights; or the folder of a finished training."""
    alpha: float = 1.0
    """Weight of the sum over the pairs; alignment depends on the batch size, 256 in the paper."""
    share: float = 1.0
    """Share of the training's steps, from the first, that are guided."""
    pairs: tuple[tuple[str, str], ...] = ()
    """(layer of the target, layer of the guide) by name; () = all, spread evenly."""
    seed: int = 0
    """Of an untrained guide's weights."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not 0 <= self.alpha < math.inf:
            raise UsageError(f"guidance: alpha {self.alpha} given, expected 0 or more; 1 is usual")
        if not 0 <= self.share <= 1:
            raise UsageError(f"guidance: share {self.share} given, expected 0 to 1; 1 = all steps")

    def network(self, data: ImageDataset, preprocess: Preprocess) -> nn.Module:
        """The guide, with the weights that it keeps.

        Raises:
            UsageError: no such network or training, or one that saw other inputs.
        """
        if isinstance(self.guide, Path):
            trained = Trained.load(self.guide)
            saw, sees = trained.preprocess.to_dict(), preprocess.to_dict()
            if saw != sees:
                raise UsageError(
                    f"the guide in {self.guide} learned from other inputs: "
                    f"{difference({'input': saw}, {'input': sees}, ['input'])}; "
                    "train one of the two again with the preprocessing of the other"
                )
            return trained.model()
        with torch.random.fork_rng(devices=[]):  # the target must not depend on who guides it
            torch.manual_seed(self.seed)
            return self.guide.create(len(data.classes), preprocess.channels)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        guide = str(self.guide) if isinstance(self.guide, Path) else self.guide.to_dict()
        pairs = [list(pair) for pair in self.pairs]
        return {"guide": guide, "alpha": self.alpha, "share": self.share, "pairs": pairs,
                "seed": self.seed}  # fmt: skip


def guided(task: type[Any], guidance: Guidance) -> TaskFactory:
    """A task whose network is guided while it learns, to be given to `train` as its `task`.

        train(spec, data, recipe, out, preprocess=p, task=guided(Classify, guidance))

    A run goes on with the same guidance only.

    Args:
        task: a task's class, such as `sinet.tasks.classify.Classify`.
        guidance: who guides it.
    """

    class Guided(task):  # type: ignore[misc]
        described: ClassVar = {"guidance": guidance.to_dict()}

        def __init__(
            self, network: nn.Module, data: ImageDataset, recipe: Recipe, preprocess: Preprocess
        ) -> None:
            super().__init__(network, data, recipe, preprocess)
            guide = guidance.network(data, preprocess)
            # no module of this one: it neither learns nor belongs into checkpoints
            self._alignment = Alignment(network, guide, guidance.pairs)

        def training_step(self, batch: Any, batch_index: int) -> Tensor:
            """Loss of the task and, in the first steps, distance to the guide."""
            if self.global_step >= round(guidance.share * self.total_steps):
                return super().training_step(batch, batch_index)  # type: ignore[no-any-return]
            seen: list[Tensor] = []
            handle = self.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            try:
                with self._alignment.ours.recording():
                    loss = super().training_step(batch, batch_index)
            finally:
                handle.remove()
            distances = self._alignment.distances(seen[-1])
            return loss + guidance.alpha * distances.sum()  # type: ignore[no-any-return]

    return Guided
