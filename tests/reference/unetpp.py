"""UNet++ as a record describes it: whose code by the parameter names, sizes by their shapes."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sinet.models import load_state
from sinet.models.unetpp import UNetPP, convert

State = dict[str, torch.Tensor]

# a parameter name that only this implementation has -> what it does unlike the others
STYLES: dict[str, dict[str, Any]] = {
    r"conv11_1\.": {"up_first": True},
    r"conv0_0\.conv1\.": {},
    r"conv_0_0\.conv_0\.": {"negative_slope": 0.1},
    r"conv_blocks_context\.": {"negative_slope": 0.01, "pool": False},
}


def style(state: State) -> dict[str, Any]:
    for pattern, options in STYLES.items():
        if any(re.match(pattern, name) for name in state):
            return dict(options)
    raise ValueError(f"names of no UNet++ that is known: {sorted(state)[:3]} ...")


def shapes(state: State) -> dict[str, Any]:
    """The constructor's arguments that the shapes of the parameters (under our names) tell."""
    shape = {name: tuple(value.shape) for name, value in state.items()}
    nodes = [tuple(map(int, n.split(".")[1].split("_"))) for n in shape if n.startswith("nodes.")]
    depth = max(i + j for i, j in nodes)
    first = [shape[f"nodes.{i}_0.0.conv.weight"] for i in range(depth + 1)]
    ups = [shape.get(f"ups.{i}_1.weight") for i in range(depth)]
    heads = [name for name in shape if re.fullmatch(r"heads\.\d\.weight", name)]
    norms = [name for name in shape if ".norm." in name]
    found: dict[str, Any] = {
        "dims": len(first[0]) - 2,
        "widths": [s[0] for s in first],
        "last_width": shape[f"nodes.0_{depth}.1.conv.weight"][0],
        "kernel_sizes": [s[2:] for s in first],
        "decoder_kernel_sizes": [
            shape[f"nodes.{i}_{1 if i < depth else 0}.0.conv.weight"][2:] for i in range(depth + 1)
        ],
        "in_chans": first[0][1],
        "num_classes": shape[heads[0]][0],
        "head_bias": heads[0].replace("weight", "bias") in shape,
        "deep_supervision": len(heads) > 1,
        "up_widths": (),
    }
    if norms:
        batch = any(name.endswith("running_mean") for name in norms)
        found["norm"] = "batch" if batch else "instance"
    if all(ups):
        found["up_widths"] = [s[1] for s in ups if s]
        found["strides"] = [s[2:] for s in ups if s]
        found["up_bias"] = "ups.0_1.bias" in shape
    return found


def fit_kernels(model: nn.Module, state: State) -> None:
    """Where columns of one level differ in kernel size, take each from the record."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            kernel = tuple(state[f"{name}.weight"].shape[2:])
            if kernel != module.kernel_size:
                old = module.weight
                module.weight = nn.Parameter(old.new_empty(*old.shape[:2], *kernel))
                module.kernel_size, module.padding = kernel, tuple(k // 2 for k in kernel)


def slope(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Another slope of the leaky ReLU, where the record names one."""
    text = str(kwargs.get("act", kwargs.get("nonlin", ""))).lower()
    number = re.search(r"\d*\.\d+", text)
    if "leaky" in text and number:
        return {"negative_slope": float(number[0])}
    return {"negative_slope": 0.0} if text.strip("('\")") == "relu" else {}


def build(meta: dict[str, Any]) -> SimpleNamespace:
    kwargs = meta.get("kwargs") or {}
    variant = str(meta.get("variant", "")).lower()
    made: list[tuple[UNetPP, bool]] = []

    def load(state: State) -> None:
        nnunet = any(name.startswith("conv_blocks_context") for name in state)
        ours = convert(dict(state))
        options = {**style(state), **shapes(ours), **slope(kwargs)}
        model = UNetPP(**options).to(getattr(torch, meta["dtype"])).eval()
        fit_kernels(model, ours)
        load_state(model, state, meta["name"])
        made[:] = [(model, nnunet)]

    def run(*inputs: torch.Tensor) -> Any:
        model, finest_first = made[0]
        outputs = model.forward_heads(model.forward_features(inputs[0]))
        if not kwargs.get("deep_supervision", len(outputs) > 1):
            outputs = outputs[-1:]  # MONAI keeps the heads that it does not use
        if finest_first:
            outputs.reverse()
        return torch.stack(outputs, 1) if "stacked" in variant else outputs

    return SimpleNamespace(load=load, run=run)
