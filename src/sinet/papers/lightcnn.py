"""LightCNN: what 14,862 parameters reach by plain training, and whether two branches pay."""

from __future__ import annotations

import itertools

import timm
from torch import nn

from sinet.measurement.cost import cost
from sinet.papers._arms import Contest, beats, contest
from sinet.papers.base import Card, Finding, Outcome, Published, Setting

CARD = Card(
    slug="lightcnn",
    title="Building Efficient Lightweight CNN Models",
    authors="N. Isong",
    year=2025,
    venue="arXiv",
    url="https://arxiv.org/abs/2501.15547",
    licence="no code published; a reconstruction from the published counts, Apache-2.0",
    idea=(
        "Two tiny networks learn apart, one from the images and one from altered copies; a small "
        "head then learns to weigh their predictions while layers are freed from the back."
    ),
    equations=(
        "p_i = softmax(W2 relu(W1 flatten(conv3(conv2(conv1(x)))))), i = 1, 2",
        "logits = V2 relu(V1 [p_1, p_2] + c1) + c2",
    ),
    claims=(
        "14,862 parameters and 0.17 MB",
        "99 % on MNIST, 89 % on Fashion-MNIST; 65 % on CIFAR-10 with less than 20,000 parameters",
        "the two-stage training is better than plain training (not measured here yet)",
    ),
    models=("lightcnn", "lightcnn_cifar"),
    parity="no reference code; counts exact, groups equal to two separate branches to 1e-12",
    published={
        "lightcnn": Published(0.014862, None, 99),
        "lightcnn_cifar": Published(None, None, 65),
    },
    caveat=(
        "The top-1 is on MNIST (89 % on Fashion-MNIST) and on CIFAR-10, where the paper has less "
        "than 20,000 parameters."
    ),
)
SEEDS = (0, 1, 2)


def reproduce(setting: Setting) -> list[Finding]:
    """Counts; plain end-to-end training against one branch of equal size.

    The article's two-stage training is not part of this yet, so its accuracy claim can only be
    confirmed here (if plain training gets there), not refuted.
    """
    found = contest(
        setting,
        {"two_branches": _network, "one_wide_network": _single},
        size=28,
        epochs=60 if setting.device == "cuda" else 25,
        train_images=60_000 if setting.device == "cuda" else 10_000,
        seeds=SEEDS,
    )
    structure = beats(
        "two branches and a head learn more than one network of equal size, trained plainly",
        "not compared; the article credits its training",
        found,
        "two_branches",
        ["one_wide_network"],
    )
    return [_counts(), _accuracy(found), structure]


def _counts() -> Finding:
    """The published numbers that the reconstruction must meet."""
    measured: dict[str, float] = {}
    for name, size, channels in (("lightcnn", 28, 1), ("lightcnn_cifar", 32, 3)):
        found = cost(timm.create_model(name), size, channels)
        measured |= {f"{name}_params": found.params, f"{name}_macs": found.macs}
    megabytes = measured["lightcnn_params"] * 12 / 2**20  # with Adam's two moments
    fits = measured["lightcnn_params"] == 14_862 and measured["lightcnn_cifar_params"] < 20_000
    return Finding(
        CARD.claims[0],
        "14,862 parameters, 0.17 MB; CIFAR-10 less than 20,000 parameters",
        {**measured, "checkpoint_mib": megabytes},
        "confirmed" if fits and round(megabytes, 2) == 0.17 else "refuted",
        f"{measured['lightcnn_params']:,} and {measured['lightcnn_cifar_params']:,} parameters; "
        f"{megabytes:.3f} MiB with the optimizer's state, a third of it without",
    )


def _accuracy(found: Contest) -> Finding:
    """Plain training of the whole network; all training images only with --device cuda."""
    mean = found.mean("two_branches")
    verdict: Outcome = "not decided"
    if len(found.top1["two_branches"]) > 1 and mean >= 88.5:
        verdict = "confirmed"
    return Finding(
        "at least 88.5 % on Fashion-MNIST, already by plain end-to-end training",
        "89 % after the two-stage training on 60,000 images",
        {"top1": dict(found.top1), **found.conditions},
        verdict,
        f"{mean:.2f}% by plain training on {found.conditions['train_images']} images",
    )


def _network(num_classes: int, in_chans: int) -> nn.Module:
    """The reconstruction."""
    network: nn.Module = timm.create_model(
        "lightcnn", num_classes=num_classes, in_chans=in_chans, img_size=28
    )
    return network


def _single(num_classes: int, in_chans: int) -> nn.Module:
    """One branch of about as many parameters, its last layer the classifier."""
    widths = (in_chans, 12, 24, 48)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(48, 28), nn.ReLU(), nn.Linear(28, num_classes)
    )
