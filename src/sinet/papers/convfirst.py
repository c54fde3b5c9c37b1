"""ConvFirst: counts, operations and accuracy; the fused kernels have their own measurements."""

from __future__ import annotations

from collections.abc import Callable

from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from torch import nn

from sinet.measurement.cost import cost
from sinet.models.convfirst import ConvFirst, ConvFirstBlock, MBConvBlock, grouped_convnext
from sinet.papers._arms import Contest, contest
from sinet.papers.base import Card, Finding, Outcome, Setting

CARD = Card(
    slug="convfirst",
    title="On the Efficiency of Convolutional Neural Networks",
    authors="A. Lavin",
    year=2024,
    venue="arXiv",
    url="https://arxiv.org/abs/2404.03617",
    licence="Apache-2.0 (andravin/spio: blocks only); rewritten here",
    idea=(
        "A network is fast if it needs few operations and runs them near the machine's peak. "
        "Layers that save operations (grouped, pointwise) move too many bytes for each; computing "
        "a whole residual block in one kernel repairs that, and is simplest with the spatial "
        "convolution first, while channels are few."
    ),
    equations=(
        "time = operations / (peak x efficiency)",
        "y = x + project(silu(expand(conv(x)))), conv grouped by 8 channels, each with its norm",
    ),
    claims=(
        "with fused kernels about four times as fast as ConvNeXt at equal ImageNet accuracy",
        "fewer operations a position than ConvNeXt",
        "putting the convolution first costs no accuracy",
    ),
    models=(
        "convfirst_n",
        "convfirst_t",
        "convfirst_s",
        "convfirst_b",
        "convfirst_mbconv_n",
        "convfirst_mbconv_t",
        "convfirst_mbconv_s",
        "convfirst_mbconv_b",
    ),
    parity=(
        "blocks and stack of andravin/spio, convnext_tiny with group size 8 of the author's timm "
        "fork, float64, 1e-6; the article's own network is not public"
    ),
)
SEEDS = (0, 1, 2)


def reproduce(setting: Setting) -> list[Finding]:
    """Counts of the author's networks, operations of the blocks, accuracy at equal operations."""
    large = setting.device == "cuda"
    found = contest(
        setting,
        {name: build(large) for name, build in _ARMS.items()},
        epochs=10 if large else 6,
        train_images=50_000 if large else 10_000,
        batch_size=256 if large else 64,
        seeds=SEEDS,
    )
    return [
        _counts(),
        _operations(),
        _accuracy(found, "convnext", "no accuracy lost against ConvNeXt at equal operations"),
        _accuracy(found, "mbconv", "no accuracy lost against the convolution in the middle"),
    ]


def _counts() -> Finding:
    """Parameters and multiply-adds of the author's grouped ConvNeXt-T."""
    published = {3: (28_741_480, 4.505), 5: (29_589_352, 4.779), 7: (30_861_160, 5.191)}
    measured: dict[str, float] = {}
    exact = True
    for kernel, (params, gmacs) in published.items():
        found = cost(grouped_convnext(kernel_sizes=kernel), 224)
        measured |= {f"k{kernel}_params": found.params, f"k{kernel}_macs": found.macs}
        exact &= found.params == params and abs(found.macs / 1e9 - gmacs) < 1e-3
    return Finding(
        "ConvNeXt-T in groups of eight has the author's parameters and multiply-adds",
        "; ".join(f"k={k}: {p:,} / {g} G" for k, (p, g) in published.items()),
        measured,
        "confirmed" if exact else "refuted",
        "equal" if exact else "different",
    )


def _operations() -> Finding:
    """Operations a position of the two blocks that the author's benchmarks compare."""
    size = 56
    blocks = {"convfirst": (ConvFirstBlock(64, 64, expansion=6), 64), "convnext": (_next(96), 96)}
    measured = {
        f"{name}_operations_per_pixel": 2 * cost(block, size, width).macs / size**2
        for name, (block, width) in blocks.items()
    }
    ours, theirs = measured.values()
    return Finding(
        "a ConvFirst block of 64 channels needs fewer operations than a ConvNeXt block of 96",
        "fewer operations than ConvNeXt; 107.5 k against 156.9 k by the blocks' definition",
        measured,
        "confirmed" if ours < theirs else "refuted",
        f"{ours / 1e3:.1f} k against {theirs / 1e3:.1f} k operations a position",
    )


def _next(width: int) -> nn.Module:
    block: nn.Module = ConvNeXtBlock(width, conv_mlp=True)
    return block


def _accuracy(found: Contest, other: str, claim: str) -> Finding:
    """Within a point is no loss at this scale; more than a point below refutes."""
    gain = found.gain("convfirst", other)
    verdict: Outcome = "not decided"
    if len(found.top1[other]) > 1:
        verdict = "confirmed" if gain >= -1 else "refuted"
    measured = {"top1": dict(found.top1), "gain_points": gain, **found.conditions}
    why = f"{gain:+.2f} +- {found.error('convfirst', other):.2f} points against {other}"
    return Finding(
        claim, "equal ImageNet-1K accuracy; no figure could be read", measured, verdict, why
    )


Build = Callable[[int, int], nn.Module]


def _grouped(
    block: type[ConvFirstBlock | MBConvBlock], dims: tuple[int, ...]
) -> Callable[[bool], Build]:
    """ConvFirst or its twin for 32 px: the stem keeps the size."""

    def at_scale(large: bool) -> Build:
        def build(num_classes: int, in_chans: int) -> nn.Module:
            widths = [2 * dim for dim in dims] if large else dims
            network = ConvFirst(
                widths, (1, 1, 3, 1), block, 16, 256, num_classes=num_classes, in_chans=in_chans
            )
            first = network.stem[0].conv
            assert isinstance(first, nn.Conv2d)
            first.stride = (1, 1)
            return network

        return build

    return at_scale


def _convnext(large: bool) -> Build:
    """ConvNeXt with a stem of 2 x 2, of equal operations; its layer scale starts at 1."""

    def build(num_classes: int, in_chans: int) -> nn.Module:
        dims = (72, 144, 288, 576) if large else (36, 72, 144, 288)
        network: nn.Module = ConvNeXt(
            in_chans, num_classes, depths=(1, 1, 3, 1), dims=dims, patch_size=2, ls_init_value=1.0
        )
        return network

    return build


_ARMS: dict[str, Callable[[bool], Build]] = {
    "convfirst": _grouped(ConvFirstBlock, (24, 48, 96, 192)),
    "mbconv": _grouped(MBConvBlock, (16, 40, 72, 144)),
    "convnext": _convnext,
}
