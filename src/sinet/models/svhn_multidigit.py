"""Reads a whole house number at once: one head for its length, one for each digit.

"Multi-digit Number Recognition from Street View Imagery using Deep Convolutional Neural Networks",
ICLR 2014, arXiv 1312.6082. The authors' code was never published. The variant `_bn` is the network
of potterhsu/SVHNClassifier-PyTorch, MIT, written anew here.

Reported on SVHN: 96.03 % of the numbers read, 95.64 % of them at an accuracy of 98 %; the variant
95.65 %. Counted at 54 x 54: the paper's network 38.1 M parameters, the variant 42.87 M, 793 MMACs.

What differs from the paper: it does not say in which order a layer pools and normalizes (here:
pool, then subtract the mean of the map's own 3 x 3 window), the kernel of the locally connected
layer (here 5) nor the rate of dropout (here 0.5). The variant has batch norm, ReLU throughout, no
locally connected layer, pools that grow the maps and an eleventh class, "none", for every digit.
Images come with their own mean taken off (paper) or within -1..1 (variant).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.models._networks import register_for

__all__ = ["MultiDigitNet", "NumberLogits", "Reading", "coverage_at", "number_loss", "read_numbers"]

DIGITS = 10
NO_DIGIT = -1
"""In digits that are given or read: there is none at this place."""


class NumberLogits(NamedTuple):
    """What the network says.

    Attributes:
        length: (B, places + 2), for 0 .. places digits, then for more.
        digits: (B, places, 10), or 11 where a head has the class "none", the last.
    """

    length: torch.Tensor
    digits: torch.Tensor


class Reading(NamedTuple):
    """The most probable numbers.

    Attributes:
        length: (B,), digits of each number; places + 1 if there are more than can be read.
        digits: (B, places), from the left, `NO_DIGIT` after the last; all so if there are too many.
        log_prob: (B,), the log-probability of the number as a whole: the confidence.
    """

    length: torch.Tensor
    digits: torch.Tensor
    log_prob: torch.Tensor


def read_numbers(length: torch.Tensor, digits: torch.Tensor) -> Reading:
    """The most probable number of all, not the most probable length with its digits.

    `max over l of log P(L = l) + sum over i <= l of max_c log P(S_i = c)`, which is exact as the
    heads are independent. Numbers that are too long are one more length, without digits.

    Args:
        length: logits, (B, places + 2).
        digits: logits, (B, places, 10 or 11); an eleventh class, "none", is never read.
    """
    best, classes = digits.log_softmax(-1)[..., :DIGITS].max(-1)
    running = F.pad(best.cumsum(-1), (1, 0))  # M_0 .. M_places
    scores = length.log_softmax(-1) + F.pad(running, (0, 1))
    log_prob, chosen = scores.max(-1)
    places = torch.arange(digits.shape[1], device=digits.device)
    exists = (places < chosen[:, None]) & (chosen[:, None] <= digits.shape[1])
    return Reading(chosen, torch.where(exists, classes, NO_DIGIT), log_prob)


def number_loss(
    logits: NumberLogits, length: torch.Tensor, digits: torch.Tensor, none_class: bool = False
) -> torch.Tensor:
    """-log P(number | image), averaged over the batch.

    Args:
        logits: of the network.
        length: (B,), digits of each number, at most places + 1.
        digits: (B, places), `NO_DIGIT` where there is none: those heads get no gradient.
        none_class: the heads have an eleventh class for that; they learn it instead.
    """
    if none_class:
        digits = torch.where(digits == NO_DIGIT, DIGITS, digits)
    scores = logits.digits.flatten(0, 1)
    of_digits = F.cross_entropy(scores, digits.flatten(), ignore_index=NO_DIGIT, reduction="sum")
    return F.cross_entropy(logits.length, length) + of_digits / len(length)


def coverage_at(accuracy: float, log_prob: torch.Tensor, correct: torch.Tensor) -> float:
    """The largest share of images, most confident first, whose numbers are right this often.

    Args:
        accuracy: wanted share of right numbers, 0.98 in the paper.
        log_prob: (N,), confidence of each image. Images of equal confidence go together, as no
            threshold can part them.
        correct: (N,), whether length and all digits are right; nothing is half right.
    """
    if not len(log_prob):
        return 0.0
    confidence, order = log_prob.double().sort(descending=True)
    kept = torch.arange(1, len(order) + 1, device=order.device)
    right = correct[order].long().cumsum(0)
    parted = torch.ones_like(kept, dtype=torch.bool)
    parted[:-1] = confidence[:-1] > confidence[1:]
    good = kept[parted & (right.double() / kept >= accuracy)]
    return float(good.max()) / len(order) if len(good) else 0.0


class Maxout(nn.Module):
    """The largest of several linear maps: `max over p of x[:, p::pieces]`, channel by channel.

    Shape: (B, dim * pieces, H, W) -> (B, dim, H, W)
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take the largest piece of each unit."""
        out: torch.Tensor = x.unflatten(1, (-1, self.pieces)).amax(2)
        return out


class SubtractiveNorm(nn.Module):
    """`x` less the mean of its 3 x 3 window, which ends at the border of the map.

    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take the local mean off."""
        return x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class LocallyConnected(nn.Module):
    """A convolution with other weights at every position: `out[p] = W[p] window(p) + b[p]`.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H, W), H and W as given.
    """

    def __init__(self, in_chs: int, out_chs: int, side: tuple[int, int], kernel_size: int) -> None:
        super().__init__()
        self.side, self.kernel_size = side, kernel_size
        positions, fan_in = side[0] * side[1], in_chs * kernel_size**2
        self.weight = nn.Parameter(torch.randn(positions, out_chs, fan_in) * (2 / fan_in) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(out_chs, positions))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every window with its own weights."""
        windows = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2)
        maps = torch.einsum("bip,poi->bop", windows, self.weight) + self.bias
        out: torch.Tensor = maps.unflatten(2, self.side)
        return out


