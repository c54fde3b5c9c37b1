"""NASNet-A: two cells, found by a search on small images, stacked into networks of any size.

"Learning Transferable Architectures for Scalable Image Recognition", arXiv 1707.07012, CVPR 2018.
Origin: tensorflow/models, research/slim/nets/nasnet (Apache-2.0); names of weights as in
Cadene/pretrained-models.pytorch (BSD-3), whose networks equal TensorFlow's. A block of a cell
combines two operations on the cell's inputs, the outputs of the last two cells, or on earlier
blocks:

    b_k = op_1(h_i) + op_2(h_j)  (or their concatenation),   output = concat of the `ends`

Cells of any blocks can be built from a `CellSpec`; `sinet.search` looks for them.

What differs from the origin: no auxiliary classifier, which only training used, and 1000 classes
without the background. `nasnet_large` is the network of timm's `nasnetalarge`, but its average
pools leave padded zeros out of the mean, as TensorFlow's do and timm's of stride 2 do not.

Reported top-1 / parameters / multiply-adds: nasnet_mobile 74.0 % / 5.3 M / 564 M at 224 px,
nasnet_large 82.7 % / 88.9 M / 23.8 G at 331 px, nasnet_cifar (6@768) CIFAR-10 97.35 % / 3.3 M.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import ClassifierHead, Conv2dSame, DropPath, pad_same
from timm.models import generate_default_cfgs, register_model
from timm.models._manipulate import checkpoint
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sinet.layers import ConvNorm
from sinet.models._base import StagedNet, build, default_cfg
from sinet.models._nasnet_cell import NORMAL_A, REDUCTION_A, CellSpec

__all__ = ["Cell", "CellSpec", "NASNet"]


def pair(in_chs: int, out_chs: int, eps: float) -> ConvNorm:
    """Pointwise convolution and norm."""
    return ConvNorm(in_chs, out_chs, norm_layer=partial(nn.BatchNorm2d, eps=eps))


class ReluConvNorm(nn.Sequential):
    """`norm(conv1x1(relu(x)))`, every `stride`-th pixel of it.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, in_chs: int, out_chs: int, eps: float, stride: int = 1) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.pair = pair(in_chs, out_chs, eps)
        self.pair.conv.stride = (stride, stride)


