"""SimpleNet: a plain stack of thirteen convolutions that matches much larger networks.

"Lets keep it simple: Using simple architectures to outperform deeper and more complex
architectures", arXiv 1608.06037. Origin: Coderx7/SimpleNet (Caffe) and Coderx7/SimpleNet_Pytorch,
both MIT. No branch, no shortcut, no bottleneck; maps shrink by max pooling and, on large images,
by strides in the first layers.

What differs from the origin: a pooling belongs to the layer behind it, so layers are numbered
without gaps. `simplenet_cifar_460k` has the layer order of the Caffe file (456,446 parameters, as
the name says); `pointwise=(10, 11)` gives that of the PyTorch file (385,790). The Caffe network
leaves out the norm of three layers and pools one layer before its norm; here, as in the PyTorch
code, all layers are alike. `simplenet_cifar_8m` is ours: no list of that name is public, so it is
the 5m list 1.25 times as wide.

Top-1 and parameters as reported, multiply-adds counted here: ImageNet 224 px 61.1 % / 1.51 M / 341
M (small_m1_05) to 74.2 % / 9.51 M / 3.56 G (9m_m2); CIFAR-10 92.0 % / 0.31 M / 56 M and 95.5 % /
5.50 M / 652 M.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sinet.models._base import build, default_cfg

__all__ = ["SimpleNet"]


class BiasedConvNorm(nn.Sequential):
    """`norm(conv(x) + b)`; for inference one plain convolution.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    conv: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, kernel_size // 2)
        self.bn = nn.BatchNorm2d(out_chs, momentum=0.05)
        nn.init.xavier_uniform_(self.conv.weight, nn.init.calculate_gain("relu"))

    def fuse(self) -> nn.Module:
        """The same function as one convolution."""
        bn = self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        conv = copy.deepcopy(self.conv)
        statistics = (bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        return conv


class Layer(nn.Sequential):
    """`drop(relu(norm(conv(pool(x)))))`, the only building block.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H', W'), halved (rounded down) by the pooling if there
    is one, divided by the stride (rounded up).
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int,
        stride: int,
        pool: bool,
        drop_rate: float,
        pool_drop_rate: float,
    ) -> None:
        super().__init__()
        self.pool = nn.Sequential()
        if pool:
            self.pool.append(nn.MaxPool2d(2))
            self.pool.append(nn.Dropout2d(pool_drop_rate))
        self.conv = BiasedConvNorm(in_chs, out_chs, kernel_size, stride)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout2d(drop_rate)


class SimpleNet(nn.Module):
    """The network: layers in a row, global max pooling, one linear layer.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        widths: Sequence[int],
        pools: Sequence[int],
        pointwise: Sequence[int],
        strided: Sequence[int] = (),
        scale: float = 1.0,
        layer_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "max",
    ) -> None:
        """Build the network.

        Args:
            widths: channels of each layer.
            pools: layers that begin with a 2 x 2 max pooling.
            pointwise: layers with a 1 x 1 instead of a 3 x 3 kernel.
            strided: layers of stride 2.
            scale: factor of all widths.
            layer_drop_rate: whole channels dropped after the layers and poolings, except after the
                last layer and before a pooling; 0.2 in the article's CIFAR trainings.
            drop_rate: dropout before the classifier.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []
        last, width, reduction = len(widths) - 1, in_chans, 1
        layers: list[nn.Module] = []
        for i, unscaled in enumerate(widths):
            shrinks = (i in pools, i in strided)
            if i > 0 and any(shrinks):
                self._note_level(i - 1, width, reduction)
            reduction *= 2 ** sum(shrinks)
            out, kernel, stride = (
                round(unscaled * scale),
                1 if i in pointwise else 3,
                shrinks[1] + 1,
            )
            drop = 0.0 if i == last or i + 1 in pools else layer_drop_rate
            layers.append(Layer(width, out, kernel, stride, shrinks[0], drop, layer_drop_rate))
            width = out
        self._note_level(last, width, reduction)
        self.layers = nn.Sequential(*layers)
        self.num_features = self.head_hidden_size = width
        self.head = ClassifierHead(width, num_classes, global_pool, drop_rate)

    def _note_level(self, layer: int, channels: int, reduction: int) -> None:
        info = {"num_chs": channels, "reduction": reduction, "module": f"layers.{layer}"}
        self.feature_info.append(info)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must skip besides norms and biases: none."""
        return set()

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: one a layer."""
        return {"stem": r"^layers\.0\.", "blocks": r"^layers\.(\d+)"}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass to save memory."""
        self.grad_checkpointing = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer, and the pooling if given."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last map of `num_features` channels."""
        if self.grad_checkpointing and self.training:
            return checkpoint_seq(self.layers, x)  # type: ignore[no-any-return]
        x = self.layers(x)
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool and classify; `pre_logits` stops at (B, head_hidden_size)."""
        return self.head(x, pre_logits=pre_logits)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image to logits."""
        return self.forward_head(self.forward_features(x))


