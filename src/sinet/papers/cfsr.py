"""CFSR: do large depthwise kernels in the place of attention make small photographs large?"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from sinet.errors import DataError, UsageError
from sinet.measurement.cost import cost
from sinet.models import create_network
from sinet.models.cfsr import CFSR, Block, EdgeConv
from sinet.papers._pixels import Measure, exactly, fit, outdoes, trials
from sinet.papers.base import Card, Finding, Outcome, Setting

CARD = Card(
    slug="cfsr",
    title="Transforming Image Super-Resolution: A ConvFormer-based Efficient Approach",
    authors="Gang Wu, Junjun Jiang, Junpeng Jiang, Xianming Liu",
    year=2024,
    venue="IEEE TIP",
    url="https://arxiv.org/abs/2401.05633",
    licence="none stated (Aitical/CFSR); written from the description, not from its code",
    idea=(
        "In a small transformer for super-resolution, a 9 x 9 depthwise convolution takes the "
        "place of attention, and the feed-forward part keeps edges by fixed edge filters that are "
        "merged into one kernel after training."
    ),
    equations=(
        "mix(x) = W_p (DW9x9(GELU(W_q x)) * W_v x)",
        "ffn(x) = W_2 (h + GELU(DW3x3(h) + sum_k (s_k M_k * h + b_k))), h = GELU(W_1 x)",
        "merged: W + sum_k s_k M_k, b + sum_k b_k",
    ),
    claims=(
        "merged, the networks for x2, x3 and x4 have 291, 298 and 307 thousand parameters",
        "merging changes no output",
        "kernels of 9 x 9 are better than 3 x 3 at equal cost",
        "a depthwise convolution in the feed-forward part is better than none at equal cost",
        "the edge filters make training better; merged, they cost nothing",
    ),
    models=("cfsr_x2", "cfsr_x3", "cfsr_x4"),
    parity=(
        "the training form for x2 against the authors' code in float64, to 1e-6 of the output's "
        "scale, merged to 1e-12"
    ),
)
SEEDS = (0, 1, 2)

SCALE, PATCH, BATCH = 2, 32, 8
_PARAMS = {"cfsr_x2": 291_324, "cfsr_x3": 297_819, "cfsr_x4": 306_912}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}

# Channels that bring multiply-adds within 4 % of the first arm's.
_ARMS = {"cfsr": (16, 9), "kernel_3": (19, 3), "no_edges": (16, 9), "no_depthwise": (17, 9)}


def reproduce(setting: Setting) -> list[Finding]:
    """Sizes, exactness of the merge, and small networks for x2 that differ in one part.

    Learns from two photographs and is judged on a third, or with `--data` on every tenth of a
    folder's; the benchmarks of the paper are not at hand.
    """
    train, test = _photographs(setting.data)
    steps = 40 if setting.quick else 800
    arms: dict[str, Measure] = {
        name: partial(_psnr, partial(_network, name), train, test, steps) for name in _ARMS
    }
    found = trials(setting, arms, SEEDS)["psnr"]
    costs = {name: cost(_network(name).fuse(), PATCH) for name in _ARMS}
    conditions = {
        "macs": {name: c.macs for name, c in costs.items()},
        "params": {name: c.params for name, c in costs.items()},
        "train_photographs": len(train),
        "test_photographs": len(test),
        "steps": steps,
        "batch": [BATCH, PATCH, PATCH],
        "bicubic dB": _luma_psnr(partial(F.interpolate, scale_factor=SCALE, mode="bicubic"), test),
    }
    compare = partial(outdoes, scores=found, ours="cfsr", unit="dB", measured=conditions)
    paper = "Urban100 x2 +0.39 dB on ShuffleMixer with fewer parameters"
    return [
        _sizes(),
        _merge_error(),
        compare(CARD.claims[2], paper, others=["kernel_3"]),
        compare(CARD.claims[3], paper, others=["no_depthwise"]),
        compare(CARD.claims[4], "the filters help to keep edges", others=["no_edges"]),
    ]


def _network(arm: str) -> CFSR:
    """One group of three blocks; branches that count from the start, as the training is short."""
    dim, kernel_size = _ARMS[arm]
    net = CFSR(SCALE, dim, (3,), kernel_size)
    for block in net.modules():
        if not isinstance(block, Block):
            continue
        for scale in (block.ls1, block.ls2):
            nn.init.constant_(scale.gamma, 1e-2)
        assert isinstance(block.ffn.dw, EdgeConv)
        if arm == "no_edges":
            block.ffn.dw = block.ffn.dw.fuse()
        elif arm == "no_depthwise":
            block.ffn.dw = nn.Identity()
    return net


def _photographs(data: Path | None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Photographs to learn from and to be judged on, (3, H, W) from 0 to 1, even sides.

    Raises:
        UsageError: no folder is given and those of the packages are not installed.
        DataError: the folder has too few.
    """
    if data is not None:
        files = sorted(p for p in data.rglob("*") if p.suffix.lower() in _SUFFIXES)[:220]
        read = [x for x in map(_read, files) if min(x.shape[1:]) >= SCALE * PATCH]
        if len(read) < 20:
            raise DataError(
                f"{data} holds {len(read)} photographs of {SCALE * PATCH} pixels a side or more; "
                "give a folder of 20 such"
            )
        return [x for i, x in enumerate(read) if i % 10], read[::10]
    found = []
    for package, folder, names in (
        ("sklearn", "datasets/images", ("china.jpg", "flower.jpg")),
        ("matplotlib", "mpl-data/sample_data", ("grace_hopper.jpg",)),
    ):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise UsageError(
                f"the photographs inside {package} are needed: pip install scikit-learn, or give a "
                "folder of photographs with --data"
            )
        found.append([_read(Path(spec.origin).parent / folder / name) for name in names])
    return found[0], found[1]