class SpatialConv(nn.Sequential):
    """`norm(conv(relu(x)))` with TensorFlow's SAME padding.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride)), in the directions
        in which `stride` steps.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        eps: float,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.pair = pair(in_chs, out_chs, eps)
        kind: type[nn.Conv2d] = Conv2dSame if max(stride) > 1 else nn.Conv2d
        high, wide = (0 if max(stride) > 1 else dilation * (k // 2) for k in kernel_size)
        self.pair.conv = kind(
            in_chs, out_chs, kernel_size, stride, (high, wide), dilation=dilation, bias=False
        )
        fan_out = out_chs * kernel_size[0] * kernel_size[1]
        nn.init.normal_(self.pair.conv.weight, 0.0, (2.0 / fan_out) ** 0.5)


def crossed(in_chs: int, out_chs: int, k: int, stride: int, eps: float) -> nn.Sequential:
    """1 x k, then k x 1, each striding in the direction in which it is long."""
    across = SpatialConv(in_chs, out_chs, (1, k), (1, stride), eps)
    return nn.Sequential(across, SpatialConv(out_chs, out_chs, (k, 1), (stride, 1), eps))


class Separable(nn.Module):
    """Twice ReLU, depthwise k x k, pointwise, norm; the stride in the first.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int, stride: int, eps: float
    ) -> None:
        super().__init__()
        first: type[nn.Conv2d] = Conv2dSame if stride > 1 else nn.Conv2d
        padding = 0 if stride > 1 else kernel_size // 2
        self.dw_1 = first(in_chs, in_chs, kernel_size, stride, padding, groups=in_chs, bias=False)
        self.pw_1 = pair(in_chs, out_chs, eps)
        self.dw_2 = nn.Conv2d(
            out_chs, out_chs, kernel_size, 1, kernel_size // 2, groups=out_chs, bias=False
        )
        self.pw_2 = pair(out_chs, out_chs, eps)
        for conv in (self.dw_1, self.dw_2):
            nn.init.normal_(conv.weight, 0.0, 2**0.5 / kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both halves."""
        x = self.pw_1(self.dw_1(x.relu()))
        return self.pw_2(self.dw_2(x.relu()))  # type: ignore[no-any-return]


class Pool(nn.Module):
    """Average or max pooling with TensorFlow's SAME padding, which is not averaged in.

    Shape: (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, kind: str, stride: int) -> None:
        super().__init__()
        self.average, self.side, self.stride = kind.startswith("avg"), int(kind[3:]), stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool; an average is divided by the share of its window inside the map."""
        side, stride = [self.side] * 2, [self.stride] * 2
        if not self.average:
            padded = pad_same(x, side, stride, value=-float("inf"))
            return F.max_pool2d(padded, self.side, self.stride)
        if self.stride == 1:
            return F.avg_pool2d(x, self.side, 1, self.side // 2, count_include_pad=False)
        inside = pad_same(torch.ones_like(x[:1, :1]), side, stride)
        means = F.avg_pool2d(pad_same(x, side, stride), self.side, self.stride)
        return means / F.avg_pool2d(inside, self.side, self.stride)


class FactorizedReduction(nn.Module):
    """Halve a map without losing pixels: even ones through one convolution, odd ones another.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / 2), ceil(W / 2))
    """

    def __init__(self, in_chs: int, out_chs: int, eps: float) -> None:
        super().__init__()
        self.path_1 = nn.Conv2d(in_chs, out_chs // 2, 1, 2, bias=False)
        self.path_2 = nn.Conv2d(in_chs, out_chs - out_chs // 2, 1, 2, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out_chs, eps=eps)

    def fuse(self) -> nn.Module:
        """The same function with the norm folded into both convolutions."""
        fused, bn = copy.deepcopy(self), self.bn
        assert isinstance(bn, nn.BatchNorm2d)
        assert bn.running_mean is not None
        assert bn.running_var is not None
        half = len(self.path_1.weight)
        for conv, part in ((fused.path_1, slice(half)), (fused.path_2, slice(half, None))):
            mean, variance = bn.running_mean[part], bn.running_var[part]
            scale = (bn.eps, bn.weight[part], bn.bias[part])
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, None, mean, variance, *scale)
        fused.bn = nn.Identity()
        return fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels 0, 2, ... and 1, 3, ... of both axes; what lies outside is zero."""
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.bn(torch.cat((self.path_1(x), self.path_2(shifted)), 1))  # type: ignore[no-any-return]


class ScheduledDropPath(DropPath):  # type: ignore[misc]
    """Drop path whose rate grows with the training's `progress` (0..1).

    Shape: any -> the same
    """

    def __init__(self, final_rate: float) -> None:
        super().__init__(final_rate)
        self.final_rate = final_rate

    def set_progress(self, progress: float) -> None:
        """Use this share of the final rate."""
        self.drop_prob = self.final_rate * min(1.0, progress)


def operation(name: str, in_chs: int, out_chs: int, stride: int, eps: float) -> nn.Module:
    """One operation of a cell, followed by a pointwise convolution where widths differ."""
    if name.startswith("sep"):
        return Separable(in_chs, out_chs, int(name[3:]), stride, eps)
    if name.startswith("conv1x"):
        return crossed(in_chs, out_chs, int(name[6:]), stride, eps)
    if name in ("conv3", "dil3"):
        steps, dilation = (stride, stride), 2 if name == "dil3" else 1
        return SpatialConv(in_chs, out_chs, (3, 3), steps, eps, dilation)
    if name == "identity" and stride == 1 and in_chs == out_chs:
        return nn.Identity()
    if name in ("identity", "conv1"):
        return ReluConvNorm(in_chs, out_chs, eps, stride)
    pool = Pool(name, stride)
    return pool if in_chs == out_chs else nn.Sequential(pool, pair(in_chs, out_chs, eps))


