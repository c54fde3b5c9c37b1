"""IBN-Net: instance normalization beside batch normalization in the shallow layers only.

Paper: "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net", arXiv
1807.09441 (ECCV 2018). The authors' code is XingangPan/IBN-Net (MIT). Here timm's ResNet and
DenseNet are built and norms put in place of some of theirs.

    IBN-a ResNet     y = [IN(x1), BN(x2)] (halves) after conv1 of every block of stages 1-3
    IBN-a DenseNet   y = [BN(x1), IN(x2)] (60 : 40) before conv1 of layers 1, 4, 7, ... of
                     dense blocks 1-3
    IBN-b ResNet     IN for the stem's BN, and x = relu(IN(x + f(x))) in the last block of
                     stages 1 and 2

Differences: a global pool for the 7x7 one, so that any image size works.

Reported ImageNet top-1 error, plain net -> IBN-a (the same params and MACs): ResNet-18 30.24 ->
29.17, ResNet-34 26.70 -> 25.78, ResNet-50 24.27 -> 22.54, ResNet-101 22.48 -> 21.39, ResNeXt-101
21.31 -> 20.88, SE-ResNet-101 21.68 -> 21.25, DenseNet-121 24.96 -> 24.47, DenseNet-169 24.02 ->
23.25. IBN-b is for appearances that were not trained on.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, Literal

import torch
from timm.layers import SqueezeExcite
from timm.models import generate_default_cfgs, register_model
from timm.models.densenet import DenseBlock, DenseNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from sinet.layers.ibn import IBN
from sinet.models._base import build, default_cfg

__all__ = ["IBNDenseNet", "IBNResNet"]

Kind = Literal["a", "b"]
BATCH_SHARE = 0.6
"""Of the channels of a DenseNet's IBN; they come first there."""


class IBNResNet(ResNet):  # type: ignore[misc]
    """timm's ResNet (also ResNeXt and SE-ResNet) with the norms of IBN-a or IBN-b.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(self, block: type[nn.Module], layers: tuple[int, ...], ibn: Kind, **kwargs: Any):
        """Build the network.

        Args:
            block: timm's BasicBlock or Bottleneck.
            layers: blocks of each stage.
            ibn: "a" for the own domain, "b" for others.
            kwargs: of timm's ResNet.
        """
        super().__init__(block, layers, **{"zero_init_last": False, **kwargs})
        if ibn == "a":
            for stage in (self.layer1, self.layer2, self.layer3):
                for member in stage:
                    member.bn1 = IBN(member.bn1.num_features)
            return
        self.bn1: nn.Module = nn.InstanceNorm2d(self.conv1.out_channels, affine=True)
        last = "act3" if issubclass(block, Bottleneck) else "act2"
        for stage in (self.layer1, self.layer2):
            member = stage[-1]
            width = getattr(member, "bn3", member.bn2).num_features
            norm = nn.InstanceNorm2d(width, affine=True)
            act = OrderedDict(norm=norm, act=getattr(member, last))
            setattr(member, last, nn.Sequential(act))

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must skip besides norms and biases: none."""
        return set()


class IBNDenseNet(DenseNet):  # type: ignore[misc]
    """timm's DenseNet with the norms of IBN-a.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(self, drop_rate: float = 0.0, **kwargs: Any):
        """Build the network; the arguments are those of timm's DenseNet."""
        super().__init__(drop_rate=drop_rate, **kwargs)
        self.drop_rate = drop_rate
        blocks = [part for part in self.features if isinstance(part, DenseBlock)]
        for block in blocks[:3]:
            for layer in list(block.values())[::3]:
                norm = IBN(layer.norm1.num_features, BATCH_SHARE, instance_first=False)
                layer.norm1 = nn.Sequential(OrderedDict(norm=norm, act=layer.norm1.act))

    @property
    def grad_checkpointing(self) -> bool:
        """Whether the layers recompute their activations in the backward pass."""
        return any(getattr(m, "grad_checkpointing", False) for m in self.features.modules())

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must skip besides norms and biases: none."""
        return set()


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming -> ours; ours are left as they are."""
    converted = {}
    for key, value in state_dict.items():
        owner, _, leaf = key.rpartition(".")
        block, _, name = owner.rpartition(".")
        dense = "denselayer" in block
        if name in ("IN", "BN") and block.endswith("bn1"):
            key = f"{block}.{'instance' if name == 'IN' else 'batch'}.{leaf}"
        elif name in ("IN", "BN") and dense:
            key = f"{block}.norm.{'instance' if name == 'IN' else 'batch'}.{leaf}"
        elif name == "IN":
            act = "act3" if f"{block}.conv3.weight" in state_dict else "act2"
            key = f"{block}.{act}.norm.{leaf}"
        elif block.endswith("se.fc"):
            key = f"{block}{'1' if name == '0' else '2'}.{leaf}"
            value = value[:, :, None, None]
        converted[key] = value
    return converted


