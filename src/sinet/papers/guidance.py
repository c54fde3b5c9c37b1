"""Guidance: is a deep FCN trained better beside a CNN, and does the CNN need to know anything?"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sinet.data.dataset import ImageDataset, Split
from sinet.data.preprocess import Preprocess
from sinet.files import read_json, write_json
from sinet.measurement.cost import cost
from sinet.models.spec import ModelSpec
from sinet.papers._arms import Contest, beats, complete
from sinet.papers._claims import images
from sinet.papers.base import Card, Finding, Setting
from sinet.tasks.classify import Classify
from sinet.training.evaluate import evaluate
from sinet.training.guidance import Alignment, Guidance, guided
from sinet.training.loader import eval_batches
from sinet.training.loop import TaskFactory, train
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

CARD = Card(
    slug="guidance",
    title=("Training the Untrainable: Introducing Inductive Bias via Representational Alignment"),
    authors="V. Subramaniam, D. Mayo, C. Conwell, T. Poggio, B. Katz, B. Cheung, A. Barbu",
    year=2025,
    venue="NeurIPS",
    url="https://arxiv.org/abs/2410.20035",
    licence="authors' code: none stated, not used; written from the description, Apache-2.0",
    idea=(
        "A network that does not suit its task learns it beside a frozen one that does: layer by "
        "layer its representations of a batch are drawn towards those of the guide. The guide need "
        "not be trained; its architecture alone carries a prior."
    ),
    equations=(
        "L = L_task + alpha sum_i [1 - CKA(A_target^m(i), A_guide^i)],  alpha = 1",
        "CKA = <K, L> / sqrt(<K, K> <L, L>),  K = H X X^T H,  L = H Y Y^T H,  H = I - 1 1^T / n",
        "m(i) = round(i (n_target - 1) / (n_guide - 1))",
    ),
    claims=(
        "a deep FCN learns images better beside a trained CNN",
        "it does so beside an untrained CNN too",
        "it is the CNN: an untrained FCN as guide does less",
        "guidance in the first steps only is enough",
        "guidance does more than distilling the trained CNN's logits",
    ),
    models=("deep_fcn", "wide_fcn", "plain_convnet50"),
    parity=(
        "logits and 21 distances of an FCN and a ResNet-18, float64, 1e-6; 5e-6 in the last "
        "layers, where the record holds no more"
    ),
)
SEEDS = (0, 1, 2)
PAPER = "ImageNet, said to be top-5: 1.65 % alone, 7.50 % by a trained, 13.10 % by a random CNN"
BATCH = 256  # as in the paper: alignment depends on it
LRS = (1e-3, 1e-4)
MORE_LRS = (3e-3,)
"""One more for the network without a guide, so that it does not fail for want of a rate."""


@dataclass(frozen=True)
class Experiment:
    """What is trained on what.

    Attributes:
        data: its training images without `held`, and the images that judge.
        held: training images that choose each arm's learning rate.
        target: the deep FCN.
        cnn: the guide.
        recipe: of all arms; the rates come from `lrs`.
        lrs: rates of each arm.
        seeds: of weights, order and dropout.
    """

    data: ImageDataset
    held: Split
    target: ModelSpec
    cnn: ModelSpec
    recipe: Recipe
    lrs: Mapping[str, tuple[float, ...]]
    seeds: tuple[int, ...]

    @property
    def preprocess(self) -> Preprocess:
        """Of target and guide alike."""
        middle = (0.5,) * self.data.channels
        return Preprocess(self.target.size, self.data.channels, middle, middle)


ARMS = ("none", "trained_cnn", "random_cnn", "random_fcn", "random_cnn_first", "distilled")
FIRST = 1 / 4
"""Share of the steps that `random_cnn_first` is guided in: 100 of 400."""


def experiment(setting: Setting) -> Experiment:
    """5,000 images and 25 layers; on a GPU all images and the paper's 48 layers."""
    big = setting.device == "cuda"
    data = images(setting.data, setting.quick, 60_000 if big else 7_000)
    held = len(data.train) // 6 if big or setting.quick else 2_000
    order = np.random.default_rng(0).permutation(len(data.train))
    chosen = data.train.subset(np.sort(order[:held]))
    data.splits = {**data.splits, "train": data.train.subset(np.sort(order[held:]))}
    widths = [2048, *[1024] * 47] if big else [256, *[128] * 24]
    narrow = {"channels": [16, 32, 64, 128], "stem_type": "deep", "stem_width": 8}
    size = 28 if data.channels == 1 else 32
    target = ModelSpec("deep_fcn", size, {"widths": widths})
    # timm's start of ResNets silences the residual branches, of which nothing would be learned
    cnn = ModelSpec("resnet18", size, {"zero_init_last": False, **({} if big else narrow)})
    # the card asks for about 600 steps; 400 fit into ten minutes
    epochs = 6 if setting.quick else 30 if big else 20
    recipe = Recipe(
        epochs=epochs, batch_size=BATCH, weight_decay=0.0, warmup=0.0, schedule="step",
        flip="none", crop="none",
    )  # fmt: skip
    usual: tuple[float, ...] = LRS[:1] if setting.quick else LRS
    lrs = dict.fromkeys(ARMS, usual)
    if not setting.quick:
        lrs["none"] += MORE_LRS
    seeds = SEEDS[:1] if setting.quick else SEEDS
    return Experiment(data, chosen, target, cnn, recipe, lrs, seeds)


