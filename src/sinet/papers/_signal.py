"""A signal somewhere in noise: the task DSD, three networks for it, and how many samples they need.

"Role of Locality and Weight Sharing in Image-Based Tasks", arXiv 2403.15707. An image is k patches
of d numbers. A fixed direction w* of length 1, with the class as its sign, stands in one patch that
is drawn anew for each image; noise of deviation sigma is everywhere:

    x = y e_t(w*) + z,  y = +-1,  t uniform in 1 .. k,  z ~ N(0, sigma^2 I)

The networks have one hidden layer of k units and output weights of one; phi_b is `soft_threshold`:

    FCN  f(x) = sum_i phi_b(w_i . x)        w_i in R^(kd): sees everything
    LCN  f(x) = sum_i phi_b(w_i . x^(i))    w_i in R^d: one filter of its own for each patch
    CNN  f(x) = sum_i phi_b(w . x^(i))      w in R^d: one filter for all

Each is the one above with fewer free weights, and the best of each is the same function. Many
trainings run as one: their weights stand in one tensor, and the sum of their losses has the
gradients of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FILTERS = {"cnn": "sntd,srd->srnt", "lcn": "sntd,srtd->srnt", "fcn": "sntd,srhtd->srnh"}
"""What each network multiplies: (s)eed, (r)ate, (n)umber of the image, pa(t)ch, (d)imension,
(h)idden unit."""
CHECKS = 20
"""How often a training is looked at to stop it early."""


@dataclass(frozen=True)
class Task:
    """DSD(k, d, sigma), see above."""

    k: int
    d: int
    sigma: float


@dataclass(frozen=True)
class Method:
    """How a network learns: full batches, squared error, the best of some rates.

    Attributes:
        optimizer: "adam", or "gd", which treats all rotations of the input alike.
        rates: learning rates of the weights; validation chooses.
        bias: share of the rate by which the threshold b moves.
        steps: of the optimizer.
    """

    optimizer: str
    rates: tuple[float, ...]
    bias: float
    steps: int


@dataclass(frozen=True)
class Images:
    """Images x (seeds, count, k, d) and their classes y = +-1 (seeds, count)."""

    x: Tensor
    y: Tensor

    def first(self, count: int) -> Images:
        """The first of them."""
        return Images(self.x[:, :count], self.y[:, :count])


def draw(task: Task, count: int, seeds: Sequence[int], part: int = 0) -> Images:
    """Images of a task; each seed has a signal w* of its own.

    Args:
        task: k, d and sigma.
        count: images for each seed.
        seeds: of signal and images.
        part: parts of one seed (training, validation, test) share the signal only.
    """
    drawn = [_draw(task, count, seed, part) for seed in seeds]
    return Images(torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn]))


def _draw(task: Task, count: int, seed: int, part: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + 1 + part)
    signal = torch.randn(task.d, generator=torch.Generator().manual_seed(1000 * seed))
    y = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1
    patch = torch.randint(0, task.k, (count,), generator=generator)
    x = task.sigma * torch.randn(count, task.k, task.d, generator=generator)
    x[torch.arange(count), patch] += y[:, None] * signal / signal.norm()
    return x, y


def soft_threshold(z: Tensor, b: Tensor) -> Tensor:
    """phi_b(z) = relu(z - b) - relu(-z - b): odd, and zero from -b to b."""
    return (z - b).relu() - (-z - b).relu()


def outputs(kind: str, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """What networks say of images.

    Args:
        kind: "cnn", "lcn" or "fcn".
        x: (seeds, count, k, d).
        w: weights, (seeds, rates, d) of a CNN, (.., k, d) of an LCN, (.., k, k, d) of an FCN.
        b: thresholds, (seeds, rates).

    Returns:
        f(x), (seeds, rates, count).
    """
    z = torch.einsum(FILTERS[kind], x, w)
    return soft_threshold(z, b[..., None, None]).sum(-1)


@torch.no_grad()
def accuracy(kind: str, images: Images, w: Tensor, b: Tensor) -> Tensor:
    """Share of images to which networks give the right sign, (seeds, rates)."""
    right = outputs(kind, images.x, w, b) * images.y[:, None] > 0
    return right.double().mean(-1)


def start(kind: str, task: Task, seeds: Sequence[int], rates: int) -> Tensor:
    """Weights N(0, 1e-4 / fan-in), the same for all rates; isotropic, as equivariance asks.

    They are small, so that what a network is after training came from the images.
    """
    shape = {"cnn": (task.d,), "lcn": (task.k, task.d), "fcn": (task.k, task.k, task.d)}[kind]
    fan_in = task.k * task.d if kind == "fcn" else task.d
    drawn = [
        torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + 999))
        for seed in seeds
    ]
    weights = 0.01 / math.sqrt(fan_in) * torch.stack(drawn)
    return weights[:, None].repeat(1, rates, *[1] * len(shape))


class Training:
    """Networks of one kind in training, one for each seed and rate, from b = 0.

    Args:
        kind: "cnn", "lcn" or "fcn".
        method: how they learn.
        w: their starting weights, as of `outputs`.
    """

    def __init__(self, kind: str, method: Method, w: Tensor) -> None:
        self.kind = kind
        # a tensor for each rate: an optimizer's groups have rates of their own
        self.w = [part.clone().requires_grad_() for part in w.unbind(1)]
        self.b = [part.new_zeros(len(part)).requires_grad_() for part in self.w]
        make = {"adam": torch.optim.Adam, "gd": torch.optim.SGD}[method.optimizer]
        groups = [
            {"params": [tensor], "lr": rate * factor}
            for tensors, factor in ((self.w, 1.0), (self.b, method.bias))
            for tensor, rate in zip(tensors, method.rates, strict=True)
        ]
        self.optimizer = make(groups, lr=0.0)

    def state(self) -> tuple[Tensor, Tensor]:
        """Weights and thresholds, as of `outputs`."""
        return torch.stack(self.w, 1), torch.stack(self.b, 1)

    def step(self, images: Images) -> None:
        """One step on the squared error over all images; b stays at least zero."""
        self.optimizer.zero_grad()
        error = outputs(self.kind, images.x, *self.state()) - images.y[:, None]
        error.square().mean(-1).sum().backward()
        self.optimizer.step()
        with torch.no_grad():
            for b in self.b:
                b.clamp_(min=0)

    def accuracy(self, images: Images) -> Tensor:
        """As of `accuracy`, (seeds, rates)."""
        return accuracy(self.kind, images, *self.state())


def learned(
    kind: str, task: Task, method: Method, parts: Sequence[Images], seeds: Sequence[int]
) -> list[float]:
    """Test accuracy of a network for each seed; validation stops early and chooses the rate.

    Args:
        kind: "cnn", "lcn" or "fcn".
        task: what is learned.
        method: how.
        parts: images for training, validation and test.
        seeds: of the starting weights.
    """
    train, val, test = parts
    training = Training(kind, method, start(kind, task, seeds, len(method.rates)).to(train.x))
    best = training.accuracy(val)
    kept = [tensor.detach().clone() for tensor in training.state()]
    for step in range(1, method.steps + 1):
        training.step(train)
        if step % max(method.steps // CHECKS, 1) == 0:
            now = training.accuracy(val)
            for old, new in zip(kept, training.state(), strict=True):
                old[now > best] = new.detach()[now > best]
            best = torch.maximum(now, best)
    rate = best.argmax(1)
    rows = torch.arange(len(seeds), device=rate.device)
    w, b = (tensor[rows, rate][:, None] for tensor in kept)
    return accuracy(kind, test, w, b)[:, 0].tolist()


def samples_needed(sizes: Sequence[int], accuracies: Sequence[float], target: float) -> float:
    """The number of samples at which accuracy first reaches the target, between sizes by its log.

    Infinite if no size does.
    """
    before = None
    for size, accuracy in zip(sizes, accuracies, strict=True):
        if accuracy >= target:
            if before is None:
                return float(size)
            share = (target - before[1]) / (accuracy - before[1])
            return float(before[0] * (size / before[0]) ** share)
        before = size, accuracy
    return math.inf