def convert(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' flat numbering of modules -> ours by layers."""
    if "features.0.weight" not in state_dict:
        return dict(state_dict)
    numbers = {
        name.split(".")[1]
        for name, value in state_dict.items()
        if name.startswith("features.") and value.ndim == 4
    }
    layer = {int(number): i for i, number in enumerate(sorted(numbers, key=int))}
    converted = {}
    for name, value in state_dict.items():
        part, _, rest = name.partition(".")
        if part == "classifier":
            converted[f"head.fc.{rest}"] = value
            continue
        number, leaf = rest.split(".")
        n = int(number)  # the norm is the module behind its convolution
        place = f"{layer[n]}.conv.conv" if n in layer else f"{layer[n - 1]}.conv.bn"
        converted[f"layers.{place}.{leaf}"] = value
    return converted


_5M = (64, 128, 128, 128, 128, 128, 256, 256, 256, 512, 2048, 256, 256)
_9M = (128, 192, 192, 192, 192, 192, 320, 320, 320, 640, 2560, 320, 320)
_CIFAR: dict[str, Any] = {"pools": (4, 7, 9, 12), "pointwise": (10, 11)}
_IMAGENET: dict[str, Any] = {"pools": (6, 10), "pointwise": (10, 11)}
_M1, _M2 = (0, 1, 2), (0, 1, 3)
_VARIANTS: dict[str, dict[str, Any]] = {
    "simplenet_test": {**_IMAGENET, "widths": _5M, "scale": 0.25, "strided": _M2},
    "simplenet_cifar_310k": {
        **_CIFAR, "widths": (64, 32, 32, 32, 32, 32, 64, 64, 64, 128, 256, 64, 64),
    },
    "simplenet_cifar_460k": {
        **_CIFAR, "widths": (32, 32, 32, 64, 64, 64, 64, 64, 64, 96, 96, 96, 100),
        "pointwise": (12,),
    },
    "simplenet_cifar_5m": {**_CIFAR, "widths": _5M},
    "simplenet_cifar_8m": {**_CIFAR, "widths": _5M, "scale": 1.25},
    "simplenetv1_small_m1_05": {
        **_IMAGENET, "widths": _5M, "scale": 0.5, "strided": _M1,
    },
    "simplenetv1_small_m2_05": {
        **_IMAGENET, "widths": _5M, "scale": 0.5, "strided": _M2,
    },
    "simplenetv1_small_m1_075": {
        **_IMAGENET, "widths": _5M, "scale": 0.75, "strided": _M1,
    },
    "simplenetv1_small_m2_075": {
        **_IMAGENET, "widths": _5M, "scale": 0.75, "strided": _M2,
    },
    "simplenetv1_5m_m1": {**_IMAGENET, "widths": _5M, "strided": _M1},
    "simplenetv1_5m_m2": {**_IMAGENET, "widths": _5M, "strided": _M2},
    "simplenetv1_9m_m1": {**_IMAGENET, "widths": _9M, "strided": _M1},
    "simplenetv1_9m_m2": {**_IMAGENET, "widths": _9M, "strided": _M2},
}  # fmt: skip


def _cfg(variant: str) -> dict[str, Any]:
    usual = {"first_conv": "layers.0.conv.conv", "license": "mit", "crop_pct": 0.875}
    if "cifar" not in variant:
        return default_cfg(**usual, min_input_size=(3, 25, 25))
    small = {"num_classes": 10, "input_size": (3, 32, 32), "pool_size": (2, 2), "crop_pct": 1.0}
    return default_cfg(**{**usual, **small}, min_input_size=(3, 16, 16))


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    numbers = dict(_VARIANTS[variant])
    if "cifar" in variant:
        numbers["num_classes"] = 10
    return build(SimpleNet, variant, pretrained, 5, **{**numbers, **kwargs})


@register_model  # type: ignore[untyped-decorator]
def simplenet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: the 5m network at a quarter of its width."""
    return _create("simplenet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenet_cifar_310k(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The slim network for 32 px."""
    return _create("simplenet_cifar_310k", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenet_cifar_460k(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The slim network for 32 px with 456,446 parameters, its layers as in the Caffe file."""
    return _create("simplenet_cifar_460k", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenet_cifar_5m(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The article's network for 32 px."""
    return _create("simplenet_cifar_5m", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenet_cifar_8m(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The article's network for 32 px, 1.25 times as wide."""
    return _create("simplenet_cifar_8m", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenetv1_small_m1_05(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Half width, fast: maps shrink in the first three layers."""
    return _create("simplenetv1_small_m1_05", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenetv1_small_m2_05(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Half width, one layer more at a quarter of the size."""
    return _create("simplenetv1_small_m2_05", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenetv1_small_m1_075(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Three quarters of the width, fast."""
    return _create("simplenetv1_small_m1_075", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenetv1_small_m2_075(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Three quarters of the width."""
    return _create("simplenetv1_small_m2_075", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenetv1_5m_m1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """5.75 M parameters, fast."""
    return _create("simplenetv1_5m_m1", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenetv1_5m_m2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """5.75 M parameters."""
    return _create("simplenetv1_5m_m2", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenetv1_9m_m1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """9.51 M parameters, fast."""
    return _create("simplenetv1_9m_m1", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def simplenetv1_9m_m2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """9.51 M parameters."""
    return _create("simplenetv1_9m_m2", pretrained, **kwargs)
