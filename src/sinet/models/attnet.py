"""AttNet: a four-stage network of attentive convolutions and gated channel mixers.

"Attentive Convolution: Unifying the Expressivity of Self-Attention with Convolutional Efficiency",
arXiv 2510.20092. Origin: price112/Attentive-Convolution, MIT; written anew here.

Parameters as the origin states them, MACs counted here at 224 px: XXS 2.9 M, 0.54 G; XS 5.6 M, 1.0
G; S 7.7 M, 1.3 G; T1 13.7 M, 2.4 G; T2 27.0 M, 5.1 G, ImageNet-1K top-1 84.4 as reported; T3 49.2
M, 9.4 G; T4 87.3 M, 16.8 G. The origin trains with stochastic depth 0.02, 0.02, 0.1, 0.1, 0.2,
0.4, 0.5; here it starts at zero, as in timm.

What differs: convolution and BatchNorm fold (`timm.utils.reparameterize_model`), and the exported
form takes batches of any size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import (
    DropPath,
    LayerNorm2d,
    LayerScale2d,
    NormMlpClassifierHead,
    RmsNorm2d,
    calculate_drop_path_rates,
)
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.layers import ConvNorm
from sinet.layers.at_conv import ATConv
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["AttNet"]


class GatedMixer(nn.Module):
    """Channel mixer whose one half gates the other: `fc2(norm(GELU(dw(u)) * g))`, (u, g) = fc1(x).

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, expansion: float, norm: bool) -> None:
        super().__init__()
        hidden = int(2 * int(dim * expansion) / 3)  # both truncations are the origin's
        self.fc1 = nn.Conv2d(dim, 2 * hidden, 1)
        self.dw = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
        self.act = nn.GELU()
        self.norm = RmsNorm2d(hidden) if norm else nn.Identity()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Widen, gate, narrow."""
        u, gate = self.fc1(x).chunk(2, dim=1)
        out: torch.Tensor = self.fc2(self.norm(self.act(self.dw(u)) * gate))
        return out


class Block(nn.Module):
    """`x = x + ls1 * ATConv(LN(x)); x = x + ls2 * GatedMixer(LN(x))`, LN over channels.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(
        self, dim: int, expansion: float, glu_norm: bool, layer_scale: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(dim)
        self.mixer: nn.Module = ATConv(dim)
        self.ls1 = LayerScale2d(dim, 1e-6) if layer_scale else nn.Identity()
        self.norm2 = LayerNorm2d(dim)
        self.mlp = GatedMixer(dim, expansion, glu_norm)
        self.ls2 = LayerScale2d(dim, 1e-6) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions, then channels."""
        x = x + self.drop_path(self.ls1(self.mixer(self.norm1(x))))
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return x


class AttNet(StagedNet):
    """The network: a stem of stride 4, four stages, pooling, norm and a linear layer.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        expansions: Sequence[float] = (8, 8, 4, 4),
        glu_norm: bool = True,
        layer_scale: bool = True,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            dims: channels of each stage.
            depths: blocks of each stage.
            expansions: width of each stage's gated mixer, before it is cut to two thirds.
            glu_norm: an RMS norm inside the gated mixer.
            layer_scale: learned scales of the residual branches, which start at 1e-6.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        half = dims[0] // 2
        self.stem = nn.Sequential(
            ConvNorm(in_chans, half, 3, 2), nn.GELU(), ConvNorm(half, dims[0], 3, 2)
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            layers: list[nn.Module] = [ConvNorm(dims[i - 1], dim, 3, 2)] if i > 0 else []
            layers += [Block(dim, expansions[i], glu_norm, layer_scale, rate) for rate in rates[i]]
            stages.append(nn.Sequential(*layers))
            info = {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        norm = partial(LayerNorm2d, eps=1e-5)  # every other norm has 1e-6
        head = NormMlpClassifierHead(
            dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, norm_layer=norm
        )
        self.set_head(dims[-1], head)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """How much the kernel entries inhibit each other."""
        return {name for name, _ in self.named_parameters() if name.endswith("difference_control")}


_RENAMES = (
    (r"^downsample_layers\.0\.([02])\.0\.", r"stem.\1.conv."),
    (r"^downsample_layers\.0\.([02])\.1\.", r"stem.\1.bn."),
    (r"^downsample_layers\.(\d)\.0\.", r"stages.\1.0.conv."),
    (r"^downsample_layers\.(\d)\.1\.", r"stages.\1.0.bn."),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"\.token_mixer\.", ".mixer."),
    (r"\.channel_mixer\.dwconv\.", ".mlp.dw."),
    (r"\.channel_mixer\.norm_layer\.", ".mlp.norm."),
    (r"\.channel_mixer\.", ".mlp."),
    (r"\.layer_scale_([12])\.", r".ls\1."),
    (r"\.norm_([12])\.", r".norm\1."),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming -> ours."""
    if "downsample_layers.0.0.0.weight" not in state_dict:
        return state_dict
    out = {}
    for name, value in state_dict.items():
        # the first place of stages 2-4 is the downsampling here
        name = re.sub(r"^stages\.([1-3])\.(\d+)", _one_later, name)
        for pattern, new in _RENAMES:
            name = re.sub(pattern, new, name)
        out[name] = value
    return out


def _one_later(found: re.Match[str]) -> str:
    return f"stages.{found[1]}.{int(found[2]) + 1}"


_VARIANTS: dict[str, dict[str, Any]] = {
    "attnet_test": {"dims": (16, 24, 32, 48), "depths": (1, 1, 2, 1)},
    "attnet_xxs": {
        "dims": (32, 64, 128, 240), "depths": (2, 2, 4, 2), "glu_norm": False,
        "layer_scale": False,
    },
    "attnet_xs": {"dims": (40, 80, 160, 320), "depths": (2, 2, 7, 2), "glu_norm": False},
    "attnet_s": {
        "dims": (40, 80, 160, 320), "depths": (2, 3, 10, 3), "glu_norm": False,
        "layer_scale": False,
    },
    "attnet_t1": {"dims": (48, 96, 224, 384), "depths": (2, 3, 12, 3)},
    "attnet_t2": {"dims": (64, 128, 288, 512), "depths": (3, 3, 16, 3)},
    "attnet_t3": {"dims": (72, 144, 320, 576), "depths": (4, 4, 26, 4)},
    "attnet_t4": {"dims": (96, 192, 384, 768), "depths": (5, 5, 28, 5)},
}  # fmt: skip
default_cfgs = generate_default_cfgs({name: default_cfg(crop_pct=0.875) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(AttNet, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def attnet_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.1 M parameters."""
    return _create("attnet_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def attnet_xxs(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """2.9 M parameters, 0.54 GMACs."""
    return _create("attnet_xxs", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def attnet_xs(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """5.6 M parameters, 1.0 GMACs."""
    return _create("attnet_xs", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def attnet_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """7.7 M parameters, 1.3 GMACs."""
    return _create("attnet_s", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def attnet_t1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """13.7 M parameters, 2.4 GMACs."""
    return _create("attnet_t1", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def attnet_t2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """27.0 M parameters, 5.1 GMACs."""
    return _create("attnet_t2", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def attnet_t3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """49.2 M parameters, 9.4 GMACs."""
    return _create("attnet_t3", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def attnet_t4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """87.3 M parameters, 16.8 GMACs."""
    return _create("attnet_t4", pretrained, **kwargs)
