"""Inception-v4 and Inception-ResNet: do shortcuts make Inception networks learn faster?"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm import create_model
from timm.optim import RMSpropTF
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.dataset import Split
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.files import write_json
from sinet.measurement.cost import cost
from sinet.models.inceptionv4 import InceptionBlock, InceptionResNetV1, conv_unit
from sinet.papers._arms import Contest, beats
from sinet.papers._claims import images
from sinet.papers.base import Card, Finding, Outcome, Published, Setting

CARD = Card(
    slug="inceptionv4",
    title="Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
    authors="Christian Szegedy, Sergey Ioffe, Vincent Vanhoucke, Alex Alemi",
    year=2017,
    venue="AAAI 2017",
    url="https://arxiv.org/abs/1602.07261",
    licence=(
        "Apache-2.0 (tensorflow/models); Inception-ResNet-v1, of which there is no file, as in "
        "facenet-pytorch (MIT)"
    ),
    idea=(
        "Give Inception's blocks of several branches a shortcut, and scale what the branches "
        "found before it is added: the network learns faster at equal cost, and very wide ones "
        "do not die early in training."
    ),
    equations=(
        "x = relu(x + scale * up(concat(branches(x)))), scale 0.1 to 0.3",
        "up: a 1 x 1 convolution without norm and without ReLU",
    ),
    claims=(
        "Inception-ResNet-v1 costs about as much as Inception-v3, v2 as much as Inception-v4",
        "shortcuts make an Inception network of equal cost learn faster",
        "shortcuts make it no less accurate in the end",
        "blocks of more than a thousand channels die at scale 1, not at scale 0.1",
    ),
    models=("inception_v4", "inception_resnet_v2", "inception_resnet_v1"),
    parity=(
        "outputs of facenet's code (Inception-ResNet-v1, 160 px) and of timm's Inception-v4 "
        "(299 px) in float64, to 1e-14 of their scale"
    ),
    published={
        "inception_v4": Published(None, None, 80.0),
        "inception_resnet_v2": Published(None, None, 80.1),
        "inception_resnet_v1": Published(None, None, 78.7, size=299),
    },
    caveat=(
        "The paper prints errors (20.0, 19.9, 21.3 %; one crop, one network) and no counts. Its "
        "Inception-ResNet-v1 is for 299 px; ours has facenet's form."
    ),
)
SEEDS = (0, 1, 2)
SIZE = 32
LR, DECAY, MOMENTUM, EPS = 0.045, 0.9, 0.9, 1.0  # as published, of RMSProp

# the branches of Inception-ResNet-v2's blocks on maps of 17 x 17
_WIDE = (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1))))


class Plain(nn.Module):
    """An Inception block without its shortcut, at the same cost: `act(up(concat(branches(x))))`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, block: InceptionBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """What the branches found, not added to anything."""
        block = self.block
        found = torch.cat([branch(x) for branch in block.branches], 1)
        return block.act(block.up(found))  # type: ignore[no-any-return]


def reproduce(setting: Setting) -> list[Finding]:
    """Costs, and networks with and without shortcuts learning from the same start."""
    big = setting.device == "cuda"
    seeds = SEEDS[:1] if setting.quick else SEEDS
    runs = {
        kind: [_trained(setting, kind, seed, big) for seed in seeds]
        for kind in ("residual", "plain")
    }
    conditions = {**runs["residual"][0]["conditions"], "seeds": list(seeds)}
    top1 = {kind: [run["top1"] for run in found] for kind, found in runs.items()}
    paper = "slightly better in the end: 19.9 against 20.0 % top-1 error"
    findings = [
        _costs(),
        _faster(runs, conditions),
        beats(CARD.claims[2], paper, Contest(top1, conditions), "residual", ["plain"]),
    ]
    if big:
        findings.append(_dying(setting))
    return findings


