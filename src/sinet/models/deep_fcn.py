"""Fully connected networks that do not learn images by themselves: targets of guidance.

"Training the Untrainable: Introducing Inductive Bias via Representational Alignment", arXiv
2410.20035, NeurIPS 2025. Origin: vsubramaniam851/untrainable-networks, no licence stated; nothing
of it is used here, this is written from the description. Every hidden layer is

    drop(relu(norm(W x + b)))

with BatchNorm: one layer of 2048 and 47 of 1024 in the deep network, three of 8192 without dropout
in the wide one. Reported on ImageNet, said to be top-5: deep 1.65 %, guided by a random ResNet-18
13.10 %; wide 34.09 %, guided by a trained one 43.01 %. `sinet.training.guidance` guides.

The networks are built for one image size, and have no maps to give out. Counts at 224 px:
`deep_fcn` 359,788,520 parameters, `wide_fcn` 1,375,609,832.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from torch import nn

from sinet.errors import UsageError
from sinet.models._base import FlatNet, build, default_cfg, refuse_other_size

__all__ = ["DeepFCN"]


class Hidden(nn.Sequential):
    """`relu(norm(W drop(x) + b))`: the dropout of the layer before comes first.

    Shape: (B, in_features) -> (B, out_features)
    """

    def __init__(self, in_features: int, out_features: int, drop_rate: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(in_features, out_features)
        self.norm = nn.BatchNorm1d(out_features)
        self.act = nn.ReLU()


class DeepFCN(FlatNet):
    """Pixels in a row, hidden layers, one linear layer.

    Shape: (B, in_chans, img_size, img_size) -> (B, num_classes)
    """

    def __init__(
        self,
        widths: Sequence[int],
        drop_rate: float = 0.1,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        global_pool: str = "",
    ) -> None:
        """Build the network.

        Args:
            widths: units of each hidden layer.
            drop_rate: dropout behind every hidden layer.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            img_size: height and width, or one number for both, pixels.
            global_pool: accepted because every network of timm takes it; nothing is left to pool.
        """
        super().__init__(num_classes, in_chans, drop_rate, img_size)
        inputs = [in_chans * self.img_size[0] * self.img_size[1], *widths]
        rates = [0.0] + [drop_rate] * len(widths)  # pixels are not dropped
        self.layers = nn.Sequential(*map(Hidden, inputs, widths, rates))
        self.num_features = inputs[-1]
        self.drop = nn.Dropout(drop_rate)
        self.set_classifier()

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: one a layer."""
        return {"stem": r"^layers\.0\.", "blocks": r"^layers\.(\d+)"}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last hidden layer, (B, num_features)."""
        refuse_other_size(x, self.img_size)
        x = x.flatten(1)
        if self.grad_checkpointing and self.training:
            return checkpoint_seq(self.layers, x)  # type: ignore[no-any-return]
        x = self.layers(x)
        return x


def convert(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' `initial_layer`, `intermediate_layers` and `output_layer` -> ours by layers."""
    if "initial_layer.0.weight" not in state_dict:
        return dict(state_dict)
    parts = {"0": "fc", "1": "norm"}
    converted = {}
    for name, value in state_dict.items():
        place, part, leaf = name.rsplit(".", 2)
        if place == "output_layer":
            converted[f"fc.{leaf}"] = value
            continue
        layer = 0 if place == "initial_layer" else int(place.rpartition(".")[2]) + 1
        converted[f"layers.{layer}.{parts[part]}.{leaf}"] = value
    return converted


_VARIANTS: dict[str, dict[str, Any]] = {
    "deep_fcn_test": {"widths": (64,) + (32,) * 7, "num_classes": 10, "img_size": 32},
    "deep_fcn": {"widths": (2048,) + (1024,) * 47},
    "wide_fcn": {"widths": (8192,) * 3, "drop_rate": 0.0},
}


def _cfg(variant: str) -> dict[str, Any]:
    numbers = _VARIANTS[variant]
    side = numbers.get("img_size", 224)
    return default_cfg(
        num_classes=numbers.get("num_classes", 1000),
        input_size=(3, side, side),
        fixed_input_size=True,
        pool_size=None,
        crop_pct=1.0,
        first_conv=(),
        classifier="fc",
    )


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    if kwargs.pop("features_only", False):
        raise UsageError(
            f"{variant} is fully connected and has no maps; use a convolutional network"
        )
    return build(DeepFCN, variant, pretrained, 0, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def deep_fcn_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: eight hidden layers of at most 64."""
    return _create("deep_fcn_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def deep_fcn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """2048 and 47 x 1024; `widths` and `img_size` make any other."""
    return _create("deep_fcn", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def wide_fcn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """3 x 8192, without dropout."""
    return _create("wide_fcn", pretrained, **kwargs)
