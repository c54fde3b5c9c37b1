"""MOAT: Alternating Mobile Convolution and Attention Brings Strong Vision Models.

Yang et al., ICLR 2023, arXiv 2210.01820. Origin: https://github.com/google-research/deeplab2
(Apache-2.0, TensorFlow), written anew here. A Transformer block whose MLP became an inverted
residual and moved before the attention, where it also downsamples:

    x = shortcut(x) + shrink(se(act(norm(depthwise(act(norm(expand(norm(x)))))))))
    x = x + attention(norm(x))                              in the last two stages, without se

What differs: query, key and value are one matrix; norms fold into convolutions
(`timm.utils.reparameterize_model`). "Same" padding (0 before, 1 after where a step of 2 meets an
even size) and the resizing of the position tables to any image size are the authors'. The maps of
`features_only` are those that the authors call stage2 .. stage5; their res2 .. res5 are the GELU
of these.

Reported (parameters / multiply-adds / top-1): moat_0 27.8 M / 5.7 G / 83.3, moat_1 41.6 / 9.1 /
84.2 (ImageNet-1K, 224 px); moat_2 73.4 / 54.3 / 87.5 (384 px), moat_3 190 / 271 / 88.4, moat_4
483.2 / 648.5 / 89.1 (512 px), pre-trained on ImageNet-22K; tiny_moat_0 3.4 / 1.1 / 76.6,
tiny_moat_1 5.1 / 1.6 / 79.2, tiny_moat_2 9.8 / 3.0 / 81.7, tiny_moat_3 19.5 / 6.0 / 83.3 (256 px).
"""

from __future__ import annotations

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import Conv2dSame, DropPath, LayerNorm2d, NormMlpClassifierHead, SqueezeExcite
from timm.models import generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.layers.attention import join_windows, split_windows
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["MOAT"]

_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
Window = tuple[int, int]


class NormedConv(nn.Module):
    """`norm(conv(pre_norm(x)))`, which folds into one convolution.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pre_norm: nn.BatchNorm2d | None = _NORM(in_chs) if pre_norm else None
        self.conv = _same_conv(in_chs, out_chs, kernel_size, stride, groups, bias)
        self.norm = _NORM(out_chs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize where asked, convolve, normalize."""
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        return self.norm(self.conv(x))  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        """The same function as one convolution."""
        conv = copy.deepcopy(self.conv)
        scale, shift = _affine(self.norm)
        weight = conv.weight * scale[:, None, None, None]
        bias = shift if conv.bias is None else shift + scale * conv.bias
        if self.pre_norm is not None:  # its shift passes through kernels of 1x1 only
            assert conv.kernel_size == (1, 1)
            scale, shift = _affine(self.pre_norm)
            bias = bias + weight[:, :, 0, 0] @ shift
            weight = weight * scale[:, None, None]
        conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        return conv


def _affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm in evaluation mode, as a factor and a summand for every channel."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


def _same_conv(
    in_chs: int, out_chs: int, kernel_size: int, stride: int = 1, groups: int = 1, bias: bool = True
) -> nn.Conv2d:
    """A convolution padded as TensorFlow does; at a step of 1 that is the usual padding."""
    padding = kernel_size // 2 if stride == 1 else 0
    cls = nn.Conv2d if stride == 1 else Conv2dSame
    conv: nn.Conv2d = cls(in_chs, out_chs, kernel_size, stride, padding, groups=groups, bias=bias)
    return conv


