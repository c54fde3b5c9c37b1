"""Any registered backbone as a list of maps or as a vector, from any weights of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import timm
from timm.models import FeatureInfo
from torch import nn

from sinet.errors import UsageError, unknown
from sinet.models.weights import load_weights

STRIDES = (4, 8, 16, 32)


def create_backbone(
    name: str,
    in_chans: int = 3,
    weights: str | None = None,
    strides: Sequence[int] = STRIDES,
    **options: object,
) -> nn.Module:
    """A timm network that gives the maps of these strides, finest first.

    Args:
        name: any name registered with timm.
        in_chans: image channels.
        weights: None = from scratch, else a source of `load_weights`.
        strides: image pixels per position; those that the network does not have are left out.
        **options: of the network.

    Returns:
        The network with its `feature_info`.

    Raises:
        UsageError: unknown name, a network that gives no maps, or weights that cannot be had.
    """
    if not timm.is_model(name):
        raise unknown("backbone", name, timm.list_models())
    try:
        every = timm.create_model(name, features_only=True, in_chans=in_chans, **options)
        info: FeatureInfo = every.feature_info
        # The last of several maps of one stride has seen most.
        last = {r: i for i, r in zip(info.out_indices, info.reduction(), strict=True)}
        chosen = tuple(last[r] for r in strides if r in last)
        body: nn.Module = timm.create_model(
            name, features_only=True, in_chans=in_chans, out_indices=chosen, **options
        )
    except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"{name} cannot serve as a backbone ({str(error)[:200]}); choose a network whose maps "
            "timm can give, such as sinet_small or resnet18"
        ) from error
    if weights is not None:
        copy_weights(load_classifier(name, in_chans, weights, **options), body)
    return body


def create_body(
    name: str, in_chans: int = 3, weights: str | None = None, **options: object
) -> nn.Module:
    """A timm network without its classifier: (B, in_chans, H, W) -> (B, head_hidden_size).

    Args:
        name: any name registered with timm.
        in_chans: image channels.
        weights: None = from scratch, else a source of `load_weights`.
        **options: of the network.

    Raises:
        UsageError: unknown name, or weights that cannot be had.
    """
    if not timm.is_model(name):
        raise unknown("backbone", name, timm.list_models())
    body: nn.Module
    if weights is None:
        body = timm.create_model(name, in_chans=in_chans, **options)
    else:
        body = load_classifier(name, in_chans, weights, **options)
    body.reset_classifier(0)  # type: ignore[operator]
    return body


def load_classifier(name: str, in_chans: int, weights: str, **options: object) -> nn.Module:
    """The whole network with its weights."""
    whole: nn.Module = timm.create_model(name, in_chans=in_chans, **options)
    load_weights(whole, weights)
    return whole


def copy_weights(whole: nn.Module, body: nn.Module) -> None:
    """Give a `features_only` network a classifier's weights, layer by layer.

    timm flattens or prefixes the names of the layers; nothing else about them differs.
    """
    known = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    state = {key: known[key.removeprefix("model.").replace(".", "_")] for key in body.state_dict()}
    body.load_state_dict(state)