def _read(file: Path) -> torch.Tensor:
    """At most 768 pixels a side, as a folder of large ones would not fit into memory."""
    with Image.open(file) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0) / 255
    height, width = (min(n, 768) // SCALE * SCALE for n in pixels.shape[1:])
    return pixels[:, :height, :width].clone()


def _smaller(x: torch.Tensor) -> torch.Tensor:
    """By half, bicubic with antialiasing, in 256 steps as files have."""
    x = F.interpolate(x, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
    return (x.clamp(0, 1) * 255).round() / 255


def _luma_psnr(
    enlarge: Callable[[torch.Tensor], torch.Tensor], photographs: Sequence[torch.Tensor]
) -> float:
    """Mean PSNR of the luma (BT.601) without a border as wide as the scale, in dB."""
    weight = torch.tensor([65.481, 128.553, 24.966])[:, None, None] / 255
    total = 0.0
    with torch.inference_mode():
        for photograph in photographs:
            larger = enlarge(_smaller(photograph[None]))[0].clamp(0, 1)
            error = ((larger - photograph) * weight).sum(0)[SCALE:-SCALE, SCALE:-SCALE]
            total += float(-10 * error.square().mean().log10())
    return total / len(photographs)


def _psnr(
    build: Callable[[], CFSR],
    train: Sequence[torch.Tensor],
    test: Sequence[torch.Tensor],
    steps: int,
    seed: int,
) -> Mapping[str, float]:
    """Train on random patches, flipped and turned, by the mean absolute error."""
    network = build()
    random = np.random.default_rng(seed)
    side = SCALE * PATCH

    def patch() -> torch.Tensor:
        photograph = train[int(random.integers(len(train)))]
        top, left = (int(random.integers(n - side + 1)) for n in photograph.shape[1:])
        found = photograph[:, top : top + side, left : left + side]
        found = found.rot90(int(random.integers(4)), (1, 2))
        return found.flip(2) if random.random() < 0.5 else found

    def loss_of(step: int) -> torch.Tensor:
        wanted = torch.stack([patch() for _ in range(BATCH)])
        return F.l1_loss(network(_smaller(wanted)), wanted)

    fit(network, loss_of, steps, 2e-3)
    return {"psnr": _luma_psnr(network.fuse(), test)}


def _sizes() -> Finding:
    found = {}
    for name in _PARAMS:
        net = create_network(name)
        assert isinstance(net, CFSR)
        found[name] = sum(p.numel() for p in net.fuse().parameters())
    return exactly(CARD.claims[0], "291 K (x2) and 307 K (x4)", _PARAMS, found)


def _merge_error() -> Finding:
    """Against the four convolutions of the definition, borders and all."""
    torch.manual_seed(0)
    layer = EdgeConv(16).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 16, 9, 13, dtype=torch.float64)
    with torch.inference_mode():
        want = F.conv2d(x, layer.weight, layer.bias, padding=1, groups=16)
        for k, mask in enumerate(layer.masks):
            kernel = layer.edge_scale[:, k, None, None, None] * mask
            want = want + F.conv2d(x, kernel, layer.edge_bias[:, k], padding=1, groups=16)
        error = float((layer.fuse()(x) - want).abs().max() / want.abs().max())
    verdict: Outcome = "confirmed" if error <= 1e-12 else "refuted"
    why = f"largest relative difference {error:.1e} in float64"
    return Finding(CARD.claims[1], "exact by construction", {"error": error}, verdict, why)
