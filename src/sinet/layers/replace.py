"""Put an operator in place of the convolutions of any network."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sinet.errors import UsageError

Build = Callable[..., nn.Module]
Where = Callable[[str, nn.Module], bool] | str


def replace(
    model: nn.Module,
    target: type[nn.Module],
    operator: Build,
    where: Where | None = None,
    *,
    size: tuple[int, int] | None = None,
    **options: Any,
) -> list[str]:
    """Put an operator in place of modules of a network, which is changed in place.

    Weights are carried over by the operator's `from_conv`. Everything is built and its output
    shapes are compared before anything is replaced: after an error the network is as it was.

        replace(model, nn.Conv2d, layers.FDConv2d, where="layer3.*.conv2", kernel_num=16)
        replace(model, nn.Conv2d, functools.partial(layers.FDConv2d, kernel_num=16), where=...)
        replace(model, nn.Conv2d, layers.FDConv2d(8, 8, 3, kernel_num=16), where=...)
        replace(model, nn.Conv2d, lambda conv: nn.Conv2d(conv.in_channels, conv.out_channels, 1))

    Args:
        model: any network.
        target: what is replaced, `nn.Conv2d` as a rule; its subclasses too, unless they compute
            something else (such as padding of their own).
        operator: a class with `from_conv(conv, **options)`, such a class with options given by
            `functools.partial`, a module of such a class as a pattern (its `options` count, its
            channels and weights do not), or any function that makes a module of the one replaced.
        where: which of them, all if None: a pattern of names (`*` and `?` as for files, `*` also
            across dots), or a function of name and module.
        size: height and width of the map on which output shapes are compared, if the operator
            needs a certain one.
        options: for the operator.

    Returns:
        The names of the modules that were replaced, in the network's order.

    Raises:
        UsageError: nothing matches, the operator has no `from_conv`, cannot stand in for one of
            the modules, or gives another shape.
    """
    build, label = _builder(operator, options)
    found = _matching(model, target, where)
    made: dict[int, nn.Module] = {}
    for name, module in found.items():
        if id(module) not in made:  # a module in two places stays one
            made[id(module)] = _stand_in(name, module, target, build, label, size)
    for name, module in found.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, made[id(module)])
    return list(found)


def _builder(operator: Build, options: dict[str, Any]) -> tuple[Build, str]:
    """The function that makes a stand-in of a module, and what to call the operator."""
    if isinstance(operator, nn.Module):
        kind, own = type(operator), getattr(operator, "options", None)
        if own is None:
            raise UsageError(
                f"the operator is a finished {kind.__name__}, with channels of its own; give the "
                f"class and its options: replace(model, target, {kind.__name__}, where=..., ...)"
            )
        operator, options = kind, {**own, **options}
    cls = operator
    if isinstance(operator, functools.partial) and isinstance(operator.func, type):
        if operator.args:
            raise UsageError("give the operator's options by name, its channels are the module's")
        cls, options = operator.func, {**operator.keywords, **options}
    label = getattr(cls, "__name__", type(cls).__name__)
    if isinstance(cls, type) and issubclass(cls, nn.Module):
        from_conv = getattr(cls, "from_conv", None)
        if from_conv is None:
            raise UsageError(
                f"{label} has no from_conv, so what to build is not known; give a function of the "
                f"module replaced: replace(model, target, lambda conv: {label}(...))"
            )
        return functools.partial(from_conv, **options), label
    return functools.partial(operator, **options) if options else operator, label


def _matching(
    model: nn.Module, target: type[nn.Module], where: Where | None
) -> dict[str, nn.Module]:
    """Name -> module of all that are asked for, outermost only."""
    candidates = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, target)
    }
    if "" in candidates:
        raise UsageError(
            f"the model is itself a {type(model).__name__} and cannot be replaced in place; "
            "replace it where it is used"
        )
    found: dict[str, nn.Module] = {}
    for name, module in candidates.items():
        wanted = where is None or (
            fnmatch.fnmatchcase(name, where) if isinstance(where, str) else where(name, module)
        )
        if wanted and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    if not found:
        names = list(candidates)
        some = ", ".join([*names[:3], "..."][: len(names)] if len(names) > 3 else names)
        raise UsageError(
            f"nothing to replace: {len(names)} {target.__name__} in {type(model).__name__}"
            + (f" ({some}), none of which matches `where`={where!r}" if names else "")
        )
    return found


def _stand_in(
    name: str,
    module: nn.Module,
    target: type[nn.Module],
    build: Build,
    label: str,
    size: tuple[int, int] | None,
) -> nn.Module:
    """The module that takes the place of `name`, on its device, in its type and mode."""
    if target is nn.Conv2d and type(module).forward is not nn.Conv2d.forward:
        raise UsageError(
            f"{name} is a {type(module).__name__}, which does more than nn.Conv2d; leave it out by "
            f"`where`, or replace {type(module).__name__} by a function of your own"
        )
    try:
        new = build(module)
    except (UsageError, TypeError) as error:  # a TypeError: options that it does not have
        raise UsageError(f"{name}: {error}") from error
    if (weight := next(module.parameters(), None)) is not None:
        new.to(weight.device, weight.dtype)
    new.train(module.training)
    if isinstance(module, nn.Conv2d):
        _compare_shapes(name, module, new, label, size)
    return new


def _compare_shapes(
    name: str, conv: nn.Conv2d, new: nn.Module, label: str, size: tuple[int, int] | None
) -> None:
    """Run both on a blank map.

    Raises:
        UsageError: they differ in shape, or the new one cannot be run.
    """
    reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    height, width = size or (-(-max(16, reach[0]) // 8) * 8, -(-max(24, reach[1]) // 8) * 8)
    x = conv.weight.new_zeros(1, conv.in_channels, height, width)
    training = new.training
    new.eval()
    try:
        with torch.no_grad():
            expected, given = conv(x).shape, new(x).shape
    except Exception as error:
        raise UsageError(
            f"{name}: {label} cannot be run on a {height} x {width} map of {conv.in_channels} "
            f"channels ({error}); give the `size` it needs, or leave this one out by `where`"
        ) from error
    finally:
        new.train(training)
    if expected != given:
        raise UsageError(
            f"{name}: {label} makes {tuple(given)} of {tuple(x.shape)}, the convolution makes "
            f"{tuple(expected)}; leave this one out by `where` or change the operator's options"
        )
