"""LSNet: does a wide look that steers a narrow, per-pixel kernel beat fixed kernels?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from timm import create_model
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

from sinet.layers import ConvNorm
from sinet.layers.ls_conv import LSConv, aggregate
from sinet.measurement.cost import cost
from sinet.models.lsnet import Block, LSNet
from sinet.papers._arms import Build, beats, contest
from sinet.papers.base import Card, Finding, Published, Setting

CARD = Card(
    slug="lsnet",
    title="LSNet: See Large, Focus Small",
    authors="Ao Wang, Hui Chen, Zijia Lin, Jungong Han, Guiguang Ding",
    year=2025,
    venue="CVPR 2025",
    url="https://arxiv.org/abs/2503.23135",
    licence="none stated (jameslahm/lsnet); written from the paper's equations, not from its code",
    idea=(
        "Look at a wide surrounding with a cheap large depthwise kernel, and from what is seen "
        "there make a small kernel for each pixel that gathers its neighbours. Eight channels "
        "share a kernel, so that making them stays cheap."
    ),
    equations=(
        "w = GroupNorm(pw(relu(pw(dw7x7(relu(pw(x)))))))",
        "y[c, i, j] = sum_uv x[c, i + u, j + v] w[c mod (C / 8), u, v, i, j]",
        "LSConv(x) = x + BN(y)",
    ),
    claims=(
        "LS convolution beats fixed convolutions, small or large, at equal cost",
        "seeing large helps: 7 x 7 perception is better than 3 x 3",
        "kernels made for each pixel are better than the same kernel everywhere",
        "LSNet-T, S and B cost 0.3, 0.5 and 1.3 GMACs at 224 px (top-1 74.9, 77.8, 80.3)",
    ),
    models=(
        "lsnet_t",
        "lsnet_s",
        "lsnet_b",
        "lsnet_t_distill",
        "lsnet_s_distill",
        "lsnet_b_distill",
    ),
    parity=(
        "outputs of the authors' code in float64: LSNet-T at 224 px and the operator alone, "
        "both to 2e-15 of the output's scale; the fused form gives the same output to 1e-12"
    ),
    published={
        "lsnet_t": Published(11.4, 0.3, 74.9),
        "lsnet_s": Published(16.1, 0.5, 77.8),
        "lsnet_b": Published(23.2, 1.3, 80.3),
        "lsnet_t_distill": Published(None, None, 76.1),
        "lsnet_s_distill": Published(None, None, 79.0),
        "lsnet_b_distill": Published(None, None, 81.6),
    },
    caveat=(
        "The `_distill` networks learned from RegNetY-160 and have a second classifier, of which "
        "the authors give no counts. Ours are counted as built for training."
    ),
)
SEEDS = (0, 1, 2)

_GMACS = {"lsnet_t": 0.3, "lsnet_s": 0.5, "lsnet_b": 1.3}
_DEPTHS = (0, 2, 2, 2)
_MIXED = (1, 2)  # the stages whose odd block is exchanged

# Equal multiply-adds to 0.4 %, the gathering of LS convolution counted as 9 an element: fixed
# kernels are cheaper, so their networks are wider. (32 px, then 64 px on a GPU.)
_WIDTHS = {
    "ls": ((32, 64, 96, 128), (64, 128, 256, 384)),
    "small_kernel": ((32, 72, 96, 136), (72, 144, 256, 400)),
    "large_kernel": ((32, 64, 112, 128), (72, 144, 256, 384)),
}


class FixedKernel(nn.Module):
    """What LS convolution is compared with: `x + BN(dw(x))`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.dw = ConvNorm(dim, dim, kernel_size, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Filter, add."""
        return x + self.dw(x)  # type: ignore[no-any-return]


class OneKernelPerImage(LSConv):
    """LS convolution whose kernels are averaged over the image, so that all pixels use the same.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look far, forget where, gather near, add."""
        weight = self.lkp(x)
        weight = weight.mean((2, 3), keepdim=True).expand_as(weight)
        return x + self.bn(aggregate(x, weight))  # type: ignore[no-any-return]


def reproduce(setting: Setting) -> list[Finding]:
    """The operator against its definition, costs, and networks that differ in one mixer."""
    big = setting.device == "cuda"
    arms = {
        "ls": _network("ls", big),
        "small_kernel": _network("small_kernel", big, partial(FixedKernel, kernel_size=3)),
        "large_kernel": _network("large_kernel", big, partial(FixedKernel, kernel_size=7)),
        "see_small": _network("ls", big, partial(LSConv, kernel_size=3)),
    }
    if not big:
        arms["one_kernel"] = _network("ls", big, OneKernelPerImage)
    # the rule set beforehand asks for 10 epochs of 10,000 images; these fit in ten minutes
    found = contest(
        setting,
        arms,
        size=64 if big else 32,
        epochs=25 if big else 6,
        train_images=50_000 if big else 6_000,
        batch_size=256 if big else 64,
        seeds=SEEDS[:2] if big else SEEDS,
    )
    paper = "better than convolutions and attention in networks of equal cost; ImageNet only"
    findings = [
        _operator_error(),
        _published_cost(setting.quick),
        beats(CARD.claims[0], paper, found, "ls", ["small_kernel", "large_kernel"]),
        beats(CARD.claims[1], "7 x 7 perception is the better one", found, "ls", ["see_small"]),
    ]
    if not big:
        dynamic = "aggregation that adapts to its place is the better one"
        findings.append(beats(CARD.claims[2], dynamic, found, "ls", ["one_kernel"]))
    return findings


def _network(widths: str, big: bool, mixer: Callable[[int], nn.Module] | None = None) -> Build:
    """LSNet with a stem of stride 2, and another mixer in the odd blocks of stages 2 and 3."""
    dims: Sequence[int] = _WIDTHS[widths][big]

    def build(num_classes: int, in_chans: int) -> nn.Module:
        # its own stem has stride 8, so that it is built for images four times as large
        size = 4 * (64 if big else 32)
        net = LSNet(dims, _DEPTHS, img_size=size, num_classes=num_classes, in_chans=in_chans)
        net.stem = nn.Sequential(ConvNorm(in_chans, dims[0], 3, 2))
        for stage in _MIXED:
            block = list(net.stages[stage].children())[-1]
            if mixer is not None and isinstance(block, Block):
                block.mixer = mixer(dims[stage])
        return net

    return build


def _operator_error() -> Finding:
    """Nine shifted multiply-adds against the sum as it is written, and against a convolution."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 48, 9, 13, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 54, 9, 13, generator=generator, dtype=torch.float64)
    patches = F.unfold(x, 3, padding=1).reshape(2, 8, 6, 9, 9, 13)
    sums = (patches * weight.reshape(2, 1, 6, 9, 9, 13)).sum(3).reshape(x.shape)
    fixed = weight[:1, :, :1, :1].expand(2, 54, 9, 13)
    kernel = fixed[0, :, 0, 0].reshape(6, 1, 3, 3).repeat(8, 1, 1, 1)
    errors = {
        "definition_error": float((aggregate(x, weight) - sums).abs().max()),
        "convolution_error": float(
            (aggregate(x, fixed) - F.conv2d(x, kernel, padding=1, groups=48)).abs().max()
        ),
    }
    worst = max(errors.values())
    return Finding(
        "the gathering is its definition, and with the same kernel everywhere a convolution",
        "y = sum over the neighbourhood, kernels shared by eight channels",
        errors,
        "confirmed" if worst < 1e-12 else "refuted",
        f"largest difference {worst:.1e} in float64",
    )


def _gathering(model: nn.Module, size: int) -> int:
    """Multiply-adds that no counter sees: nine for each element that LS convolution writes."""
    seen: list[int] = []

    def note(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        seen.append(9 * output.numel())

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, LSConv)]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return sum(seen)


def _published_cost(quick: bool) -> Finding:
    measured = {}
    for name in list(_GMACS)[: 1 if quick else None]:
        fused = reparameterize_model(create_model(name).eval())
        found = cost(fused, 224)
        measured[f"{name}_params"] = found.params
        measured[f"{name}_macs"] = found.macs + _gathering(fused, 224)
    gmacs = {name: measured[f"{name}_macs"] / 1e9 for name in _GMACS if f"{name}_macs" in measured}
    near = all(abs(gmacs[name] - _GMACS[name]) < 0.06 for name in gmacs)
    return Finding(
        CARD.claims[3] + ", costs only",
        "0.3, 0.5, 1.3 G and 11.4, 16.1, 23.2 M parameters",
        measured,
        "confirmed" if near else "refuted",
        ", ".join(f"{name} {value:.3f} GMACs" for name, value in gmacs.items()) + ", fused",
    )