def reproduce(setting: Setting) -> list[Finding]:
    """An FCN alone, beside four guides, and distilled; each at its best learning rate."""
    chosen = experiment(setting)
    teachers = [("teacher", seed) for seed in chosen.seeds]
    complete(setting, teachers, lambda _, seed: _teacher(setting, seed) / "trained.json",
             lambda _, seed: _teach(setting, chosen, seed))  # fmt: skip
    runs = {f"{arm}-{lr:g}": (arm, lr) for arm in ARMS for lr in chosen.lrs[arm]}
    order = [(name, seed) for seed in chosen.seeds for name in runs]

    def file(name: str, seed: int) -> Path:
        return setting.work / f"{name}-{seed}" / "found.json"

    def do(name: str, seed: int) -> None:
        write_json(file(name, seed), _train(setting, chosen, *runs[name], seed, file(name, seed)))

    complete(setting, order, file, do)
    found = {
        arm: {lr: [read_json(file(f"{arm}-{lr:g}", s)) for s in chosen.seeds] for lr in lrs}
        for arm, lrs in chosen.lrs.items()
    }
    return _findings(_contest(chosen, found))


def _findings(found: Contest) -> list[Finding]:
    cnn, unguided = CARD.claims[:2], ["none"]
    return [
        beats(cnn[0], PAPER, found, "trained_cnn", unguided),
        beats(cnn[1], PAPER, found, "random_cnn", unguided),
        beats(CARD.claims[2], "not compared", found, "random_cnn", ["random_fcn"]),
        beats(CARD.claims[3], "300 steps on ImageNet", found, "random_cnn_first", unguided),
        beats(CARD.claims[4], "claimed, no figure at hand", found, "trained_cnn", ["distilled"]),
    ]


