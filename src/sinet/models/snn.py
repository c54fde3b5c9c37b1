"""Self-normalizing networks: SELU keeps mean and variance through any depth, without norm layers.

"Self-Normalizing Neural Networks", arXiv 1706.02515, NeurIPS 2017. Origin: bioinf-jku/SNNs,
GPL-3.0; nothing of it is used here, this is written from the equations. With standardised inputs,
weights of variance 1 / fan_in and

    selu(x) = l x for x > 0, l a (e^x - 1) otherwise;  a = 1.67326324, l = 1.05070099

the map (mean, variance) of one layer's activations to the next one's has the attracting fixed point
(0, 1). Alpha dropout sets dropped units to -l a and rescales so that (0, 1) stays.

What differs from the origin: all biases start at zero (its CIFAR tutorial starts them at 0.1). The
networks are fully connected, so they are built for one image size, and have no maps to give out.
Counts: `snn_mlp` 535,818 parameters, 535,040 multiply-adds; `snn_cnn` 6,609,674 and 37.4 M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from torch import nn

from sinet.errors import UsageError, unknown
from sinet.models._base import FlatNet, build, default_cfg, refuse_other_size

__all__ = ["SNN", "lecun_normal_", "snn_widths"]


def lecun_normal_(module: nn.Module) -> None:
    """Weights N(0, 1 / fan_in) and biases zero, in place: what SELU's fixed point asks for."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        # not the gain that PyTorch lists for SELU (3/4): it shrinks the variance layer by layer
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def snn_widths(depth: int, width: int, form: str = "rect", outputs: int = 10) -> tuple[int, ...]:
    """Hidden widths of the article's two shapes of network.

    Args:
        depth: hidden layers.
        width: of the first.
        form: "rect" keeps it, "conic" shrinks it geometrically towards the outputs.
        outputs: classes, which a conic network leads to.

    Raises:
        UsageError: another form.
    """
    if form not in ("rect", "conic"):
        raise unknown("form", form, ("rect", "conic"))
    ratio = 1.0 if form == "rect" else (outputs / width) ** (1 / depth)
    return tuple(round(width * ratio**i) for i in range(depth))


class Hidden(nn.Sequential):
    """`selu(W drop(x) + b)`.

    Shape: (B, in_features) -> (B, out_features)
    """

    def __init__(self, in_features: int, out_features: int, drop_rate: float) -> None:
        super().__init__()
        self.drop = nn.AlphaDropout(drop_rate)
        self.fc = nn.Linear(in_features, out_features)
        self.act = nn.SELU()


class SNN(FlatNet):
    """Convolutions if any, then fully connected layers, all with SELU.

    Shape: (B, in_chans, img_size, img_size) -> (B, num_classes)
    """

    def __init__(
        self,
        widths: Sequence[int],
        convs: Sequence[tuple[int, int, int]] = (),
        drop_rate: float = 0.0,
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: int | tuple[int, int] = 28,
        global_pool: str = "",
    ) -> None:
        """Build the network.

        Args:
            widths: units of each hidden layer; see `snn_widths`.
            convs: (channels, kernel, pool) of convolutions without padding before them; the
                pooling, 1 for none, comes before the SELU.
            drop_rate: alpha dropout behind every hidden layer.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            img_size: height and width, or one number for both, pixels.
            global_pool: accepted because every network of timm takes it; nothing is left to pool.
        """
        super().__init__(num_classes, in_chans, drop_rate, img_size)
        height, width = self.img_size
        channels, layers = in_chans, []
        for out, kernel, pool in convs:
            layers += [nn.Conv2d(channels, out, kernel), nn.MaxPool2d(pool), nn.SELU()]
            height, width, channels = (
                (height - kernel + 1) // pool,
                (width - kernel + 1) // pool,
                out,
            )
        self.convs = nn.Sequential(*layers)
        inputs = [channels * height * width, *widths]
        rates = [0.0] + [drop_rate] * len(widths)
        self.layers = nn.Sequential(*map(Hidden, inputs, widths, rates))
        self.num_features = inputs[-1]
        self.drop = nn.AlphaDropout(drop_rate)
        self.set_classifier()
        self.apply(self.start)

    def start(self, module: nn.Module) -> None:
        """LeCun-normal weights, biases zero."""
        lecun_normal_(module)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: one a layer."""
        return {"stem": r"^convs", "blocks": r"^layers\.(\d+)"}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last hidden layer, (B, num_features)."""
        refuse_other_size(x, self.img_size)
        x = self.convs(x).flatten(1)
        if self.grad_checkpointing and self.training:
            return checkpoint_seq(self.layers, x)  # type: ignore[no-any-return]
        x = self.layers(x)
        return x


def convert(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tutorials' numbers of modules (`net.4`) -> ours by layers; their order says which."""
    if "layers.0.fc.weight" in state_dict:
        return dict(state_dict)
    weights = {name.rpartition(".")[0]: v for name, v in state_dict.items() if v.ndim > 1}
    convs = [module for module, weight in weights.items() if weight.ndim == 4]
    linear = [module for module, weight in weights.items() if weight.ndim == 2]
    places = {module: f"convs.{3 * i}" for i, module in enumerate(convs)}
    places |= {module: f"layers.{i}.fc" for i, module in enumerate(linear)}
    places[linear[-1]] = "fc"
    return {
        f"{places[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
        for name, value in state_dict.items()
    }


_VARIANTS: dict[str, dict[str, Any]] = {
    "snn_test": {"widths": snn_widths(8, 32)},
    "snn_mlp": {"widths": (512, 256), "drop_rate": 0.05},
    "snn_cnn": {
        "widths": (2048, 1024), "convs": ((128, 5, 2), (128, 3, 2), (128, 3, 1)),
        "in_chans": 3, "img_size": 32,
    },
}  # fmt: skip


def _cfg(variant: str) -> dict[str, Any]:
    numbers = _VARIANTS[variant]
    side = numbers.get("img_size", 28)
    return default_cfg(
        num_classes=10,
        input_size=(numbers.get("in_chans", 1), side, side),
        fixed_input_size=True,
        pool_size=None,
        crop_pct=1.0,
        first_conv="convs.0" if "convs" in numbers else (),
        classifier="fc",
    )


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    if kwargs.pop("features_only", False):
        raise UsageError(
            f"{variant} is fully connected and has no maps; use a convolutional network"
        )
    return build(SNN, variant, pretrained, 0, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def snn_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: eight hidden layers of 32."""
    return _create("snn_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def snn_mlp(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """784-512-256-10 for images of 28 x 28; `widths=snn_widths(...)` makes any other."""
    return _create("snn_mlp", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def snn_cnn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Three convolutions and three linear layers for images of 32 x 32."""
    return _create("snn_cnn", pretrained, **kwargs)
