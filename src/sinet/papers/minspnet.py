"""MINSPNET: the beginner's guide, its advice measured claim by claim."""

from __future__ import annotations

from torch import nn

from sinet.measurement.bench import bench_networks
from sinet.models.spec import ModelSpec
from sinet.papers._claims import (
    facts,
    images,
    int8_pays,
    not_less_accurate,
    not_slower,
    short_recipe,
)
from sinet.papers.base import Card, Finding, Setting

CARD = Card(
    slug="minspnet",
    title="MINSPNET: A Beginner's Guide to the Architecture and Applications",
    authors="not stated",
    year=None,
    venue="web article",
    url="",
    licence="no code published; written here, Apache-2.0",
    idea=(
        "Modular blocks of a depthwise and a pointwise convolution with squeeze-excite, maps of "
        "several depths concatenated, a small fully connected head: parameters and multiply-adds "
        "are spent where channels mix, and cheap attention makes up for what that loses."
    ),
    equations=(
        "A: y = proj(x) + SE(act(pw(dw3x3(x))))",
        "B: y = proj(x) + act(pw(dw5x5, stride 2 (x)))",
        "head: softmax(W2 relu(W1 mean(x)))",
    ),
    claims=(
        "depthwise separable convolutions greatly reduce parameters and FLOPs",
        "SE or attention: small extra cost for notable gains",
        "a good accuracy/efficiency trade-off on images",
        "8-bit quantization suits CPU and edge inference",
    ),
    models=("minspnet_minimal", "minspnet_small", "minspnet_medium", "minspnet_large"),
    parity="there is no reference code; minspnet_minimal is tested layer by layer",
)
SEEDS = (0, 1, 2)


def reproduce(setting: Setting) -> list[Finding]:
    """Depthwise against dense, SE against none, the trade-off against ResNet-10, INT8."""
    quick, work, data = setting.quick, setting.work, setting.data
    loaded, recipe = images(data, quick, 2_000), short_recipe(quick)
    seeds = SEEDS[:1] if quick else SEEDS
    ours = ("minspnet_small", ModelSpec("minspnet_small", 64))
    without = ("minspnet_small_no_se", ModelSpec("minspnet_small", 64, {"attn_layer": ""}))
    plain = ("resnet10t", ModelSpec("resnet10t", 64))
    return [
        _depthwise_against_dense(quick),
        _se_cost(quick),
        not_less_accurate(
            "minspnet_small with SE is at least as accurate as without",
            CARD.claims[1],
            ours,
            without,
            loaded,
            recipe,
            work,
            seeds,
            setting.device,
        ),
        not_slower(
            "minspnet_small takes no more time than plain convolutions (resnet10t, 64 px)",
            CARD.claims[2],
            "minspnet_small",
            "resnet10t",
            1.0,
            quick,
            size=64,
        ),
        not_less_accurate(
            "minspnet_small is at least as accurate as plain convolutions (resnet10t)",
            CARD.claims[2],
            ours,
            plain,
            loaded,
            recipe,
            work,
            seeds,
            setting.device,
        ),
        int8_pays(
            "minspnet_small in INT8 loses at most 1 point and is faster",
            CARD.claims[3],
            work / "minspnet_small-64-0",
            loaded,
            1.0,
            work / "int8",
        ),
    ]


def dense_twin(network: nn.Module) -> nn.Module:
    """The network with every depthwise convolution made dense, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and child.groups == child.in_channels > 1:
                dense = nn.Conv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    child.stride,  # type: ignore[arg-type]
                    child.padding,  # type: ignore[arg-type]
                    bias=child.bias is not None,
                )
                setattr(module, name, dense)
    return network


def _depthwise_against_dense(quick: bool) -> Finding:
    size = 224
    networks = {
        "depthwise": (ModelSpec("minspnet_minimal", size).create(1000), size),
        "dense": (dense_twin(ModelSpec("minspnet_minimal", size).create(1000)), size),
    }
    depthwise, dense = bench_networks(networks, seconds=3 if quick else 15)
    if depthwise.cost is None or dense.cost is None:
        raise ValueError("networks have a cost")
    macs = dense.cost.macs / depthwise.cost.macs
    params = dense.cost.params / depthwise.cost.params
    speed = dense.latency.median_ms / depthwise.latency.median_ms
    return Finding(
        "minspnet_minimal has at most half the parameters and MACs of its dense twin",
        CARD.claims[0],
        {
            **facts(depthwise),
            **facts(dense),
            "params_ratio": params,
            "macs_ratio": macs,
            "latency_ratio": speed,
        },
        "confirmed" if min(macs, params) >= 2 else "refuted",
        f"dense needs {params:.1f} x parameters and {macs:.1f} x MACs, but {speed:.1f} x the time",
    )


def _se_cost(quick: bool) -> Finding:
    size = 224
    without = ModelSpec("minspnet_small", size, {"attn_layer": ""})
    networks = {
        "with_se": (ModelSpec("minspnet_small", size).create(1000), size),
        "without": (without.create(1000), size),
    }
    with_se, plain = bench_networks(networks, seconds=3 if quick else 15)
    ratio = with_se.latency.median_ms / plain.latency.median_ms
    return Finding(
        "squeeze-excite costs minspnet_small at most 15% more time",
        CARD.claims[1],
        {**facts(with_se), **facts(plain), "ratio": ratio},
        "confirmed" if ratio <= 1.15 else "refuted",
        f"with SE {with_se.latency}, without {plain.latency}: {ratio:.2f} x",
    )