class SamePool(nn.Module):
    """Average pooling by 2 with "same" padding, padded places left out of the mean.

    Shape: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Windows that reach over the lower or right border are cut off there (`ceil_mode`)."""
        before = [(self.kernel_size - 2 + int(size) % 2) // 2 for size in x.shape[-2:]]
        return F.avg_pool2d(x, self.kernel_size, 2, before, ceil_mode=True, count_include_pad=False)


class MBConv(nn.Module):
    """Inverted residual with a norm in front, four times as wide inside as its output.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        squeeze: bool = True,
        pool_size: int = 2,
        drop_path: float = 0.0,
        expansion: float = 4,
    ) -> None:
        """Build the block.

        Args:
            in_chs: input channels.
            out_chs: output channels.
            stride: 1 or 2.
            squeeze: whether to weight the inner channels by squeeze-and-excitation.
            pool_size: of the shortcut's pooling where the stride is 2; 2 or 3.
            drop_path: stochastic depth.
            expansion: inner width in units of `out_chs`.
        """
        super().__init__()
        inner = round(out_chs * expansion)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(SamePool(pool_size))
        if in_chs != out_chs:
            self.shortcut.append(nn.Conv2d(in_chs, out_chs, 1))
        self.expand = NormedConv(in_chs, inner, pre_norm=True)
        self.depthwise = NormedConv(inner, inner, 3, stride, groups=inner)
        self.act = nn.GELU()
        self.se = nn.Identity()
        if squeeze:
            narrow = max(1, out_chs // 4)
            self.se = SqueezeExcite(inner, rd_channels=narrow, act_layer=nn.SiLU)
        self.shrink = nn.Conv2d(inner, out_chs, 1)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions near by, and channels."""
        inner = self.act(self.depthwise(self.act(self.expand(x))))
        return self.shortcut(x) + self.drop_path(  # type: ignore[no-any-return]
            self.shrink(self.se(inner))
        )


class Attention(nn.Module):
    """Self-attention of a whole map or of windows, with a learned table of relative positions.

    `softmax(q k^T / sqrt(head_dim) + bias) v`, bias = table[yj - yi, xj - xi] for query i and key
    j, the table of (2 P - 1)^2 entries a head resized bilinearly to the size of the window.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self,
        dim: int,
        head_dim: int = 32,
        position_size: int | None = 14,
        window: Window | None = None,
        fitting: Window | None = None,
    ) -> None:
        """Build the layer.

        Args:
            dim: channels.
            head_dim: channels of a head.
            position_size: P, the size that the table is made for; None = no table.
            window: height and width of the windows, which must divide the map; None = whole map.
            fitting: height and width of the images whose multiples have such maps throughout the
                network, for the message; None = the windows', where maps are given as they are.
        """
        super().__init__()
        self.heads, self.window, self.fitting = dim // head_dim, window, fitting or window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.position: nn.Parameter | None = None
        if position_size is not None:
            side = 2 * position_size - 1
            self.position = nn.Parameter(torch.empty(self.heads, side, side))
            nn.init.normal_(self.position, std=0.02)

    def bias(self, height: int, width: int) -> torch.Tensor | None:
        """What the positions add to the logits.

        Shape: -> (heads, height * width, height * width), queries first
        """
        if self.position is None:
            return None
        table: torch.Tensor = self.position
        size = (2 * height - 1, 2 * width - 1)
        if table.shape[1:] != size:
            table = F.interpolate(table[None], size=size, mode="bilinear")[0]
        y, x = (torch.arange(n, device=table.device) for n in (height, width))
        rows = y[None, :] - y[:, None] + height - 1
        cols = x[None, :] - x[:, None] + width - 1
        index = rows[:, None, :, None] * size[1] + cols[None, :, None, :]
        tokens = height * width
        return table.flatten(1).index_select(1, index.flatten()).reshape(-1, tokens, tokens)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Attention of every position to all others.

        Shape: (B, dim, H, W) -> (B, dim, H, W)
        """
        b, c, h, w = x.shape
        qkv = self.qkv(x.flatten(2).transpose(1, 2))
        q, k, v = qkv.reshape(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(h, w))
        out = self.proj(out.transpose(1, 2).reshape(b, h * w, c))
        return out.transpose(1, 2).reshape(b, c, h, w)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What each position reads from those of its window.

        Raises:
            UsageError: the windows do not divide the map.
        """
        if self.window is None or self.fitting is None:
            return self.attend(x)
        h, w = x.shape[-2:]
        rows, cols = h // self.window[0], w // self.window[1]
        if (rows * self.window[0], cols * self.window[1]) != (h, w):
            raise UsageError(
                f"a map of {h} x {w} does not divide into windows of {self.window[0]} x "
                f"{self.window[1]}; give images whose height is a multiple of {self.fitting[0]} "
                f"and whose width is one of {self.fitting[1]}, or build without windows"
            )
        return join_windows(self.attend(split_windows(x, rows, cols)), rows, cols)


class MOATBlock(nn.Module):
    """Mobile convolution, then attention.

    Shape: (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        pool_size: int = 2,
        drop_path: float = 0.0,
        expansion: float = 4,
        **attention: Any,
    ) -> None:
        """Build the block; `attention` are the options of `Attention`."""
        super().__init__()
        self.mbconv = MBConv(in_chs, out_chs, stride, False, pool_size, drop_path, expansion)
        self.norm = LayerNorm2d(out_chs, eps=1e-5)
        self.attn = Attention(out_chs, **attention)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look near, then far."""
        x = self.mbconv(x)
        x = x + self.drop_path(self.attn(self.norm(x)))
        return x


class MOAT(StagedNet):
    """The network: a stem at stride 2, four stages that halve the map, head.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        stem_width: int,
        dims: Sequence[int],
        depths: Sequence[int],
        position_sizes: Sequence[int] = (14, 7),
        windows: Sequence[Window | None] = (None, None),
        pool_size: int = 2,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            stem_width: channels after the stem.
            dims: channels of each stage.
            depths: blocks of each stage.
            position_sizes: of the tables of relative positions in the last two stages, whatever
                the image size; () = without tables.
            windows: height and width of the attention windows in the last two stages; None = the
                whole map. The authors take windows for large images.
            pool_size: of the shortcuts' pooling; the authors take 3 for detection and
                segmentation.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of a block after the last, rising linearly from zero.
                The authors used 0.2, 0.3, 0.3, 0.6, 0.7 for moat_0 .. 4, 0, 0, 0, 0.1 for tiny.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        stem = OrderedDict[str, nn.Module](
            conv1=NormedConv(in_chans, stem_width, 3, 2, bias=True),
            act=nn.GELU(),
            conv2=nn.Conv2d(stem_width, stem_width, 3, padding=1),  # nothing after it
        )
        self.stem = nn.Sequential(stem)
        stages: list[nn.Module] = []
        width, done, total = stem_width, 0, sum(depths)
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            blocks: list[nn.Module] = []
            for j in range(depth):
                shape = (width, dim, 2 if j == 0 else 1)
                drop = drop_path_rate * done / total
                if i < 2:
                    blocks.append(MBConv(*shape, pool_size=pool_size, drop_path=drop))
                else:
                    options: dict[str, Any] = {
                        "position_size": position_sizes[i - 2] if position_sizes else None,
                        "window": windows[i - 2],
                        "fitting": _fitting(windows),
                    }
                    blocks.append(MOATBlock(*shape, pool_size, drop, **options))
                width, done = dim, done + 1
            stages.append(nn.Sequential(*blocks))
            info = {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        self.apply(_init)
        norm = partial(LayerNorm2d, eps=1e-5)
        head = NormMlpClassifierHead(
            width, num_classes, pool_type=global_pool, drop_rate=drop_rate, norm_layer=norm
        )
        self.set_head(width, head)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """The tables of relative positions."""
        return {name for name, _ in self.named_parameters() if name.endswith(".position")}


def _fitting(windows: Sequence[Window | None]) -> Window | None:
    """Height and width of the images whose multiples the windows of the last stages divide."""
    sides = [(16 * 2**i * w[0], 16 * 2**i * w[1]) for i, w in enumerate(windows) if w is not None]
    return (math.lcm(*(h for h, _ in sides)), math.lcm(*(w for _, w in sides))) if sides else None


def _init(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RENAMES = (
    (r"^stem\.conv_0\.", "stem.conv1.conv."),
    (r"^stem\.norm_0\.", "stem.conv1.norm."),
    (r"^stem\.conv_1\.", "stem.conv2."),
    (r"^blocks\.([01]\.\d+)\.", r"stages.\1."),
    (r"^blocks\.(\d+\.\d+)\.attention\.o\.", r"stages.\1.attn.proj."),
    (r"^blocks\.(\d+\.\d+)\.attention\.relative_position_embedding$", r"stages.\1.attn.position"),
    (r"^blocks\.(\d+\.\d+)\.attention\.", r"stages.\1.attn."),
    (r"^blocks\.(\d+\.\d+)\.attention_norm\.", r"stages.\1.norm."),
    (r"^blocks\.(\d+\.\d+)\.", r"stages.\1.mbconv."),
    (r"\.shortcut_conv\.", ".shortcut.1."),  # the pooling before it is the first
    (r"\.pre_norm\.", ".expand.pre_norm."),
    (r"\.(expand|depthwise)_(conv|norm)\.", r".\1.\2."),
    (r"\.se\.reduce_conv2d\.", ".se.fc1."),
    (r"\.se\.expand_conv2d\.", ".se.fc2."),
    (r"\.shrink_conv\.", ".shrink."),
    (r"^final_layer_norm\.", "head.norm."),
    (r"^logits_head\.", "head.fc."),
)
_LEAVES = {
    "kernel": "weight", "depthwise_kernel": "weight", "gamma": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' names -> ours, their layouts too.

    Taken are TensorFlow's variables as they are (`moat/block_00_00/expand_conv/kernel`, averaged
    or not) and the same with PyTorch's layouts (`blocks.0.0.expand_conv.weight`).
    """
    if any("/" in name for name in state_dict):
        state_dict = _from_tensorflow(state_dict)
    if not any(name.startswith("blocks.") for name in state_dict):
        return state_dict
    converted = {}
    for name, value in state_dict.items():
        if name == "logits_head.weight":
            value = value.flatten(1)
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        converted[name] = value
    return _joined(converted)


def _joined(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One matrix for query, key and value."""
    for name in [name for name in state if ".attn.q." in name]:
        parts = [state.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        state[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return state


def _from_tensorflow(variables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """TensorFlow's variables in PyTorch's layouts; averages replace what they are averages of."""
    average = "/ExponentialMovingAverage"
    averaged = {n.removesuffix(average): v for n, v in variables.items() if n.endswith(average)}
    state = {}
    for path, value in {**variables, **averaged}.items():
        if path.endswith(average) or "/" not in path:  # such as the step counter
            continue
        name = path.removeprefix("moat/").removesuffix(":0")
        if name.startswith(("conv_", "norm_")):  # TensorFlow 2 loses the scope of the stem
            name = f"stem/{name}"
        name = re.sub(r"^block_(\d+)_(\d+)/", lambda m: f"blocks/{int(m[1])}/{int(m[2])}/", name)
        *parents, leaf = name.split("/")
        if leaf == "kernel":  # (height, width, in, out)
            value = value.permute(3, 2, 0, 1)
        elif leaf == "depthwise_kernel":  # (height, width, channels, 1)
            value = value.permute(2, 3, 0, 1)
        elif parents[-1] == "o" and leaf == "weight":  # (heads, head_dim, dim)
            value = value.flatten(0, 1).T
        elif parents[-1] in ("q", "k", "v"):  # (dim, heads, head_dim), (heads, head_dim)
            value = value.flatten(1).T if leaf == "weight" else value.flatten()
        state[".".join([*parents, _LEAVES.get(leaf, leaf)])] = value
    return state


_SMALL, _LARGE = (2, 3, 7, 2), (2, 12, 28, 2)
_MIDDLE = (2, 6, 14, 2)
_VARIANTS: dict[str, dict[str, Any]] = {
    "moat_test": {"stem_width": 8, "dims": (16, 16, 32, 64), "depths": (1, 2, 2, 1)},
    "tiny_moat_0": {"stem_width": 32, "dims": (32, 64, 128, 256), "depths": _SMALL},
    "tiny_moat_1": {"stem_width": 40, "dims": (40, 80, 160, 320), "depths": _SMALL},
    "tiny_moat_2": {"stem_width": 56, "dims": (56, 112, 224, 448), "depths": _SMALL},
    "tiny_moat_3": {"stem_width": 80, "dims": (80, 160, 320, 640), "depths": _SMALL},
    "moat_0": {"stem_width": 64, "dims": (96, 192, 384, 768), "depths": _SMALL},
    "moat_1": {"stem_width": 64, "dims": (96, 192, 384, 768), "depths": _MIDDLE},
    "moat_2": {"stem_width": 128, "dims": (128, 256, 512, 1024), "depths": _MIDDLE},
    "moat_3": {"stem_width": 160, "dims": (160, 320, 640, 1280), "depths": _LARGE},
    "moat_4": {"stem_width": 256, "dims": (256, 512, 1024, 2048), "depths": _LARGE},
}
_SIZES = {"moat_2": 384, "moat_3": 512, "moat_4": 512}


def _cfg(name: str) -> dict[str, Any]:
    size = _SIZES.get(name, 256 if name.startswith("tiny") else 224)
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)} if name in _SIZES else {}
    return default_cfg(
        input_size=(3, size, size),
        pool_size=(size // 32, size // 32),
        first_conv="stem.conv1.conv",
        **half,
    )


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(MOAT, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def moat_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.2 M parameters."""
    return _create("moat_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def tiny_moat_0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The smallest, for phones; 256 px."""
    return _create("tiny_moat_0", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def tiny_moat_1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For phones; 256 px."""
    return _create("tiny_moat_1", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def tiny_moat_2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For phones; 256 px."""
    return _create("tiny_moat_2", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def tiny_moat_3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The largest of the tiny ones; 256 px."""
    return _create("tiny_moat_3", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def moat_0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The smallest of the large ones; 224 px."""
    return _create("moat_0", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def moat_1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As deep again in the middle; 224 px."""
    return _create("moat_1", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def moat_2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As moat_1, wider; 384 px."""
    return _create("moat_2", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def moat_3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Twice as deep, wider; 512 px."""
    return _create("moat_3", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def moat_4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The widest; 512 px."""
    return _create("moat_4", pretrained, **kwargs)
