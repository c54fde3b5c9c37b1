"""The networks that are tried: ours, and those of timm's that win on CPUs, at sizes that suit."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from sinet.data.dataset import ImageDataset
from sinet.errors import UsageError, unknown
from sinet.models._networks import check_task, list_networks, registered
from sinet.models.spec import ModelSpec
from sinet.models.weights import find_pretrained
from sinet.tasks.base import ImageTask

SMALL_IMAGE = 64
"""Up to this many pixels images are taken at their own size by our networks, with stem stride 1."""

_OURS = ("sinet_small", "sinet_tiny", "sinet_base", "minspnet_small", "minspnet_minimal",
         "minspnet_medium", "sinet_large")  # fmt: skip

# timm's, the most promising on CPUs first: plain and re-parameterisable convolutions, then
# mobile networks, then those with attention (docs/decisions.md).
_PEERS = (
    "tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2",
    "mobilenetv4_conv_small", "hgnetv2_b0", "mobilenetv1_100", "resnet18",
    "mobilenetv4_conv_medium", "mobilenetv3_large_100", "resnet10t", "mobilenetv1_125",
    "hgnetv2_b1", "repvit_m0_9",
    "levit_conv_192", "lcnet_100", "starnet_s1", "mobilenetv3_small_100", "regnetx_004",
    "hgnetv2_b2", "convnext_atto", "regnety_004", "resnet34", "levit_conv_256", "repvit_m1_1",
    "vit_tiny_patch16_224", "mobilenetv4_conv_small_050", "regnety_008", "convnext_femto",
    "starnet_s2", "ghostnetv2_100", "resnet50",
)  # fmt: skip

_SQUARE_ONLY = ("levit", "vit")
"""Families whose position tables want 224 px; the others run at any multiple of 32."""


def default_specs(
    image_size: int, *, folder: Path | None = None, hub: bool = False
) -> list[ModelSpec]:
    """At least 25 networks for images of this size, the most promising first.

    Networks whose pretrained weights can be had come first: on small data nothing beats them. Small
    images (at most 64 px) go into our networks as they are and are enlarged for pretrained peers,
    which were trained on photos.

    Args:
        image_size: typical shorter side of the images, pixels.
        folder: where pretrained weights may lie as `NAME.safetensors`.
        hub: take weights from the hub for networks that have none here.
    """
    weights = {name: _weights(name, folder, hub) for name in (*_OURS, *_PEERS)}
    small = image_size <= SMALL_IMAGE
    sizes = (128, 96, 160, 64) if small else _photo_sizes(image_size)
    pretrained = [n for n in (*_OURS, *_PEERS) if weights[n]]
    others = [n for n in _PEERS if not weights[n]]
    best = [ModelSpec(n, _fit(n, sizes[0]), weights=weights[n]) for n in pretrained]
    ours = list(_ours(image_size, sizes))
    peers = [ModelSpec(n, _fit(n, 64 if small else sizes[0])) for n in others]
    shrinkable = best[:6] if small else [*best[:6], *ours[:2]]
    smaller = [
        ModelSpec(s.name, _fit(s.name, size), weights=s.weights)
        for size in sizes[1:]
        for s in shrinkable
    ]
    specs = [*best, *ours, *smaller[: len(best)], *peers, *smaller]
    return list(dict.fromkeys(specs))


def matching_specs(
    patterns: Sequence[str], image_size: int, *, folder: Path | None = None, hub: bool = False
) -> list[ModelSpec]:
    """The usual networks of these names; of other registered names, one spec each.

    Args:
        patterns: names, wildcards allowed.
        image_size: as for `default_specs`.
        folder: likewise.
        hub: likewise.

    Raises:
        UsageError: a pattern that no registered name matches.
    """
    usual = default_specs(image_size, folder=folder, hub=hub)
    size = 64 if image_size <= SMALL_IMAGE else _photo_sizes(image_size)[0]
    specs: list[ModelSpec] = []
    for pattern in patterns:
        found = [s for s in usual if fnmatch.fnmatch(s.name, pattern)]
        names = [] if found else timm.list_models(pattern)
        if not found and not names:
            raise unknown("model", pattern, [*timm.list_models(), *list_networks()])
        specs += found
        specs += [ModelSpec(n, _fit(n, size), weights=_weights(n, folder, hub)) for n in names]
    return specs


def task_specs(
    task: type[ImageTask],
    data: ImageDataset,
    patterns: Sequence[str],
    image_size: int,
    *,
    options: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    hub: bool = False,
) -> list[ModelSpec]:
    """What a task tries on these data, or what of it is asked for.

    Args:
        task: its training side, which turns backbones into its networks.
        data: the data set.
        patterns: names of networks, of heads or of backbones, wildcards allowed; none = the usual.
        image_size: as for `default_specs`.
        options: of the networks, such as `{"neck": "dense_fpn"}`; `backbone`, wildcards allowed,
            takes the place of the usual ones.
        folder: as for `default_specs`.
        hub: likewise.

    Raises:
        UsageError: a pattern that no name matches, or a network that is not for this task or takes
            no backbone.
    """
    given = dict(options or {})
    if wanted := given.pop("backbone", None):
        bodies = matching_specs([str(wanted)], image_size, folder=folder, hub=hub)
    else:
        bodies = default_specs(image_size, folder=folder, hub=hub)
    usual = task.specs(bodies, data)
    if not usual:
        raise _one_size(str(wanted), task)
    specs = [] if patterns else usual
    for pattern in patterns:
        found = [s for s in usual if fnmatch.fnmatch(s.name, pattern)]
        found = found or _networks(task, pattern, usual)
        if not found:
            named = matching_specs([pattern], image_size, folder=folder, hub=hub)
            known = {s.name for s in named}
            found = [s for s in task.specs(named, data) if s.backbone in known]
        if not found and not usual[0].on_backbone:
            check_task(pattern, task.name)
        if not found:
            raise _one_size(pattern, task)
        specs += found
    if wanted:
        _check_bodies(specs, {s.name for s in bodies}, str(wanted))
    return list(dict.fromkeys(replace(s, kwargs={**s.kwargs, **given}) for s in specs))


def _networks(task: type[ImageTask], pattern: str, usual: Sequence[ModelSpec]) -> list[ModelSpec]:
    """Registered networks of these names: heads on what the task's own head is tried on.

    Raises:
        UsageError: there are some, but all for other tasks.
    """
    names = list_networks(pattern)
    suited = [] if task.name == "classify" else list_networks(pattern, task.name)
    if names and not suited and not timm.list_models(pattern):
        check_task(names[0], task.name)
    specs: list[ModelSpec] = []
    for name in suited:
        if registered(name).takes_backbone:
            specs += [replace(s, name=name) for s in usual if s.on_backbone]
        else:
            plain = ModelSpec(name, usual[0].size)
            specs.append(replace(plain, size=plain.side(plain.size, 1)))
    return specs


def _one_size(pattern: str, task: type[ImageTask]) -> UsageError:
    return UsageError(
        f"{pattern} cannot be the backbone of a network for {task.name}: it takes images of one "
        "size only; choose one that takes any, such as sinet_small or resnet18"
    )


def _check_bodies(specs: Sequence[ModelSpec], bodies: set[str], wanted: str) -> None:
    for spec in specs:
        if not spec.on_backbone:
            raise UsageError(
                f"model.backbone={wanted} given, but {spec.name} is built on no backbone; leave it "
                "out, or name a head with --model"
            )
        if spec.backbone not in bodies:
            raise UsageError(
                f"model.backbone={wanted} and the backbone {spec.backbone} of --model exclude each "
                "other; leave one of them out"
            )


def _photo_sizes(image_size: int) -> tuple[int, ...]:
    """Photos are seen at 224 px and below; small ones at their own size, rounded up to 32."""
    largest = min(224, -(-image_size // 32) * 32)
    return tuple(s for s in (largest, 160, 192, 128) if s <= largest)


def _ours(image_size: int, sizes: tuple[int, ...]) -> Iterator[ModelSpec]:
    """Ours on photos; on small images at their own size, the smallest also with a finer start."""
    for name in _OURS:
        if image_size > SMALL_IMAGE:
            yield ModelSpec(name, sizes[0])
        elif not name.startswith("sinet"):
            yield ModelSpec(name, 64)
        else:
            size = max(image_size, 24)
            yield ModelSpec(name, size, {"stem_stride": 1})
            if size <= 40:
                yield ModelSpec(name, size, {"stem_stride": 1, "strides": [1, 2, 2, 2]})


def _fit(name: str, size: int) -> int:
    return 224 if name.startswith(_SQUARE_ONLY) else size


def _weights(name: str, folder: Path | None, hub: bool) -> str | None:
    """Where pretrained weights can be had: here, or from the hub if that is allowed."""
    if (local := find_pretrained(name, folder)) or not hub:
        return local
    config = timm.get_pretrained_cfg(name)
    return f"hub:{config.hf_hub_id}" if config is not None and config.hf_hub_id else None


def hub_reachable(timeout: float = 2.0) -> bool:
    """Whether the hub answers within `timeout` seconds; False when it is switched off."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        return bool(get_session().head(constants.ENDPOINT, timeout=timeout).status_code < 500)
    except Exception:
        return False