def _resnet(block: type[nn.Module], layers: tuple[int, ...], **options: Any) -> dict[str, Any]:
    return {"block": block, "layers": layers, **options}


_SE = {"attn_layer": partial(SqueezeExcite, rd_ratio=1 / 16, bias=False)}
_RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "ibn_test": _resnet(BasicBlock, (1, 1, 1, 1), channels=(16, 24, 32, 48), ibn="a"),
    **{f"{n}_ibn_a": _resnet(*shape, ibn="a") for n, shape in _RESNETS.items()},
    **{f"{n}_ibn_b": _resnet(*shape, ibn="b") for n, shape in _RESNETS.items()},
    "resnext101_ibn_a": _resnet(
        Bottleneck, (3, 4, 23, 3), ibn="a", cardinality=32, base_width=4
    ),
    "se_resnet101_ibn_a": _resnet(Bottleneck, (3, 4, 23, 3), ibn="a", block_args=_SE),
    "densenet121_ibn_a": {"growth_rate": 32, "block_config": (6, 12, 24, 16)},
    "densenet169_ibn_a": {"growth_rate": 32, "block_config": (6, 12, 32, 32)},
}  # fmt: skip


def _cfg(name: str) -> dict[str, Any]:
    first, last = ("features.conv0", "classifier") if "densenet" in name else ("conv1", "fc")
    least = 29 if "densenet" in name else 9 if name.endswith("_b") else 17  # of InstanceNorm
    return default_cfg(
        first_conv=first,
        classifier=last,
        min_input_size=(3, least, least),
        crop_pct=0.875,
        license="mit",
    )


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    dense = "densenet" in variant
    cls = IBNDenseNet if dense else IBNResNet
    levels = {"out_indices": tuple(range(5)), "flatten_sequential": dense}
    options = {**_VARIANTS[variant], **kwargs}
    return build(cls, variant, pretrained, feature_cfg=levels, **options)


@register_model  # type: ignore[untyped-decorator]
def ibn_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.1 M parameters."""
    return _create("ibn_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet18_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18-IBN-a."""
    return _create("resnet18_ibn_a", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet34_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34-IBN-a."""
    return _create("resnet34_ibn_a", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet50_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50-IBN-a."""
    return _create("resnet50_ibn_a", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet101_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101-IBN-a."""
    return _create("resnet101_ibn_a", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet152_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-152-IBN-a."""
    return _create("resnet152_ibn_a", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet18_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18-IBN-b."""
    return _create("resnet18_ibn_b", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet34_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34-IBN-b."""
    return _create("resnet34_ibn_b", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet50_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50-IBN-b."""
    return _create("resnet50_ibn_b", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet101_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101-IBN-b."""
    return _create("resnet101_ibn_b", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnet152_ibn_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-152-IBN-b."""
    return _create("resnet152_ibn_b", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def resnext101_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNeXt-101 (32x4d)-IBN-a."""
    return _create("resnext101_ibn_a", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def se_resnet101_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SE-ResNet-101-IBN-a."""
    return _create("se_resnet101_ibn_a", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def densenet121_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DenseNet-121-IBN-a."""
    return _create("densenet121_ibn_a", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def densenet169_ibn_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DenseNet-169-IBN-a."""
    return _create("densenet169_ibn_a", pretrained, **kwargs)
