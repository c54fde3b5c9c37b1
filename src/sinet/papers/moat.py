"""MOAT: how far windows reach without shifting, and which order of the two halves learns best."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import ConvMlp, LayerNorm2d, NormMlpClassifierHead
from torch import nn

from sinet.models.moat import Attention, MBConv, MOATBlock
from sinet.papers._arms import Build, beats, contest
from sinet.papers.base import Card, Finding, Published, Setting

CARD = Card(
    slug="moat",
    title="MOAT: Alternating Mobile Convolution and Attention Brings Strong Vision Models",
    authors="C. Yang, S. Qiao, Q. Yu, X. Yuan, Y. Zhu, A. Yuille, H. Adam, L.-C. Chen",
    year=2023,
    venue="ICLR 2023",
    url="https://arxiv.org/abs/2210.01820",
    licence="Apache-2.0 (google-research/deeplab2, TensorFlow); rewritten here",
    idea=(
        "Take a Transformer block, replace its MLP by an inverted residual, which is an MLP with "
        "a depthwise convolution inside, and put that first. It then also downsamples, and "
        "carries information over the borders of attention windows, which need no shifting."
    ),
    equations=(
        "x = shortcut(x) + shrink(act(norm(depthwise(act(norm(expand(norm(x))))))))",
        "x = x + softmax(q k^T / sqrt(32) + table[key - query]) v",
    ),
    claims=(
        "moat_0 reaches 83.3% with 27.8 M parameters, tiny_moat_1 79.2% with 5.1 M",
        "the merged block is better than attention with an MLP",
        "convolution before attention is better than after it",
        "windows exchange information without being shifted",
    ),
    models=(
        "moat_0",
        "moat_1",
        "moat_2",
        "moat_3",
        "moat_4",
        "tiny_moat_0",
        "tiny_moat_1",
        "tiny_moat_2",
        "tiny_moat_3",
    ),
    parity=(
        "tiny_moat_0 at 256 px of the authors' TensorFlow code, float64, to 6e-9 (its GELU has a "
        "constant in single precision)"
    ),
    published={
        "moat_0": Published(27.8, 5.7, 83.3),
        "moat_1": Published(41.6, 9.1, 84.2),
        "moat_2": Published(73.4, 54.3, 87.5),
        "moat_3": Published(190.0, 271, 88.4),
        "moat_4": Published(483.2, 648.5, 89.1),
        "tiny_moat_0": Published(3.4, 1.1, 76.6),
        "tiny_moat_1": Published(5.1, 1.6, 79.2),
        "tiny_moat_2": Published(9.8, 3.0, 81.7),
        "tiny_moat_3": Published(19.5, 6.0, 83.3),
    },
    caveat=(
        "`moat_2` to `moat_4` were pre-trained on ImageNet-22K. The paper's multiply-adds count "
        "the softmax as well."
    ),
)
SEEDS = (0, 1, 2)

_DIMS = (32, 64)


def reproduce(setting: Setting) -> list[Finding]:
    """The reach of windows exactly; three orders of the same parts by training."""
    large = setting.device == "cuda"
    arms: dict[str, Build] = {
        "attention_mlp": _network(AttentionMlp, large),
        "attention_mbconv": _network(AttentionMBConv, large),
        "moat": _network(MOATBlock, large),
    }
    if large:
        arms["moat_global"] = _network(MOATBlock, large, window=None, position_size=16)
    found = contest(
        setting,
        arms,
        epochs=40 if large else 5,
        train_images=50_000 if large else 5_000,
        batch_size=256 if large else 64,
        seeds=SEEDS,
    )
    figures = "83.3% on ImageNet-1K for moat_0; the ablation's figures are not at hand"
    return [
        _reach(),
        beats(CARD.claims[1], figures, found, "moat", ["attention_mlp"]),
        beats(CARD.claims[2], figures, found, "moat", ["attention_mbconv"]),
    ]


class AttentionMlp(nn.Module):
    """A Transformer block on maps; one of stride 2 halves the map by a convolution before it.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H / stride, W / stride)
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int = 1, **attention: Any) -> None:
        super().__init__()
        self.down = _down(in_chs, out_chs, stride)
        self.norm1 = LayerNorm2d(out_chs, eps=1e-5)
        self.attn = Attention(out_chs, **attention)
        self.mix = self.channels(out_chs)

    def channels(self, dim: int) -> nn.Module:
        """What follows the attention."""
        return ResidualMlp(dim, 4.5)  # then the arms' parameters are equal to 1%

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look far, then mix channels."""
        x = self.down(x)
        x = x + self.attn(self.norm1(x))
        return self.mix(x)  # type: ignore[no-any-return]


class AttentionMBConv(AttentionMlp):
    """MOAT's parts the other way round.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H / stride, W / stride)
    """

    def channels(self, dim: int) -> nn.Module:
        """The inverted residual."""
        return MBConv(dim, dim, squeeze=False)


class ResidualMlp(nn.Module):
    """`x + mlp(norm(x))`.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, expansion: float) -> None:
        super().__init__()
        self.norm = LayerNorm2d(dim, eps=1e-5)
        self.mlp = ConvMlp(dim, round(dim * expansion), act_layer=nn.GELU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix channels."""
        return x + self.mlp(self.norm(x))  # type: ignore[no-any-return]


def _down(in_chs: int, out_chs: int, stride: int) -> nn.Module:
    """Nothing, or the plain convolution by which every arm halves its maps."""
    if stride == 1 and in_chs == out_chs:
        return nn.Identity()
    return nn.Conv2d(in_chs, out_chs, 3, stride, 1)


def _network(block: type[nn.Module], large: bool, **attention: Any) -> Build:
    """Stem to 16 px, blocks at 16 and 8 px (and 4 px if large), windows of 4 x 4, heads of 16.

    Downsampling is the same plain convolution in every arm, so that they differ only in the blocks.
    """
    options = {"head_dim": 16, "position_size": 4, "window": (4, 4), **attention}

    def build(num_classes: int, in_chans: int) -> nn.Module:
        dims = (48, 96, 192) if large else _DIMS
        stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], 3, 2, 1), nn.BatchNorm2d(dims[0]))
        layers: list[nn.Module] = [stem, nn.GELU(), nn.Conv2d(dims[0], dims[0], 3, padding=1)]
        width = dims[0]
        for dim in dims:
            layers += [_down(width, dim, 1 if width == dim else 2)]
            layers += [block(dim, dim, **options) for _ in range(2)]
            width = dim
        return nn.Sequential(*layers, NormMlpClassifierHead(width, num_classes))

    return build


def _reach() -> Finding:
    """Which rows of a map of 5 x 5 windows one output in the middle window depends on."""
    window = 7
    measured: dict[str, list[int]] = {}
    kinds: dict[str, type[nn.Module]] = {"attention_mlp": AttentionMlp, "moat": MOATBlock}
    for name, block in kinds.items():
        for depth in (1, 2):
            torch.manual_seed(0)
            layers = [block(32, 32, window=(window, window)) for _ in range(depth)]
            stack = nn.Sequential(*layers).double().eval()
            x = torch.randn(1, 32, 35, 35, dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad(stack(x)[0, :, 17, 17].sum(), x)
            rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
            measured[f"{name}_{depth}_blocks"] = [int(rows.min()), int(rows.max())]
    expected = {
        "attention_mlp_1_blocks": [14, 20],
        "attention_mlp_2_blocks": [14, 20],
        "moat_1_blocks": [13, 21],
        "moat_2_blocks": [6, 28],
    }
    listed = ", ".join(f"{k} {low}-{high}" for k, (low, high) in measured.items())
    return Finding(
        "MOAT's windows read one pixel beyond their edge after a block, their neighbours after two",
        CARD.claims[3],
        measured,
        "confirmed" if measured == expected else "refuted",
        f"rows that an output of rows 14-20 depends on: {listed}",
    )
