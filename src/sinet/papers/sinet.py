"""SiNet: this library's own family, held against what its description promises."""

from __future__ import annotations

from sinet.measurement.bench import bench, bench_networks
from sinet.models.spec import ModelSpec
from sinet.papers._claims import facts, images, not_less_accurate, not_slower, short_recipe
from sinet.papers.base import Card, Finding, Setting

CARD = Card(
    slug="sinet",
    title="SiNet - Architecture, Applications, and Performance Benchmarks",
    authors="not stated",
    year=None,
    venue="web article, its figures called illustrative by itself",
    url="",
    licence="no code published; written here, Apache-2.0",
    idea=(
        "Four stages that each halve the resolution, of blocks that look near (depthwise "
        "convolution), mix channels (pointwise), look far where maps are small (narrow "
        "self-attention in a bottleneck), and widen and narrow again (feed-forward). Everything "
        "is foldable BatchNorm and few, dense operators, because those are what CPUs run fast."
    ),
    equations=(
        "x = x + attn(pw(act(dw(x))))",
        "x = x + project(act(expand(x)))",
        "attn(x) = x + proj(softmax(q^T k / sqrt(16)) v), q, k of 16 and v of 32 channels a head",
    ),
    claims=(
        "tiny, small, base and large cost 0.6-1.2, 1.5-3, 4-8 and 10-30 GFLOPs at 224 px",
        "SiNet-Small is similar to or slightly better than MobileNetV3",
        "SiNet-Base needs fewer parameters and less time on CPUs than ResNet-50",
        "SiNet-Large is competitive with ViT and more efficient",
        "SiNet quantizes well to INT8",
    ),
    models=("sinet_tiny", "sinet_small", "sinet_base", "sinet_large"),
    parity="there is no reference code; shapes, gradients and export are tested here",
)
SEEDS = (0, 1, 2)

_RANGES = {
    "sinet_tiny": (0.6, 1.2),
    "sinet_small": (1.5, 3.0),
    "sinet_base": (4.0, 8.0),
    "sinet_large": (10.0, 30.0),
}
_PAIRS = {
    "sinet_tiny": "mobilenetv3_large_100",
    "sinet_small": "mobilenetv4_conv_medium",
    "sinet_base": "resnet50",
    "sinet_large": "vit_base_patch16_224",
}


def reproduce(setting: Setting) -> list[Finding]:
    """Cost ranges, latency against the peers, INT8 speed-up, accuracy at equal recipe.

    Accuracy of the smallest only; benchmarks/sinet_proxy.py compares all four in an hour or two.
    """
    quick, work, data = setting.quick, setting.work, setting.data
    findings = [_cost_ranges()]
    targets = {"sinet_tiny": 1.0, "sinet_small": 1.0, "sinet_base": 0.6, "sinet_large": 0.5}
    for ours in list(_PAIRS)[:3] if quick else _PAIRS:
        findings.append(
            not_slower(
                f"{ours} takes at most {targets[ours]:g} x the time of {_PAIRS[ours]} at 224 px",
                "lower latency on CPUs than heavier networks of similar accuracy; no figure",
                ours,
                _PAIRS[ours],
                targets[ours],
                quick,
                size=224,
            )
        )
    findings.append(_int8_speed(quick))
    loaded, recipe = images(data, quick, 2_000), short_recipe(quick)
    findings.append(
        not_less_accurate(
            "sinet_tiny is at least as accurate as mobilenetv3_large_100 at equal recipe, 64 px",
            "similar or slightly higher accuracy; ImageNet figures called illustrative",
            ("sinet_tiny", ModelSpec("sinet_tiny", 64)),
            ("mobilenetv3_large_100", ModelSpec("mobilenetv3_large_100", 64)),
            loaded,
            recipe,
            work,
            SEEDS[:1] if quick else SEEDS,
            setting.device,
        )
    )
    return findings


def _cost_ranges() -> Finding:
    rows = bench(list(_RANGES), size=224, seconds=1)
    measured = {k: v for row in rows for k, v in facts(row).items()}
    flops = {n: 2 * r.cost.macs / 1e9 for n, r in zip(_RANGES, rows, strict=True) if r.cost}
    outside = [n for n, (low, high) in _RANGES.items() if not low <= flops[n] <= high]
    listed = ", ".join(f"{n} {g:.2f}" for n, g in flops.items())
    return Finding(
        CARD.claims[0],
        "0.6-1.2, 1.5-3, 4-8, 10-30 GFLOPs (FLOPs = 2 x MACs)",
        measured,
        "refuted" if outside else "confirmed",
        f"{listed} GFLOPs" + (f"; outside: {', '.join(outside)}" if outside else ""),
    )


def _int8_speed(quick: bool) -> Finding:
    name, seconds = "sinet_base", 3 if quick else 20
    network = ModelSpec(name, 224).create(1000, load=False)
    fp32, int8 = bench_networks(
        {name: (network, 224)}, precisions=("fp32", "int8"), seconds=seconds
    )
    gain = fp32.latency.median_ms / int8.latency.median_ms
    return Finding(
        f"{name} runs at least twice as fast in INT8",
        "quantizes well to INT8 with a minor loss; no figure",
        {"fp32_ms": fp32.latency.median_ms, "int8_ms": int8.latency.median_ms, "speedup": gain},
        "confirmed" if gain >= 2 else "refuted",
        f"FP32 {fp32.latency}, INT8 {int8.latency}: {gain:.2f} x",
    )
