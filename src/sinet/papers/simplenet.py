"""SimpleNet: is a plain stack of convolutions as good as residual networks of its size?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import timm
from timm.layers import ClassifierHead
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import BasicBlock
from torch import nn

from sinet.measurement.bench import bench_networks
from sinet.papers._arms import Contest, contest
from sinet.papers._claims import facts, not_slower
from sinet.papers.base import Card, Finding, Outcome, Published, Setting

CARD = Card(
    slug="simplenet",
    title=(
        "Lets keep it simple: Using simple architectures to outperform deeper and more complex "
        "architectures"
    ),
    authors="S. H. Hasanpour, M. Rouhani, M. Fayyaz, M. Sabokrou",
    year=2016,
    venue="arXiv",
    url="https://arxiv.org/abs/1608.06037",
    licence="MIT (Coderx7/SimpleNet_Pytorch); rewritten here",
    idea=(
        "Thirteen convolutions in a row, no branch, shortcut or bottleneck: 3 x 3 kernels almost "
        "everywhere, channels that grow slowly, max pooling, and one global max pooling before "
        "the classifier."
    ),
    equations=("x = drop(relu(bn(conv(pool(x)))))", "logits = W max(x) + b"),
    claims=(
        "a plain 13-layer network matches or beats residual networks of its size",
        "on ImageNet 5m is more accurate than ResNet18 with half its parameters, and faster",
    ),
    models=(
        "simplenetv1_small_m1_05",
        "simplenetv1_small_m2_05",
        "simplenetv1_small_m1_075",
        "simplenetv1_small_m2_075",
        "simplenetv1_5m_m1",
        "simplenetv1_5m_m2",
        "simplenetv1_9m_m1",
        "simplenetv1_9m_m2",
        "simplenet_cifar_310k",
        "simplenet_cifar_460k",
        "simplenet_cifar_5m",
        "simplenet_cifar_8m",
    ),
    parity="PyTorch code of the authors, CIFAR 310k and ImageNet small_m1_05, float64, 1e-6",
    published={
        "simplenetv1_small_m1_05": Published(1.51, None, 61.122),
        "simplenetv1_small_m2_05": Published(1.51, None, 61.67),
        "simplenetv1_small_m1_075": Published(3.29, None, 67.784),
        "simplenetv1_small_m2_075": Published(3.29, None, 68.506),
        "simplenetv1_5m_m1": Published(5.75, None, 71.548),
        "simplenetv1_5m_m2": Published(5.75, None, 72.03),
        "simplenetv1_9m_m1": Published(9.51, None, 73.792),
        "simplenetv1_9m_m2": Published(9.51, None, 74.23),
        "simplenet_cifar_310k": Published(0.31, None, 91.98),
        "simplenet_cifar_460k": Published(0.46, None, 92.33),
        "simplenet_cifar_5m": Published(5.48, None, 95.51),
    },
    caveat=(
        "The top-1 of the `_cifar` networks is on CIFAR-10; the published weights of 95.51 % have "
        "a pooling more than the list of `simplenet_cifar_5m`."
    ),
)
SEEDS = (0, 1, 2)


def reproduce(setting: Setting) -> list[Finding]:
    """Accuracy at equal parameters against two residual designs; cost; latency."""
    large = setting.device == "cuda"
    arms = {name: build(large) for name, build in _ARMS.items()}
    found = contest(
        setting,
        arms,
        epochs=30 if large else 4,
        train_images=50_000 if large else 5_000,
        batch_size=512 if large else 64,
        seeds=SEEDS,
    )
    return [
        _holds_its_own(found),
        _speed(setting.quick, found, large),
        not_slower(
            "simplenetv1_5m_m1 takes no more time than resnet18 (224 px)",
            "2105 against 1750 images a second (GTX 1080, batch 256)",
            "simplenetv1_5m_m1",
            "resnet18",
            1.0,
            setting.quick,
            size=224,
        ),
    ]


def _holds_its_own(found: Contest) -> Finding:
    """The card's rule: within half a point of the best confirms, a point below refutes."""
    best = max(("resnet", "mobilenet"), key=found.mean)
    gain = found.gain("simplenet", best)
    verdict: Outcome = "not decided"
    if len(found.top1[best]) > 1 and not -1 <= gain < -0.5:
        verdict = "confirmed" if gain >= -0.5 else "refuted"
    return Finding(
        "a plain stack is within 0.5 points of residual networks of equal parameters, or better",
        "CIFAR-10 95.51 %; better than ResNets of 2 to 25 times the parameters",
        {"top1": dict(found.top1), "gain_points": gain, **found.conditions},
        verdict,
        f"{gain:+.2f} +- {found.error('simplenet', best):.2f} points against {best}",
    )


def _speed(quick: bool, found: Contest, large: bool) -> Finding:
    """Which of the arms is the fastest for one image on this machine's CPU."""
    networks = {name: (build(large)(10, 1), 32) for name, build in _ARMS.items()}
    rows = bench_networks(networks, in_chans=1, seconds=2 if quick else 10)
    times = {row.name: row.latency.median_ms for row in rows}
    fastest = min(times, key=lambda name: times[name])
    return Finding(
        "at equal parameters the plain stack is the fastest for one image",
        "higher throughput than residual networks of its accuracy",
        {key: value for row in rows for key, value in facts(row).items()},
        "confirmed" if fastest == "simplenet" else "refuted",
        ", ".join(f"{name} {ms:.2f} ms" for name, ms in times.items()),
    )


def _simplenet(large: bool) -> Callable[[int, int], nn.Module]:
    """simplenet_cifar_310k, or at half its width."""

    def build(num_classes: int, in_chans: int) -> nn.Module:
        scale = 1.0 if large else 0.5
        network: nn.Module = timm.create_model(
            "simplenet_cifar_310k", scale=scale, num_classes=num_classes, in_chans=in_chans
        )
        return network

    return build


def _stem(in_chans: int, width: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


def _resnet(large: bool) -> Callable[[int, int], nn.Module]:
    """ResNet-20 of the CIFAR kind: three stages of three blocks, of equal parameters."""
    widths: Sequence[int] = (17, 34, 68) if large else (9, 17, 34)

    def build(num_classes: int, in_chans: int) -> nn.Module:
        layers, width = _stem(in_chans, widths[0]), widths[0]
        for out in widths:
            for _ in range(3):
                stride = 1 if out == width else 2
                project = nn.Conv2d(width, out, 1, stride, bias=False)
                shortcut = nn.Sequential(project, nn.BatchNorm2d(out)) if stride == 2 else None
                layers.append(BasicBlock(width, out, stride, shortcut))
                width = out
        return nn.Sequential(*layers, ClassifierHead(width, num_classes))

    return build


def _mobilenet(large: bool) -> Callable[[int, int], nn.Module]:
    """MobileNetV2's blocks (expansion 6) in three stages, of equal parameters."""
    widths: Sequence[int] = (28, 48, 80) if large else (12, 24, 36)

    def build(num_classes: int, in_chans: int) -> nn.Module:
        layers, width = _stem(in_chans, widths[0]), widths[0]
        for stage, out in enumerate(widths):
            for i in range(3):
                stride = 2 if stage and not i else 1
                layers.append(InvertedResidual(width, out, 3, stride, exp_ratio=6.0))
                width = out
        return nn.Sequential(*layers, ClassifierHead(width, num_classes))

    return build


_ARMS = {"simplenet": _simplenet, "resnet": _resnet, "mobilenet": _mobilenet}
