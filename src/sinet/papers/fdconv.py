"""FDConv: is one weight cut into frequencies a better dynamic convolution than several weights?"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm import create_model
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.files import write_json
from sinet.layers import FDConv2d, replace
from sinet.measurement.cost import cost
from sinet.papers.base import Card, Finding, Outcome, Setting

CARD = Card(
    slug="fdconv",
    title="Frequency Dynamic Convolution for Dense Image Prediction",
    authors="Linwei Chen, Lin Gu, Liang Li, Chenggang Yan, Ying Fu",
    year=2025,
    venue="CVPR 2025",
    url="https://arxiv.org/abs/2503.18783",
    licence="MIT (Linwei-Chen/FDConv)",
    idea=(
        "Dynamic convolutions mix several weights for each image, which cost several times the "
        "parameters and turn out alike. Cut the spectrum of one weight into disjoint groups of "
        "frequencies instead and mix those; then adapt single entries, and the image's own bands."
    ),
    equations=(
        "W = irfft2(sum_j a_j group_j of the spectrum) * taps * channels * filters * entries",
        "a, taps, channels, filters = A(heads(s relu(BN(V g))^2 + t)), g = mean of the image",
        "bands(x) = sum_q A(conv_q(x)) (low_q' - low_q) + low_8;  y = conv(bands(x), W)",
    ),
    claims=(
        "ResNet-50 with FDConv has 3.6 M more parameters",
        "a new layer is the plain convolution whose weight it took",
        "FDConv segments better than plain convolutions",
        "FDConv is as good as DY-Conv with a tenth of its extra parameters",
        "its weights share no frequency, those of DY-Conv are alike",
    ),
    models=("fdconv_resnet18", "fdconv_resnet50", "fdconv_resnet101"),
    parity=(
        "outputs of the authors' code in float64 (its hard float32 taken out) on the CPU: three "
        "layers, and the four maps of ResNet-18 at 128 x 160, to 1e-14 of their scale, with the "
        "order of equal frequencies as it was on the recording machine"
    ),
)
SEEDS = (0, 1, 2)

KINDS = 6
GROUPS, WEIGHTS = 16, 4


class DYConv2d(nn.Module):
    """Dynamic convolution: a softmax over several whole weights.

    `y = conv(x, sum_j softmax(V2 relu(V1 mean(x)))_j W_j)`

    Shape: (B, in, H, W) -> (B, out, H, W)
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        hidden = max(conv.in_channels // 4, 4)
        self.weight = nn.Parameter(torch.stack([conv.weight.detach()] * WEIGHTS))
        for weight in self.weight.data[1:]:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.attn = nn.Sequential(
            nn.Linear(conv.in_channels, hidden), nn.ReLU(), nn.Linear(hidden, WEIGHTS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix the weights of each image, convolve."""
        b, _, h, w = x.shape
        factors = self.attn(x.mean((2, 3))).softmax(1)
        weight = torch.einsum("bn,noikl->boikl", factors, self.weight).flatten(0, 1)
        return F.conv2d(x.reshape(1, -1, h, w), weight, padding=1, groups=b).reshape(b, -1, h, w)


class Residual(nn.Module):
    """Two 3x3 convolutions under a shortcut.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve twice, add."""
        x = x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return x.relu()


_OPERATORS: Mapping[str, tuple[Callable[..., nn.Module] | None, dict[str, Any]]] = {
    "plain": (None, {}),
    "dyconv": (DYConv2d, {}),
    "fdconv": (FDConv2d, {"kernel_num": GROUPS}),
    "fdconv_no_bands": (FDConv2d, {"kernel_num": GROUPS, "levels": None}),
    "fdconv_no_entries": (FDConv2d, {"kernel_num": GROUPS, "local": False}),
}


def reproduce(setting: Setting) -> list[Finding]:
    """Exact properties, then segmentation of textures by networks that differ in one operator."""
    big = setting.device == "cuda"
    seeds = SEEDS[:1] if setting.quick else SEEDS
    runs = {name: [_segmented(setting, name, seed, big) for seed in seeds] for name in _OPERATORS}
    miou = {name: [run["miou"] for run in found] for name, found in runs.items()}
    params = {name: found[0]["params"] for name, found in runs.items()}
    likeness = {
        name: statistics.fmean(run["likeness"] for run in runs[name])
        for name in ("dyconv", "fdconv")
    }
    measured = {"miou": miou, "params": params, **_size(setting.quick, big)}
    here = (params["fdconv"] - params["plain"]) / (params["dyconv"] - params["plain"])
    share = _share_of_dyconv()
    measured["extra_parameters_share"] = {"here": here, "resnet50": share}
    text = f"; {share:.2f} of its extra parameters in ResNet-50 ({here:.2f} at this width)"
    return [
        _extra_parameters(),
        _starts_plain(),
        _judged(CARD.claims[2], "39.4 against 37.2 AP on COCO", miou, "plain", measured),
        _judged(CARD.claims[3], "39.4 against 38.3 AP, 3.6 against 75.3 M more", miou, "dyconv",
                measured, share < 0.1, text),
        Finding(
            CARD.claims[4],
            "similarity 0 by construction, of DY-Conv's weights above 0.8",
            {"cosine_of_spectra": likeness},
            "not decided" if setting.quick
            else "confirmed" if likeness["fdconv"] < 0.1 and likeness["dyconv"] > 0.8
            else "refuted",
            f"mean cosine of spectra {likeness['fdconv']:.3f}, DY-Conv {likeness['dyconv']:.3f} "
            "(from different random starts)",
        ),
    ]  # fmt: skip


def _judged(
    claim: str,
    paper: str,
    miou: Mapping[str, list[float]],
    other: str,
    measured: Mapping[str, Any],
    also: bool = True,
    text: str = "",
) -> Finding:
    """Whether FDConv is better by more than a standard error, or at least as good as DY-Conv."""
    ours, theirs = miou["fdconv"], miou[other]
    gain = statistics.fmean(ours) - statistics.fmean(theirs)
    verdict: Outcome = "not decided"
    error = 0.0
    if len(ours) > 1:
        error = math.sqrt(sum(statistics.variance(v) / len(v) for v in (ours, theirs)))
        if gain < -error or not also:
            verdict = "refuted"
        elif gain > error or other == "dyconv":
            verdict = "confirmed"
    why = f"{gain:+.2f} +- {error:.2f} points of mIoU against {other}{text}"
    return Finding(claim, paper, measured, verdict, why)


def _size(quick: bool, big: bool) -> dict[str, int]:
    """Images, sides and epochs; the rule set beforehand asks for 2,000 images and 8 epochs."""
    if quick:
        return {"train_images": 64, "val_images": 32, "side": 32, "epochs": 1, "blocks": 1}
    if big:
        return {"train_images": 8000, "val_images": 1000, "side": 128, "epochs": 20, "blocks": 4}
    return {"train_images": 800, "val_images": 200, "side": 48, "epochs": 6, "blocks": 2}


def textures(count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of four regions, each with one of six gratings or noises, blurred and noisy.

    Shape: () -> (count, 1, side, side), (count, side, side) of kinds
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    y, x = torch.meshgrid(torch.arange(side) * 1.0, torch.arange(side) * 1.0, indexing="ij")
    centres = uniform(count, 4, 2) * side
    squared = (centres[..., :1, None] - y) ** 2 + (centres[..., 1:, None] - x) ** 2
    kind = torch.randint(KINDS, (count, 4), generator=generator)
    labels = kind.gather(1, squared.argmin(1).flatten(1)).reshape(count, side, side)
    layers = []
    for i in range(KINDS):
        frequency = (0.08, 0.2, 0.4)[i // 2]
        phase = 2 * math.pi * uniform(count, 1, 1)
        along = x if i % 2 else y
        wobble = 0.03 * (uniform(count, 1, 1) - 0.5)
        layers.append((2 * math.pi * (frequency + wobble) * along + phase).sin())
    image = torch.stack(layers, 1).gather(1, labels[:, None])
    blur = uniform(count, 1, 1, 1)
    soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), 3, 1)
    image = blur * soft + (1 - blur) * image
    noise = torch.randn(image.shape, generator=generator)
    return image + 0.8 * uniform(count, 1, 1, 1) * noise, labels


def _network(operator: str, dim: int, blocks: int) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(1, dim, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(dim),
        nn.ReLU(),
        *(Residual(dim) for _ in range(blocks)),
        nn.Conv2d(dim, KINDS, 1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    )
    build, options = _OPERATORS[operator]
    if build is DYConv2d:
        replace(net, nn.Conv2d, lambda conv: DYConv2d(conv), where="*.conv?")
    elif build is not None:
        replace(net, nn.Conv2d, build, where="*.conv?", **options)
    return net


def _segmented(setting: Setting, operator: str, seed: int, big: bool) -> dict[str, Any]:
    """Train one network, or read what it reached before."""
    size = _size(setting.quick, big)
    file = setting.work / f"{operator}-{seed}-{'-'.join(map(str, size.values()))}.json"
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    torch.manual_seed(seed)
    net = _network(operator, 32 if big else 24, size["blocks"]).to(setting.device)
    x, labels = (t.to(setting.device) for t in textures(size["train_images"], size["side"], seed))
    steps = size["epochs"] * (len(x) // 16)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(size["epochs"]):
        for index in torch.randperm(len(x), generator=order).split(16):
            loss = F.cross_entropy(net(x[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    result = {
        "miou": _miou(net.eval(), *textures(size["val_images"], size["side"], 10_000), setting),
        "params": sum(p.numel() for p in net.parameters()),
        "likeness": _likeness(net.cpu()),
    }
    setting.work.mkdir(parents=True, exist_ok=True)
    write_json(file, result)
    return result


@torch.inference_mode()
def _miou(net: nn.Module, x: Tensor, labels: Tensor, setting: Setting) -> float:
    found = torch.cat([net(part.to(setting.device)).argmax(1).cpu() for part in x.split(50)])
    pairs = torch.bincount((labels * KINDS + found).flatten(), minlength=KINDS**2)
    table = pairs.reshape(KINDS, KINDS).double()
    union = table.sum(0) + table.sum(1) - table.diag()
    return float(100 * (table.diag() / union.clamp(min=1)).mean())


@torch.inference_mode()
def _likeness(net: nn.Module) -> float:
    """Mean pairwise cosine of the magnitudes of the spectra of a layer's weights."""
    found = []
    for layer in net.modules():
        if isinstance(layer, DYConv2d):
            weights: torch.Tensor = layer.weight
        elif isinstance(layer, FDConv2d):
            weights = layer.synthesize(torch.eye(layer.kernel_num))
        else:
            continue
        n, o, i, k, _ = weights.shape
        matrices = weights.permute(0, 1, 3, 2, 4).reshape(n, o * k, i * k)
        spectra = F.normalize(torch.fft.rfft2(matrices).abs().flatten(1))
        cosines = spectra @ spectra.T
        found.append(float((cosines.sum() - n) / (n * (n - 1))))
    return statistics.fmean(found) if found else 0.0


def _extra_parameters() -> Finding:
    with torch.device("meta"):
        models = {name: create_model(name) for name in ("fdconv_resnet50", "resnet50")}
    params = {name: sum(p.numel() for p in m.parameters()) for name, m in models.items()}
    extra = params["fdconv_resnet50"] - params["resnet50"]
    macs = {f"{name}_macs": cost(model, 224).macs for name, model in models.items()}
    return Finding(
        CARD.claims[0],
        "+3.6 M",
        {**params, "extra": extra, **macs},
        "confirmed" if abs(extra - 3.6e6) < 0.05e6 else "refuted",
        f"{extra:,} more; {macs['fdconv_resnet50_macs'] / 1e9:.2f} against "
        f"{macs['resnet50_macs'] / 1e9:.2f} G multiply-adds at 224 px, transforms not counted",
    )


def _share_of_dyconv() -> float:
    """FDConv's extra parameters in ResNet-50, over those of three more weights a convolution."""
    with torch.device("meta"):
        plain, ours = create_model("resnet50"), create_model("fdconv_resnet50")
    names = [n for n, m in ours.named_modules() if isinstance(m, FDConv2d)]
    weights = sum(plain.get_submodule(n).weight.numel() for n in names)
    extra = sum(p.numel() for p in ours.parameters()) - sum(p.numel() for p in plain.parameters())
    return float(extra / ((WEIGHTS - 1) * weights))


def _starts_plain() -> Finding:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 48, 3, padding=1)
    x = torch.randn(2, 32, 16, 16)
    with torch.inference_mode():
        expected = conv(x)
        given = FDConv2d.from_conv(conv, kernel_num=GROUPS).eval()(x)
    error = float((given - expected).abs().max() / expected.abs().max())
    return Finding(
        CARD.claims[1],
        "initialized so as to start from the pretrained weight",
        {"relative_difference": error},
        "confirmed" if error < 1e-4 else "refuted",
        f"largest difference {error:.1e} of the output's scale",
    )
