"""What a network costs before anything runs: parameters, multiply-adds, activations, bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

_WRITERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Cost:
    """Cost of one image of a stated size.

    Attributes:
        params: trainable and frozen parameters.
        macs: multiply-adds of convolutions, matrix products and attention (FLOPs = 2 x MACs).
        activations: elements that convolutions and linear layers write, the memory-traffic proxy
            that ranks small networks on CPUs better than MACs do.
        bytes: weights and buffers as they are stored in memory.
    """

    params: int
    macs: int
    activations: int
    bytes: int

    def to_dict(self) -> dict[str, int]:
        """Plain numbers, for JSON."""
        return asdict(self)


@contextmanager
def _counting(model: nn.Module) -> Iterator[list[int]]:
    """Sum the elements that convolutions and linear layers write while the block runs."""
    total = [0]

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        total[0] += output.numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, _WRITERS)]
    try:
        yield total
    finally:
        for hook in hooks:
            hook.remove()


def cost(model: nn.Module, size: int | tuple[int, ...], in_chans: int = 3) -> Cost:
    """Count on the meta device: shapes only, so a large network takes a tenth of a second.

    `torch.utils.flop_counter` counts 2 FLOPs a multiply-add, grouped and depthwise convolutions by
    their real weight shape, and scaled dot-product attention as its two matrix products.

    Args:
        model: any network that maps (1, in_chans, H, W) to logits; it is not changed.
        size: input height and width (or three sides), or one number for both, pixels.
        in_chans: input channels.
    """
    sides = (size, size) if isinstance(size, int) else size
    params = sum(p.numel() for p in model.parameters())
    stored = [*model.parameters(), *model.buffers()]
    twin = _on_meta(model)
    image = torch.empty(1, in_chans, *sides, device="meta")
    with torch.no_grad(), _counting(twin) as written, FlopCounterMode(display=False) as flops:
        twin(image)
    return Cost(
        params=params,
        macs=flops.get_total_flops() // 2,
        activations=written[0],
        bytes=sum(t.numel() * t.element_size() for t in stored),
    )


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy of the network without storage, in evaluation mode.

    The copy shares nothing: tensors are replaced by meta tensors before the modules are copied.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo).eval()
