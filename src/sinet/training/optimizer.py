"""What is learned and how fast: frozen layers, parameter groups, the optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sinet.errors import UsageError
from sinet.training.recipe import Recipe


def layer_groups(network: nn.Module, field: str) -> dict[str, int]:
    """The layer group of each parameter by name: 0 = stem, then the stages, last the classifier.

    Args:
        network: one that names its groups in `group_matcher`, as timm's networks do.
        field: of the recipe, for the message.

    Raises:
        UsageError: the network does not name its groups.
    """
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is None:
        raise UsageError(f"{field}: {type(network).__name__} has no layer groups; leave it out")
    found: dict[str, int] = group_parameters(network, matcher(coarse=True), reverse=True)
    return found


def freeze(network: nn.Module, groups: int) -> None:
    """Keep the first `groups` layer groups as they are; -1 = all but the classifier.

    Raises:
        UsageError: the network does not name its groups, or nothing would be left to learn.
    """
    if groups == -1:
        learned = {id(parameter) for parameter in classifier_parameters(network)}
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) in learned)
    elif groups:
        group = layer_groups(network, "freeze")
        if groups > max(group.values()):
            raise UsageError(
                f"freeze: {groups} of {max(group.values()) + 1} layer groups leaves nothing to "
                f"learn; use at most {max(group.values())}, or -1 for all but the classifier"
            )
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(group[name] >= groups)


def classifier_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Weights of the classifier, or of both where a network has one more for its teacher.

    Raises:
        UsageError: the network has no classifier.
    """
    get: Any = getattr(network, "get_classifier", tuple)
    found = get()
    parts = found if isinstance(found, tuple) else (found,)
    parameters = [parameter for part in parts for parameter in part.parameters()]
    if not parameters:
        raise UsageError(
            f"freeze: {type(network).__name__} has no classifier, so that -1 leaves nothing to "
            "learn; give a number of layer groups"
        )
    return parameters


def fixed_norms(network: nn.Module, every: bool) -> list[nn.Module]:
    """BatchNorms whose statistics must not move: `every` one, or those with frozen weights."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    return [m for m in norms if every or not any(p.requires_grad for p in m.parameters())]


def build_optimizer(
    network: nn.Module, recipe: Recipe, beside: Iterable[nn.Parameter] = ()
) -> Optimizer:
    """The recipe's optimizer over the network's trainable parameters.

    Norms, biases and what the network names in `no_weight_decay()` do not decay; with
    `layer_decay` lower layers learn more slowly. Muon takes matrices and convolution kernels, its
    built-in AdamW takes the rest.

    Args:
        network: what learns.
        recipe: how.
        beside: parameters outside the network that learn with it at the full rate.
    """
    options: dict[str, Any] = {}
    if recipe.optimizer == "muon":
        options["nesterov"] = True
    elif recipe.precision != "fp16" and not (recipe.optimizer == "sgd" and recipe.unfreeze):
        # One kernel for all parameters: 8 ms instead of 51 ms a step for a ResNet-18 on two cores.
        # Not with fp16, whose scaler cannot clip the gradients of a fused optimizer; not with SGD
        # where layers join later, since its kernel wants the momentum of all or of none.
        options["fused"] = True
    if recipe.optimizer == "adamw":
        options["betas"] = (recipe.momentum, 0.999)
    optimizer: Optimizer = create_optimizer_v2(
        network,
        "nesterov" if recipe.optimizer == "sgd" else recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
        **options,
    )
    if extra := list(beside):
        optimizer.add_param_group({"params": extra, "weight_decay": 0.0})
    return optimizer


def lr_factor(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """The function from the step (0 ... total - 1) to the share of the peak learning rate."""
    warm = round(recipe.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        done = min((step - warm) / max(total_steps - warm, 1), 1.0)
        if recipe.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if recipe.schedule == "linear":
            return 1 - done
        return 0.1 ** ((done >= 0.5) + (done >= 0.75))

    return factor


def build_schedule(optimizer: Optimizer, recipe: Recipe, total_steps: int) -> LambdaLR:
    """The learning-rate schedule, to be stepped after every optimizer step.

    The rates that layer decay gave to the groups (timm's `lr_scale`) are kept as proportions.
    """
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * group.get("lr_scale", 1.0)
    return LambdaLR(optimizer, lr_factor(recipe, total_steps))


def image_size(recipe: Recipe, size: int, done: float) -> int:
    """Training image size in pixels when the share `done` of the training lies behind.

    With `progressive` below 1 the size grows in up to four steps, each a multiple of 32 (of 8
    where the final size is below 128), and is full for the last quarter of the training.
    """
    start, full = recipe.progressive, 0.75
    if start >= 1 or done >= full:
        return size
    unit = 32 if size >= 128 else 8
    stage = math.floor(done / full * 3)
    share = start + (1 - start) * stage / 3
    return min(size, max(unit, round(size * share / unit) * unit))


def clip_gradients(network: nn.Module, recipe: Recipe) -> None:
    """Scale the gradients down to the recipe's largest norm, if it has one."""
    if recipe.grad_clip:
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.grad_clip)
