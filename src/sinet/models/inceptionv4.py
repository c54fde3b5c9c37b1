"""Inception-ResNet-v1: Inception branches whose result is scaled and added to their input.

"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", arXiv
1602.07261, AAAI 2017. Its other two networks are timm's `inception_v4` and `inception_resnet_v2`.
The authors published no file of v1; origin of this one: timesler/facenet-pytorch (MIT), after
davidsandberg/facenet. One residual block is

    x = relu(x + scale * up(concat(branches(x))))    with a plain linear 1 x 1 convolution `up`

What differs from the article: as in facenet's form a last block of scale 1 without ReLU is added,
and an embedding of 512 with its own norm before the classifier; `final_block=False, embedding=0`
gives the article's head. `inception_resnet_v1` is that of 5/10/5 blocks in both.

Reported top-1 / parameters / multiply-adds: 78.7 % at 299 px (article's form, single crop);
facenet's form with 1000 classes 23,995,624 / 1.42 G at 160 px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import SelectAdaptivePool2d, to_2tuple
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.layers import ConvNorm
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["InceptionResNetV1"]

EPS = 1e-3
"""Of every norm, as in TensorFlow."""


Row = Sequence[tuple[Any, ...]]
"""A branch: (channels, kernel, stride = 1, padded = True) of each of its conv units."""

_STEM: Row = ((32, 3, 2, False), (32, 3, 1, False), (64, 3))
_STEM_AFTER_POOL: Row = ((80, 1), (192, 3, 1, False), (256, 3, 2, False))
_BLOCKS: Sequence[Sequence[Row]] = (
    (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (32, 3), (32, 3))),
    (((128, 1),), ((128, 1), (128, (1, 7)), (128, (7, 1)))),
    (((192, 1),), ((192, 1), (192, (1, 3)), (192, (3, 1)))),
)
_SCALES = (0.17, 0.10, 0.20)
_REDUCTIONS: Sequence[Sequence[Row]] = (
    (((384, 3, 2, False),), ((192, 1), (192, 3), (256, 3, 2, False))),
    (
        ((256, 1), (384, 3, 2, False)),
        ((256, 1), (256, 3, 2, False)),
        ((256, 1), (256, 3), (256, 3, 2, False)),
    ),
)


def conv_unit(
    in_chs: int,
    out_chs: int,
    kernel_size: int | tuple[int, int],
    stride: int = 1,
    padded: bool = True,
) -> nn.Sequential:
    """Convolution, norm, ReLU.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H', W')
    """
    high, wide = to_2tuple(kernel_size)
    padding = (high // 2, wide // 2) if padded else (0, 0)
    pair = ConvNorm(in_chs, out_chs)
    pair.conv = nn.Conv2d(in_chs, out_chs, (high, wide), stride, padding, bias=False)
    nn.init.kaiming_normal_(pair.conv.weight, mode="fan_out", nonlinearity="relu")
    pair.bn = nn.BatchNorm2d(out_chs, eps=EPS)
    return nn.Sequential(pair, nn.ReLU(inplace=True))


def branch(in_chs: int, row: Row, width: float) -> nn.Sequential:
    """Conv units in a row, `width` times as wide as the row says."""
    units = []
    for channels, kernel_size, *rest in row:
        out_chs = round(channels * width)
        units.append(conv_unit(in_chs, out_chs, kernel_size, *rest))
        in_chs = out_chs
    return nn.Sequential(*units)


class InceptionBlock(nn.Module):
    """`relu(x + scale * up(concat(branches(x))))`, the ReLU left out in the last block.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self, dim: int, rows: Sequence[Row], scale: float, width: float, act: bool = True
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branch(dim, row, width) for row in rows)
        self.up = nn.Conv2d(sum(round(row[-1][0] * width) for row in rows), dim, 1)
        self.scale = scale
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the branches found."""
        found = torch.cat([branch(x) for branch in self.branches], 1)
        return self.act(x + self.scale * self.up(found))  # type: ignore[no-any-return]


class Reduction(nn.Module):
    """Branches of stride 2 beside a max pooling, concatenated.

    Shape: (B, dim, H, W) -> (B, dim + branches, (H - 3) // 2 + 1, (W - 3) // 2 + 1)
    """

    def __init__(self, dim: int, rows: Sequence[Row], width: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branch(dim, row, width) for row in rows)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All branches, then the pooled input."""
        return torch.cat([*(branch(x) for branch in self.branches), self.pool(x)], 1)


class EmbeddingHead(nn.Module):
    """Pool, dropout, a normalised linear embedding if wanted, classifier.

    Shape: (B, in_features, H, W) -> (B, num_classes)
    """

    def __init__(
        self, in_features: int, num_classes: int, embedding: int, pool_type: str, drop_rate: float
    ) -> None:
        super().__init__()
        self.num_features = embedding or in_features
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type))
        self.drop = nn.Dropout(drop_rate)
        self.embed = nn.Sequential()
        if embedding:
            self.embed.append(nn.Linear(in_features, embedding, bias=False))
            self.embed.append(nn.BatchNorm1d(embedding, eps=EPS))
        self.reset(num_classes)

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replace the classifier, and the pooling if given; "" leaves the maps as they are."""
        if pool_type is not None:
            flatten = bool(pool_type)
            self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=flatten)
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        like = next(self.parameters(), None)
        if like is not None:
            self.fc.to(like.device, like.dtype)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Classify; `pre_logits` stops at the embedding."""
        x = self.drop(self.global_pool(x))
        if self.global_pool.is_identity():
            return x
        x = self.embed(x)
        return x if pre_logits else self.fc(x)