def _network(kind: str, big: bool, num_classes: int, in_chans: int) -> nn.Module:
    """Inception-ResNet-v1 of 3 + 4 + 3 blocks for 32 px; "plain" has the same initial weights."""
    net = InceptionResNetV1(
        (3, 4, 3),
        final_block=False,
        embedding=0,
        width=1 / 2 if big else 1 / 8,
        num_classes=num_classes,
        in_chans=in_chans,
    )
    dim = net.feature_info[2]["num_chs"]
    first = conv_unit(in_chans, dim // 2, 3, 1 if big else 2)
    net.stem = nn.Sequential(first, conv_unit(dim // 2, dim, 3))
    if kind == "plain":
        for stage in net.stages:
            assert isinstance(stage, nn.Sequential)
            for i, block in enumerate(stage):
                if isinstance(block, InceptionBlock):
                    stage[i] = Plain(block)
    return net


def _tensors(split: Split, channels: int) -> tuple[Tensor, Tensor]:
    """All images of a split at 32 px on the -1..1 scale, and their labels."""
    half = (0.5,) * channels
    pixels = torch.stack([torch.tensor(split.image(i, channels)) for i in range(len(split))])
    x: Tensor = PreprocessModule(Preprocess(SIZE, channels, half, half))(pixels)
    return x, torch.as_tensor(split.labels)


def _trained(setting: Setting, kind: str, seed: int, big: bool) -> dict[str, Any]:
    """Losses of all steps, and the accuracy; read if they were measured before."""
    file = setting.work / f"{kind}-{seed}.json"
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    data = images(setting.data, setting.quick, 50_000 if big else 10_000)
    epochs = 1 if setting.quick else 8 if big else 3
    batch_size = 128 if big else 64
    torch.manual_seed(seed)
    net = _network(kind, big, data.num_classes, data.channels)
    found = cost(net, SIZE, data.channels)
    net = net.to(setting.device)
    x, labels = (t.to(setting.device) for t in _tensors(data.train, data.channels))
    losses = _fit(net, x, labels, epochs, batch_size, seed)
    x, labels = (t.to(setting.device) for t in _tensors(data.val, data.channels))
    with torch.inference_mode():
        logits = torch.cat([net.eval()(part) for part in torch.split(x, 256)])
    result = {
        "losses": losses,
        "top1": 100 * float((logits.argmax(1) == labels).double().mean()),
        "conditions": {
            "params": found.params,
            "macs": found.macs,
            "data": data.root.name,
            "train_images": len(data.train),
            "val_images": len(data.val),
            "epochs": epochs,
            "batch_size": batch_size,
            "size": SIZE,
        },
    }
    setting.work.mkdir(parents=True, exist_ok=True)
    write_json(file, result)
    return result


def _fit(
    net: nn.Module, x: Tensor, labels: Tensor, epochs: int, batch_size: int, seed: int
) -> list[float]:
    """Train by the published optimizer; the loss of every step, cut short when it is not finite."""
    optimizer = RMSpropTF(net.parameters(), lr=LR, alpha=DECAY, eps=EPS, momentum=MOMENTUM)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.94)
    order = torch.Generator().manual_seed(seed)
    whole = len(x) // batch_size * batch_size
    losses = []
    net.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=order)[:whole].view(-1, batch_size):
            loss = F.cross_entropy(net(x[index]), labels[index])
            losses.append(float(loss.detach()))
            if not torch.isfinite(loss):
                return losses
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return losses


def _smooth(losses: Sequence[float]) -> list[float]:
    """Mean of the last tenth of the training before every step (of fewer at the start)."""
    window = max(1, len(losses) // 10)
    return [statistics.fmean(losses[max(0, i + 1 - window) : i + 1]) for i in range(len(losses))]


def _faster(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], conditions: Mapping[str, Any]
) -> Finding:
    """The rule: a lower loss at half time, and the other's last loss after 80 % of its steps."""
    half: dict[str, list[float]] = {"residual": [], "plain": []}
    shares = []
    for with_shortcut, without in zip(runs["residual"], runs["plain"], strict=True):
        ours, theirs = _smooth(with_shortcut["losses"]), _smooth(without["losses"])
        half["residual"].append(ours[len(theirs) // 2])
        half["plain"].append(theirs[len(theirs) // 2])
        reached = (i + 1 for i, loss in enumerate(ours) if loss <= theirs[-1])
        shares.append(next(reached, 2 * len(theirs)) / len(theirs))
    lower = all(a < b for a, b in zip(half["residual"], half["plain"], strict=True))
    verdict: Outcome = "confirmed" if lower and max(shares) <= 0.8 else "refuted"
    if len(shares) == 1:
        verdict = "not decided"
    shown = ", ".join("never" if share == 2 else f"{share:.0%}" for share in shares)
    return Finding(
        CARD.claims[1],
        "training is accelerated significantly; ImageNet",
        {"loss_at_half_time": half, "share_of_steps": shares, **conditions},
        verdict,
        f"loss at half time {statistics.fmean(half['residual']):.3f} against "
        f"{statistics.fmean(half['plain']):.3f}; the plain network's last loss reached after "
        f"{shown} of its steps",
    )


def _costs() -> Finding:
    article = {"final_block": False, "embedding": 0}
    models: dict[str, dict[str, Any]] = {
        "inception_resnet_v1": article,
        "inception_v3": {},
        "inception_resnet_v2": {},
        "inception_v4": {},
    }
    measured: dict[str, float] = {}
    for name, options in models.items():
        with torch.device("meta"):
            model = create_model(name, **options)
        found = cost(model, 299)
        measured |= {f"{name}_params": found.params, f"{name}_macs": found.macs}
    pairs = {
        "v1 / Inception-v3": ("inception_resnet_v1", "inception_v3"),
        "v2 / Inception-v4": ("inception_resnet_v2", "inception_v4"),
    }
    ratios = {k: measured[f"{a}_macs"] / measured[f"{b}_macs"] for k, (a, b) in pairs.items()}
    near = all(abs(ratio - 1) < 0.2 for ratio in ratios.values())
    return Finding(
        CARD.claims[0],
        "roughly the cost of Inception-v3; the raw cost of Inception-v4",
        {**measured, **{f"{k} (macs)": v for k, v in ratios.items()}},
        "confirmed" if near else "refuted",
        ", ".join(f"{k} {v:.2f}" for k, v in ratios.items())
        + " multiply-adds at 299 px; v2 as its authors' code has it, 10/20/10 blocks",
    )


def _dying(
    setting: Setting, dim: int = 1536, blocks: int = 20, most: int = 25_600, seeds: int = 5
) -> Finding:
    """How many of the seeds end without activations, or without a finite loss."""
    data = images(setting.data, setting.quick, most)
    x, labels = (t.to(setting.device) for t in _tensors(data.train, data.channels))
    dead = {"1.0": 0, "0.1": 0}
    last: dict[str, list[float]] = {"1.0": [], "0.1": []}
    for scale in dead:
        for seed in range(seeds):
            torch.manual_seed(seed)
            stack = (InceptionBlock(dim, _WIDE, float(scale), 1.0) for _ in range(blocks))
            body = nn.Sequential(
                conv_unit(data.channels, dim // 8, 3, 2), conv_unit(dim // 8, dim, 3, 2), *stack
            )
            classifier = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dim, data.num_classes)
            )
            net = nn.Sequential(body, classifier).to(setting.device)
            losses = _fit(net, x, labels, 1, 128, seed)
            with torch.inference_mode():
                active = float(body(x[:256]).abs().mean())
            last[scale].append(losses[-1])
            dead[scale] += not (active > 1e-3 and losses[-1] < float("inf"))
    verdict: Outcome = "confirmed" if dead["1.0"] >= 2 and not dead["0.1"] else "refuted"
    return Finding(
        CARD.claims[3],
        "above a thousand filters networks died early; scaling by 0.1 to 0.3 cured it",
        {"dead_by_scale": dead, "last_loss": {k: [str(v) for v in vs] for k, vs in last.items()}},
        "not decided" if setting.quick else verdict,
        f"{dead['1.0']} of {seeds} died at scale 1, {dead['0.1']} at scale 0.1, at a learning "
        f"rate of {LR} in {len(x) // 128} steps",
    )
