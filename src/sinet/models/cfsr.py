"""CFSR: super-resolution by large depthwise kernels in the place of attention.

"Transforming Image Super-Resolution: A ConvFormer-based Efficient Approach", IEEE TIP 2024,
arXiv 2401.05633. Origin: Aitical/CFSR, no licence; written from the description, without its code.

Counted (parameters merged, in training; MACs for an output of 1280 x 720): x2 291,324, 298,236,
65.1 G; x3 297,819, 304,731, 29.6 G; x4 306,912, 313,824, 17.2 G. Reported for x4, PSNR / SSIM of
the luma: Set5 32.33 / 0.8964, Set14 28.73 / 0.7842, B100 27.63 / 0.7381, Urban100 26.21 / 0.7897,
Manga109 30.72 / 0.9111.

What differs: the training form can run (the origin's class merges itself when it is built), and
its edge masks can be the textbook's. The published weights, which are merged, load into both forms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d, LayerScale2d
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.models._networks import register_for

__all__ = ["CFSR", "EdgeConv"]

RGB_MEAN = (0.4488, 0.4371, 0.4040)
# Sobel in x, Sobel in y, Laplace. The origin's first and last have an entry in the wrong place;
# what was trained with them needs them until it is merged.
_MASKS = (
    ((0.0, 1.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
    ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
    ((1.0, 0.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)),
)
_TEXTBOOK_MASKS = (
    ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
    _MASKS[1],
    ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)),
)


class EdgeConv(nn.Conv2d):
    """A depthwise 3 x 3 convolution with three fixed edge filters beside it.

    `DW(x) + sum_k (s_k * M_k(x) + b_k)` for the masks M_k, with s_k and b_k of each channel. All of
    them pad by zeros and none has a bias in front, so their sum is the one kernel
    `W + sum_k s_k M_k` with the bias `b + sum_k b_k`; it is what is run, and what `fuse()` gives.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    masks: torch.Tensor
    bias: nn.Parameter

    def __init__(self, dim: int, textbook_masks: bool = False) -> None:
        super().__init__(dim, dim, 3, 1, 1, groups=dim)
        masks = torch.tensor(_TEXTBOOK_MASKS if textbook_masks else _MASKS)
        self.register_buffer("masks", masks, persistent=False)
        self.edge_scale = nn.Parameter(1e-3 * torch.randn(dim, 3))
        self.edge_bias = nn.Parameter(1e-3 * torch.randn(dim, 3))

    def merged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the one convolution."""
        edges = (self.edge_scale @ self.masks.flatten(1)).view_as(self.weight)
        return self.weight + edges, self.bias + self.edge_bias.sum(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Blur or sharpen along the edges."""
        weight, bias = self.merged()
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The same function as a plain convolution."""
        weight, bias = self.merged()
        out = nn.Conv2d(self.in_channels, self.in_channels, 3, 1, 1, groups=self.groups).to(weight)
        assert out.bias is not None
        out.weight.copy_(weight)
        out.bias.copy_(bias)
        return out


class Mixer(nn.Module):
    """`proj(DW(GELU(query(y))) * value(y))` of the normed map: neither softmax nor a gate's bound.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(dim, eps=1e-6)
        self.query = nn.Conv2d(dim, dim, 1)
        self.act = nn.GELU()
        self.dw = nn.Conv2d(dim, dim, kernel_size, 1, kernel_size // 2, groups=dim)
        self.value = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look far around, then weigh."""
        x = self.norm(x)
        out: torch.Tensor = self.proj(self.dw(self.act(self.query(x))) * self.value(x))
        return out


class EdgeFFN(nn.Module):
    """`fc2(h + GELU(edges(h)))`, `h = GELU(fc1(LN(x)))`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, hidden: int, textbook_masks: bool) -> None:
        super().__init__()
        self.norm = LayerNorm2d(dim, eps=1e-6)
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = nn.GELU()
        self.dw: nn.Module = EdgeConv(hidden, textbook_masks)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix channels, keep edges."""
        x = self.act(self.fc1(self.norm(x)))
        out: torch.Tensor = self.fc2(x + self.act(self.dw(x)))
        return out


class Block(nn.Module):
    """`x = x + ls1 * Mixer(x); x = x + ls2 * EdgeFFN(x)`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, kernel_size: int, hidden: int, textbook_masks: bool) -> None:
        super().__init__()
        self.mixer = Mixer(dim, kernel_size)
        self.ls1 = LayerScale2d(dim, 1e-6)
        self.ffn = EdgeFFN(dim, hidden, textbook_masks)
        self.ls2 = LayerScale2d(dim, 1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions, then channels."""
        x = x + self.ls1(self.mixer(x))
        x = x + self.ls2(self.ffn(x))
        return x


class Group(nn.Module):
    """Blocks, then `x + conv(x)`: the shortcut starts after the blocks, not before them.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, blocks: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the blocks, mix channels once more."""
        x = self.blocks(x)
        out: torch.Tensor = x + self.conv(x)
        return out


class CFSR(nn.Module):
    """The network: one convolution, groups of blocks, one convolution to the larger image.

    Shape: (B, in_chans, H, W) -> (B, in_chans, scale * H, scale * W), values from 0 to 1.
    """

    mean: torch.Tensor

    def __init__(
        self,
        scale: int = 2,
        dim: int = 48,
        depths: Sequence[int] = (6, 6),
        kernel_size: int = 9,
        expansion: float = 2,
        in_chans: int = 3,
        textbook_masks: bool = False,
    ) -> None:
        """Build the network in its training form; `fuse()` gives the other.

        Args:
            scale: how many times larger the image becomes.
            dim: channels.
            depths: blocks of each group.
            kernel_size: of the mixers; odd.
            expansion: width of the feed-forward parts, in channels.
            in_chans: image channels; the published mean is taken off images of three.
            textbook_masks: the edge masks without the origin's misplaced entries; not for weights
                that were trained with those and are not merged.
        """
        super().__init__()
        self.scale, self.in_chans = scale, in_chans
        mean = RGB_MEAN if in_chans == 3 else (0.0,) * in_chans
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.stem = nn.Conv2d(in_chans, dim, 3, 1, 1)
        options = (dim, kernel_size, int(dim * expansion), textbook_masks)
        self.groups = nn.Sequential(
            *(Group([Block(*options) for _ in range(depth)], dim) for depth in depths)
        )
        self.norm = LayerNorm2d(dim, eps=1e-6)
        self.conv = nn.Conv2d(dim, dim, 3, 1, 1)
        self.head = nn.Conv2d(dim, in_chans * scale**2, 3, 1, 1)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image, its mean taken off, to the map that the larger image is read from."""
        shallow = self.stem(x)
        out: torch.Tensor = shallow + self.conv(self.norm(self.groups(shallow)))
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the larger image."""
        x = self.head(self.forward_features(x - self.mean))
        return F.pixel_shuffle(x, self.scale) + self.mean

    def fuse(self) -> CFSR:
        """A copy for inference: every `EdgeConv` is a plain convolution."""
        merged: CFSR = reparameterize_model(self)
        return merged


_RENAMES = (
    (r"^conv_first\.", "stem."),
    (r"^layers\.(\d+)\.", r"groups.\1."),
    (r"\.layer_scale_([12])$", r".ls\1.gamma"),
    (r"\.attn\.a\.0\.", ".mixer.query."),
    (r"\.attn\.a\.2\.lkb_reparam\.", ".mixer.dw."),
    (r"\.attn\.v\.", ".mixer.value."),
    (r"\.attn\.", ".mixer."),
    (r"\.mlp\.pos\.", ".ffn.dw."),
    (r"\.mlp\.", ".ffn."),
    (r"^conv_after_body\.", "conv."),
    (r"^upsample\.0\.", "head."),
)
_EDGES = ("sobel_x", "sobel_y", "laplacian")


def _ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' names -> ours; scales and biases of the edge filters are stacked."""
    if "conv_first.weight" not in state:
        return state
    out = {}
    for name, value in state.items():
        for pattern, new in _RENAMES:
            name = re.sub(pattern, new, name)
        out[name] = value
    for name in [n for n in out if n.endswith(f".scale_{_EDGES[0]}")]:
        place = name.removesuffix(f"scale_{_EDGES[0]}")
        scales = [out.pop(f"{place}scale_{edge}").flatten() for edge in _EDGES]
        biases = [out.pop(f"{place}{edge}_bias") for edge in _EDGES]
        out[f"{place}dw.edge_scale"] = torch.stack(scales, 1)
        out[f"{place}dw.edge_bias"] = torch.stack(biases, 1)
        for edge, known in zip(_EDGES, _MASKS, strict=True):
            _check_mask(out.pop(f"{place}mask_{edge}", None), known, place)
    return out


def _check_mask(
    mask: torch.Tensor | None, known: tuple[tuple[float, ...], ...], place: str
) -> None:
    """Checkpoints of the origin's training form may hold its masks, which never change."""
    if mask is not None and not mask.double().eq(torch.tensor(known).to(mask).double()).all():
        raise UsageError(
            f"{place}mask_* holds other edge masks than CFSR was published with; merge the "
            "weights where they were trained"
        )


def checkpoint_filter_fn(
    state_dict: dict[str, torch.Tensor], model: nn.Module
) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming -> ours, for the form that the network has.

    The published weights are merged. In the training form they are the depthwise kernel, with the
    edge filters at zero: the same function.
    """
    out = _ours(state_dict)
    expected = model.state_dict()
    for name in expected.keys() - out.keys():
        kernel = re.sub(r"edge_(scale|bias)$", "weight", name)
        if kernel != name and kernel in out:
            out = {**out, name: torch.zeros_like(expected[name])}
    return out


_VARIANTS: dict[str, dict[str, Any]] = {
    "cfsr_test": {"scale": 2, "dim": 16, "depths": (2, 1)},
    "cfsr_x2": {"scale": 2},
    "cfsr_x3": {"scale": 3},
    "cfsr_x4": {"scale": 4},
}


@register_for("superres")
def cfsr_test(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """For tests: twice as large, 16 k parameters."""
    return CFSR(**{**_VARIANTS["cfsr_test"], **kwargs})


@register_for("superres")
def cfsr_x2(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """Twice as large: 291 k parameters merged."""
    return CFSR(**{**_VARIANTS["cfsr_x2"], **kwargs})


@register_for("superres")
def cfsr_x3(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """Three times as large: 298 k parameters merged."""
    return CFSR(**{**_VARIANTS["cfsr_x3"], **kwargs})


@register_for("superres")
def cfsr_x4(num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """Four times as large: 307 k parameters merged."""
    return CFSR(**{**_VARIANTS["cfsr_x4"], **kwargs})