def _paper_layer(in_chs: int, out_chs: int, stride: int, pieces: int, drop: float) -> nn.Sequential:
    """Pools keep the size, divided by the stride and rounded up."""
    pool: list[nn.Module] = [nn.MaxPool2d(2, 2, ceil_mode=True)]
    if stride == 1:  # repeating the border adds nothing that a window's maximum has not
        pool = [nn.ReplicationPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1)]
    return nn.Sequential(
        nn.Conv2d(in_chs, out_chs * pieces, 5, 1, 2),
        Maxout(pieces) if pieces > 1 else nn.ReLU(),
        *pool,
        SubtractiveNorm(),
        nn.Dropout(drop),
    )


def _bn_layer(in_chs: int, out_chs: int, stride: int, drop: float) -> nn.Sequential:
    """Pools are padded on all sides: maps of n become n // 2 + 1 or n + 1."""
    return nn.Sequential(
        nn.Conv2d(in_chs, out_chs, 5, 1, 2),
        nn.BatchNorm2d(out_chs),
        nn.ReLU(),
        nn.MaxPool2d(2, stride, 1),
        nn.Dropout(drop),
    )


def _side(size: int, layers: int, batch_norm: bool) -> int:
    """Side of the last map."""
    for i in range(layers):
        if batch_norm:
            size = size // 2 + 1 if i % 2 == 0 else size + 1
        elif i % 2 == 0:
            size = -(-size // 2)
    return size


class MultiDigitNet(nn.Module):
    """Convolutions with pools of stride 2, 1, 2, 1 ..., dense layers and the heads.

    Shape: (B, in_chans, H, W) -> `NumberLogits`, in training and evaluation.
    """

    def __init__(
        self,
        dims: Sequence[int] = (48, 64, 128, 160, 192, 192, 192, 192),
        hidden: int = 3072,
        maxout: int = 3,
        batch_norm: bool = False,
        places: int = 5,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        img_size: int | tuple[int, int] = 54,
    ) -> None:
        """Build the network.

        Args:
            dims: units of each convolutional layer; the locally connected one has as many as the
                last.
            hidden: units of both dense layers.
            maxout: linear maps of each unit of the first layer.
            batch_norm: the re-implementation's layers: no maxout, none locally connected, an
                eleventh class for every digit.
            places: digits that can be read.
            in_chans: image channels.
            drop_rate: after all hidden layers; with `batch_norm` after the convolutional ones.
            img_size: height and width, or one number for both.
        """
        super().__init__()
        self.batch_norm, self.in_chans, self.places = batch_norm, in_chans, places
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        height, width = (_side(side, len(dims), batch_norm) for side in self.img_size)
        self.features = nn.Sequential()
        for i, dim in enumerate(dims):
            before, stride = (dims[i - 1] if i else in_chans), 2 - i % 2
            if batch_norm:
                layer = _bn_layer(before, dim, stride, drop_rate)
            else:
                layer = _paper_layer(before, dim, stride, 1 if i else maxout, drop_rate)
            self.features.append(layer)
        if not batch_norm:
            local = LocallyConnected(dims[-1], dims[-1], (height, width), 5)
            self.features.append(nn.Sequential(local, nn.ReLU(), nn.Dropout(drop_rate)))
        dense_drop = 0.0 if batch_norm else drop_rate
        self.dense = nn.Sequential()
        for inputs in (dims[-1] * height * width, hidden):
            layer = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dense_drop))
            self.dense.append(layer)
        self.num_classes = DIGITS + batch_norm
        self.length = nn.Linear(hidden, places + 2)
        self.digits = nn.Linear(hidden, places * self.num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last map."""
        layers, given = len(self.features) - (not self.batch_norm), x.shape[-2:]
        for side, built in zip(given, self.img_size, strict=True):
            if _side(side, layers, self.batch_norm) != _side(built, layers, self.batch_norm):
                raise UsageError(self._misfit(tuple(given)))
        out: torch.Tensor = self.features(x)
        return out

    def forward(self, x: torch.Tensor) -> NumberLogits:
        """Image to logits of the length and of each digit."""
        x = self.dense(self.forward_features(x).flatten(1))
        digits = self.digits(x).unflatten(1, (self.places, self.num_classes))
        return NumberLogits(self.length(x), digits)

    def _misfit(self, given: tuple[int, ...]) -> str:
        layers = len(self.features) - (not self.batch_norm)
        spans = []
        for built in self.img_size:
            target = _side(built, layers, self.batch_norm)
            fits = [n for n in range(2 * built) if _side(n, layers, self.batch_norm) == target]
            spans.append(f"{fits[0]} to {fits[-1]}")
        return (
            f"images of {given[0]} x {given[1]} do not fit this network, built for "
            f"{self.img_size[0]} x {self.img_size[1]}: heights of {spans[0]} and widths of "
            f"{spans[1]} pixels do; resize them, or build it with img_size={given}"
        )


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of SVHNClassifier-PyTorch -> ours; its heads of the digits become one."""
    if not any(name.startswith("_hidden") for name in state_dict):
        return state_dict
    out, heads = {}, {}
    for name, value in state_dict.items():
        if found := re.match(r"_hidden(\d+)\.(.*)", name):
            layer, rest = int(found[1]), found[2]
            place = f"features.{layer - 1}" if layer <= 8 else f"dense.{layer - 9}"
            out[f"{place}.{rest}"] = value
        elif found := re.match(r"_digit(\d+)\.0\.(\w+)", name):
            heads[found[2], int(found[1])] = value
        else:
            out[name.replace("_digit_length.0.", "length.")] = value
    for leaf in sorted({leaf for leaf, _ in heads}):
        parts = [heads[key] for key in sorted(heads) if key[0] == leaf]
        out[f"digits.{leaf}"] = torch.cat(parts)
    return out


_VARIANTS: dict[str, dict[str, Any]] = {
    "svhn_multidigit_test": {"dims": (8, 12, 16, 16), "hidden": 64, "img_size": 32},
    "svhn_multidigit_bn_test": {
        "dims": (8, 12, 16, 16), "hidden": 64, "img_size": 32, "batch_norm": True, "drop_rate": 0.2,
    },
    "svhn_multidigit": {},
    "svhn_multidigit_bn": {"batch_norm": True, "drop_rate": 0.2},
}  # fmt: skip


@register_for("digits")
def svhn_multidigit_test(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """For tests: the paper's layers at 32 x 32, 0.5 M parameters."""
    return MultiDigitNet(**{**_VARIANTS["svhn_multidigit_test"], **kwargs})


@register_for("digits")
def svhn_multidigit_bn_test(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """For tests: the re-implementation's layers at 32 x 32, 0.1 M parameters."""
    return MultiDigitNet(**{**_VARIANTS["svhn_multidigit_bn_test"], **kwargs})


@register_for("digits")
def svhn_multidigit(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """The paper's network for SVHN at 54 x 54: 38.1 M parameters."""
    return MultiDigitNet(**{**_VARIANTS["svhn_multidigit"], **kwargs})


@register_for("digits")
def svhn_multidigit_bn(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """The re-implementation with batch norm at 54 x 54: 42.87 M parameters."""
    return MultiDigitNet(**{**_VARIANTS["svhn_multidigit_bn"], **kwargs})