class Cell(nn.Module):
    """Pairs of operations added or concatenated; those that end unused concatenated.

    Shape: (B, in_chs, H, W) current, (B, prev_chs, H or 2H, W or 2W) previous
        -> (B, num_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        spec: CellSpec,
        dim: int,
        in_chs: int,
        prev_chs: int | None,
        prev_stride: int = 1,
        stride: int = 1,
        drop_path: float = 0.0,
        eps: float = 1e-3,
    ) -> None:
        """Build the cell.

        Args:
            spec: what it computes.
            dim: channels of every operation.
            in_chs: channels of the current input.
            prev_chs: channels of the previous input; None for the first cell, which has none and
                takes the current one in its place, as it is.
            prev_stride: 2 if the previous input is twice as large.
            stride: of operations on the two inputs.
            drop_path: share of the operations' outputs dropped at the end of training.
            eps: of the norms.
        """
        super().__init__()
        self.current = ReluConvNorm(in_chs, dim, eps)
        self.previous: nn.Module = nn.Identity()
        if prev_stride > 1:
            assert prev_chs is not None
            reduce = FactorizedReduction(prev_chs, dim, eps)
            self.previous = nn.Sequential(OrderedDict(act=nn.ReLU(), reduce=reduce))
        elif prev_chs not in (None, dim):
            assert prev_chs is not None
            self.previous = ReluConvNorm(prev_chs, dim, eps)
        self.adds = [block[4] == "add" for block in spec.blocks]
        results = [dim if adds else 2 * dim for adds in self.adds]
        widths = [dim, in_chs if prev_chs is None else dim, *results]
        halves = [half for block in spec.blocks for half in (block[:2], block[2:4])]
        ops, drops = [], []
        for state, name in halves:
            ops.append(operation(name, widths[state], dim, stride if state < 2 else 1, eps))
            dropped = drop_path > 0 and name != "identity"
            drops.append(ScheduledDropPath(drop_path) if dropped else nn.Identity())
        self.ops, self.drops = nn.ModuleList(ops), nn.ModuleList(drops)
        self.states, self.ends = [state for state, _ in halves], spec.ends
        self.fits = nn.ModuleList(
            self._fit(widths[end], dim, stride, eps) if end < 2 else nn.Identity()
            for end in self.ends
        )
        self.num_chs = sum(dim if end < 2 else widths[end] for end in self.ends)

    @staticmethod
    def _fit(width: int, dim: int, stride: int, eps: float) -> nn.Module:
        """What brings an input that is part of the output to the others' width and size."""
        if stride > 1:
            return FactorizedReduction(width, dim, eps)
        return nn.Identity() if width == dim else pair(width, dim, eps)

    def forward(self, current: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """All blocks in order, then the concatenation."""
        states = [self.current(current), self.previous(previous)]
        done: list[torch.Tensor] = []
        for op, drop, state in zip(self.ops, self.drops, self.states, strict=True):
            done.append(drop(op(states[state])))
            if len(done) == 2:
                adds = self.adds[len(states) - 2]
                states.append(done[0] + done[1] if adds else torch.cat(done, 1))
                done = []
        ends = zip(self.fits, self.ends, strict=True)
        return torch.cat([fit(states[i]) for fit, i in ends], 1)


class NASNet(StagedNet):
    """The network: stem, normal cells in three equal stages, reduction cells between.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        cells: int,
        dim: int,
        stem_width: int,
        skip_reduction_input: bool = False,
        small_images: bool = False,
        normal: CellSpec | Mapping[str, Any] = NORMAL_A,
        reduction: CellSpec | Mapping[str, Any] = REDUCTION_A,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            cells: normal cells, a multiple of three.
            dim: channels of the operations in the first stage, doubled in each other.
            stem_width: channels of the first convolution.
            skip_reduction_input: the cell behind a reduction takes as previous input not the
                reduction's input, but the one before that.
            small_images: no stride and no reduction cells in the stem.
            normal: the cell of stride 1, or what its `to_dict` gave.
            reduction: the cell of stride 2, likewise.
            drop_rate: dropout before the classifier.
            drop_path_rate: share of the last cell's operations dropped at the end of training; see
                `set_drop_path_progress`.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        normal, reduction = CellSpec.of(normal), CellSpec.of(reduction)
        self.eps = 1e-5 if small_images else 1e-3
        norm = partial(nn.BatchNorm2d, eps=self.eps)
        self.stem = ConvNorm(in_chans, stem_width, 3, 1 if small_images else 2, norm_layer=norm)
        if not small_images:
            self.stem.conv.padding = (0, 0)
        total = cells + (2 if small_images else 4)
        self._rates = [drop_path_rate * (i + 1) / total for i in range(total)]
        self._widths, self._reductions = [stem_width], [1 if small_images else 2]
        self.cells = nn.ModuleList()
        self.offsets: list[int] = []
        if not small_images:
            self._note_level("stem")
            self._add(reduction, dim // 4, 2, -1)
            self._note_level("cells.0")
            self._add(reduction, dim // 2, 2, -2)
        for i in range(cells):
            offset = -1 if len(self._widths) == 1 else -2
            if i in (cells // 3, 2 * cells // 3):
                dim *= 2
                self._note_level(f"cells.{len(self.cells) - 1}")
                self._add(reduction, dim, 2, offset)
                offset = -3 if skip_reduction_input else -2
            self._add(normal, dim, 1, offset)
        self.act = nn.ReLU()
        self._note_level("act")
        width = self._widths[-1]
        self.num_features = width
        self.head = ClassifierHead(width, num_classes, global_pool, drop_rate)
        self.head_hidden_size = self.head.num_features

    def _add(self, spec: CellSpec, dim: int, stride: int, offset: int) -> None:
        """One more cell; `offset` says which output is its previous input, -1 for none."""
        first = offset == -1
        cell = Cell(
            spec,
            dim,
            self._widths[-1],
            None if first else self._widths[offset],
            1 if first else self._reductions[-1] // self._reductions[offset],
            stride,
            self._rates[len(self.cells)],
            self.eps,
        )
        self.cells.append(cell)
        self.offsets.append(offset)
        self._widths.append(cell.num_chs)
        self._reductions.append(self._reductions[-1] * stride)

    def _note_level(self, module: str) -> None:
        info = {"num_chs": self._widths[-1], "reduction": self._reductions[-1], "module": module}
        self.feature_info.append(info)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: one a cell."""
        return {"stem": r"^stem", "blocks": r"^cells\.(\d+)"}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_drop_path_progress(self, progress: float) -> None:
        """Set ScheduledDropPath to the share of the training that is done; without it, to 1."""
        for module in self.modules():
            if isinstance(module, ScheduledDropPath):
                module.set_progress(progress)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last map of `num_features` channels."""
        outputs = [self.stem(x)]
        for cell, offset in zip(self.cells, self.offsets, strict=True):
            inputs = (outputs[-1], outputs[offset])
            again = self.grad_checkpointing and self.training
            out = checkpoint(cell, *inputs) if again else cell(*inputs)
            outputs = [*outputs[-2:], out]
        return self.act(outputs[-1])  # type: ignore[no-any-return]


_STEPS = {
    "conv_1x1": "current.pair",
    "conv_prev_1x1": "previous.pair",
    "path_1": "previous.reduce.path_1",
    "path_2": "previous.reduce.path_2",
    "final_path_bn": "previous.reduce.bn",
}
_LAYERS = {
    "separable_1.depthwise_conv2d": "dw_1",
    "separable_1.pointwise_conv2d": "pw_1.conv",
    "bn_sep_1": "pw_1.bn",
    "separable_2.depthwise_conv2d": "dw_2",
    "separable_2.pointwise_conv2d": "pw_2.conv",
    "bn_sep_2": "pw_2.bn",
}


def convert(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of Cadene's and timm's ports -> ours."""
    if "conv0.conv.weight" not in state_dict:
        return dict(state_dict)
    cells = sorted({n.split(".")[0] for n in state_dict if "cell" in n.split(".")[0]}, key=_place)
    converted = {}
    for name, value in state_dict.items():
        part, _, rest = name.partition(".")
        if part in cells:
            name = f"cells.{cells.index(part)}.{_inside(rest)}"
        else:
            name = name.replace("conv0.", "stem.").replace("last_linear.", "head.fc.")
        converted[name] = value
    return converted


def _place(cell: str) -> float:
    """Where a cell stands: stems first, reductions before cells 6 and 12."""
    kind, _, number = cell.rpartition("_")
    if kind == "cell_stem":
        return int(number) - 2
    return int(number) if kind == "cell" else 6 * int(number) + 5.5


def _inside(rest: str) -> str:
    """Names within a cell."""
    part, _, leaf = rest.partition(".")
    if part in _STEPS:
        return f"{_STEPS[part]}.{leaf.removeprefix('conv.') if 'path' in part else leaf}"
    _, _, number, side = part.split("_")  # comb_iter_4_left
    layer, _, leaf = leaf.rpartition(".")
    return f"ops.{2 * int(number) + (side == 'right')}.{_LAYERS[layer]}.{leaf}"


_VARIANTS: dict[str, dict[str, Any]] = {
    "nasnet_test": {"cells": 3, "dim": 8, "stem_width": 8},
    "nasnet_mobile": {"cells": 12, "dim": 44, "stem_width": 32},
    "nasnet_large": {"cells": 18, "dim": 168, "stem_width": 96, "skip_reduction_input": True},
    "nasnet_cifar": {"cells": 18, "dim": 32, "stem_width": 96, "small_images": True},
}
_SIZES = {"nasnet_large": (331, 11, 0.911), "nasnet_cifar": (32, 8, 1.0)}


def _cfg(variant: str) -> dict[str, Any]:
    size, pool, crop = _SIZES.get(variant, (224, 7, 0.875))
    return default_cfg(
        input_size=(3, size, size),
        min_input_size=None if variant == "nasnet_cifar" else (3, 3, 3),  # its stem is padded
        pool_size=(pool, pool),
        crop_pct=crop,
        num_classes=10 if variant == "nasnet_cifar" else 1000,
        mean=IMAGENET_INCEPTION_MEAN,
        std=IMAGENET_INCEPTION_STD,
        first_conv="stem.conv",
    )


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    numbers = dict(_VARIANTS[variant])
    if variant == "nasnet_cifar":
        numbers["num_classes"] = 10
    # a cell reads two earlier outputs, so maps can only be taken by hooks
    levels = 3 if variant == "nasnet_cifar" else 5
    features = {
        "out_indices": tuple(range(levels)),
        "feature_cls": "hook",
        "no_rewrite": True,
        "flatten_sequential": False,
    }
    return build(NASNet, variant, pretrained, feature_cfg=features, **{**numbers, **kwargs})


@register_model  # type: ignore[untyped-decorator]
def nasnet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: three narrow normal cells."""
    return _create("nasnet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def nasnet_mobile(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """NASNet-A (4 @ 1056)."""
    return _create("nasnet_mobile", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def nasnet_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """NASNet-A (6 @ 4032), its average pools as in TensorFlow."""
    return _create("nasnet_large", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def nasnet_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """NASNet-A (6 @ 768) for images of 32 x 32."""
    return _create("nasnet_cifar", pretrained, **kwargs)