class InceptionResNetV1(StagedNet):
    """The network: stem, three stages of residual blocks with reductions between, head.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        depths: Sequence[int] = (5, 10, 5),
        final_block: bool = True,
        embedding: int = 512,
        width: float = 1.0,
        drop_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            depths: residual blocks of each stage.
            final_block: a last block of scale 1 without ReLU, as in facenet's form.
            embedding: width of the normalised embedding before the classifier, 0 for none.
            width: factor of all widths; 1/16 is exact.
            drop_rate: dropout after pooling; 0.6 in facenet's training, 0.2 in the article's.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        self._note_level(round(64 * width), 2, "stem.2")
        self._note_level(round(192 * width), 4, "stem.5")
        before = branch(in_chans, _STEM, width)
        after = branch(round(64 * width), _STEM_AFTER_POOL, width)
        self.stem = nn.Sequential(*before, nn.MaxPool2d(3, 2), *after)
        dim, stages = round(256 * width), []
        for i, rows in enumerate(_BLOCKS):
            layers: list[nn.Module] = []
            if i:
                reduction = _REDUCTIONS[i - 1]
                layers.append(Reduction(dim, reduction, width))
                dim += sum(round(row[-1][0] * width) for row in reduction)
            layers += [InceptionBlock(dim, rows, _SCALES[i], width) for _ in range(depths[i])]
            if i == 2 and final_block:
                layers.append(InceptionBlock(dim, rows, 1.0, width, act=False))
            stages.append(nn.Sequential(*layers))
            self._note_level(dim, 8 * 2**i, f"stages.{i}")
        self.stages = nn.Sequential(*stages)
        self.num_features = dim
        self.head = EmbeddingHead(dim, num_classes, embedding, global_pool, drop_rate)
        self.head_hidden_size = self.head.num_features

    def _note_level(self, channels: int, reduction: int, module: str) -> None:
        info = {"num_chs": channels, "reduction": reduction, "module": module}
        self.feature_info.append(info)


_STEM_NAMES = {
    "conv2d_1a": 0, "conv2d_2a": 1, "conv2d_2b": 2, "conv2d_3b": 4, "conv2d_4a": 5, "conv2d_4b": 6,
}  # fmt: skip
_HEAD_NAMES = {"last_linear": "embed.0", "last_bn": "embed.1", "logits": "fc"}


def convert(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of facenet-pytorch -> ours."""
    if "conv2d_1a.conv.weight" not in state_dict:
        return dict(state_dict)
    last = len({name.split(".")[1] for name in state_dict if name.startswith("repeat_3.")})
    places = {"mixed_6a": "stages.1.0", "mixed_7a": "stages.2.0", "block8": f"stages.2.{last + 1}"}
    converted = {}
    for name, value in state_dict.items():
        part, *rest = name.split(".")
        if part in _STEM_NAMES:
            place = f"stem.{_STEM_NAMES[part]}.0"
        elif part in _HEAD_NAMES:
            place = f"head.{_HEAD_NAMES[part]}"
        elif part in places:
            place = places[part]
        else:  # repeat_2.3: the stage's first module is a reduction
            stage, block = int(part.removeprefix("repeat_")) - 1, int(rest.pop(0))
            place = f"stages.{stage}.{block + bool(stage)}"
        converted[f"{place}.{_inside(rest)}"] = value
    return converted


def _inside(names: list[str]) -> str:
    """Names within a block: `branch1.2.conv.weight` -> `branches.1.2.0.conv.weight`."""
    first, *rest = names
    if first == "conv2d":
        return ".".join(["up", *rest])
    if not first.startswith("branch"):
        return ".".join(names)
    unit = rest.pop(0) if rest[0].isdigit() else "0"  # a branch of one unit has no number
    return ".".join(["branches", first.removeprefix("branch"), unit, "0", *rest])


_VARIANTS: dict[str, dict[str, Any]] = {
    "inception_resnet_v1_test": {"depths": (1, 1, 1), "embedding": 32, "width": 1 / 16},
    "inception_resnet_v1": {},
}
default_cfgs = generate_default_cfgs(
    {
        name: default_cfg(
            input_size=(3, 160, 160),
            pool_size=(3, 3),
            mean=IMAGENET_INCEPTION_MEAN,
            std=IMAGENET_INCEPTION_STD,
            crop_pct=0.875,
            min_input_size=(3, 75, 75),
            first_conv="stem.0.0.conv",
            license="mit",
        )
        for name in _VARIANTS
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(InceptionResNetV1, variant, pretrained, 5, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def inception_resnet_v1_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: a sixteenth of the width."""
    return _create("inception_resnet_v1_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def inception_resnet_v1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Facenet's form; `final_block=False, embedding=0` gives the article's."""
    return _create("inception_resnet_v1", pretrained, **kwargs)