def _contest(
    chosen: Experiment, found: Mapping[str, Mapping[float, list[dict[str, float]]]]
) -> Contest:
    """Every arm at the rate that is best on the held images; the others are noted."""

    def mean(rows: list[dict[str, float]], key: str) -> float:
        return round(statistics.fmean(row[key] for row in rows), 4)

    best = {arm: max(rates, key=lambda lr: mean(rates[lr], "held")) for arm, rates in found.items()}
    kept = {arm: found[arm][lr] for arm, lr in best.items()}
    classes, channels = chosen.data.num_classes, chosen.data.channels
    costs = {s.name: cost(s.create(classes, channels), chosen.target.size, channels)
             for s in (chosen.target, chosen.cnn)}  # fmt: skip
    conditions = {
        "lr": best,
        "top1_by_lr": {
            arm: {f"{lr:g}": mean(rows, "top1") for lr, rows in rates.items()}
            for arm, rates in found.items()
        },
        "train_top1": {arm: mean(rows, "train") for arm, rows in kept.items()},
        "gap_points": {
            arm: round(mean(rows, "train") - mean(rows, "top1"), 4) for arm, rows in kept.items()
        },
        "cka": {arm: mean(rows, "cka") for arm, rows in kept.items()},
        "params": {name: c.params for name, c in costs.items()},
        "data": chosen.data.root.name,
        "train_images": len(chosen.data.train),
        "held_images": len(chosen.held),
        "val_images": len(chosen.data.val),
        "epochs": chosen.recipe.epochs,
        "size": chosen.target.size,
        "seeds": list(chosen.seeds),
    }
    return Contest({arm: [row["top1"] for row in rows] for arm, rows in kept.items()}, conditions)


def _teacher(setting: Setting, seed: int) -> Path:
    return setting.work / f"teacher-{seed}"


def _teach(setting: Setting, chosen: Experiment, seed: int) -> None:
    """Train the guide on the images that the target will have."""
    recipe = chosen.recipe.replace(seed=seed, lr=LRS[0])
    train(chosen.cnn, chosen.data, recipe, _teacher(setting, seed), preprocess=chosen.preprocess,
          task=Classify, device=setting.device, progress=False)  # fmt: skip


def guidance_of(arm: str, chosen: Experiment, teacher: Path, seed: int) -> Guidance | None:
    """Who guides an arm; nobody in `none` and `distilled`."""
    other = 100 + seed  # an untrained guide is not the start of the target
    return {
        "trained_cnn": Guidance(teacher),
        "random_cnn": Guidance(chosen.cnn, seed=other),
        "random_fcn": Guidance(chosen.target, seed=other),
        "random_cnn_first": Guidance(chosen.cnn, seed=other, share=FIRST),
    }.get(arm)


def _train(
    setting: Setting, chosen: Experiment, arm: str, lr: float, seed: int, out: Path
) -> dict[str, float]:
    """Train one arm; accuracies in points of 100 and how near it came to its guide.

    An arm without a guide is held against the trained CNN.
    """
    teacher = _teacher(setting, seed)
    recipe = chosen.recipe.replace(seed=seed, lr=lr)
    if arm == "distilled":
        recipe = recipe.replace(teacher=str(teacher))
    guidance = guidance_of(arm, chosen, teacher, seed)
    task: TaskFactory = guided(Classify, guidance) if guidance else Classify
    trained = train(chosen.target, chosen.data, recipe, out.parent, preprocess=chosen.preprocess,
                    task=task, device=setting.device, progress=False)  # fmt: skip
    return {
        "top1": trained.metrics["val/top1"] * 100,
        **_accuracies(trained, chosen),
        "cka": _nearness(trained, chosen, guidance or Guidance(teacher)),
    }


def _accuracies(trained: Trained, chosen: Experiment) -> dict[str, float]:
    """On the training images and on those that choose the learning rate."""
    network = trained.model()
    task = Classify(network, chosen.data, chosen.recipe, chosen.preprocess)
    splits = {"train": chosen.data.train, "held": chosen.held}
    return {
        name: evaluate(task, network, eval_batches(task.val_source(split), BATCH))["val/top1"] * 100
        for name, split in splits.items()
    }


@torch.no_grad()
def _nearness(trained: Trained, chosen: Experiment, guidance: Guidance) -> float:
    """Mean CKA of the pairs of layers on a batch that neither has seen."""
    target = trained.model()
    alignment = Alignment(target, guidance.network(chosen.data, chosen.preprocess))
    task = Classify(target, chosen.data, chosen.recipe, chosen.preprocess)
    batch, _ = next(iter(eval_batches(task.val_source(chosen.held), BATCH)))
    with alignment.ours.recording():
        target(batch)
    return 1 - float(alignment.distances(batch).mean())
