"""SpaRTAN: two receptive fields with squeeze-excite, and channels multiplied as complex numbers.

Paper: "SpaRTAN: Spatial Reinforcement Token-based Aggregation Network for Visual Recognition",
arXiv 2507.10999 (IJCNN 2025). The authors' code is henry-pay/SpaRTAN (Apache-2.0). Written anew
from the equations.

    p = W x;  p = p + gamma (p - mean(p))
    SMixer(x) = V [SE(act(BN(conv3x3(p)))), SE(act(BN(dilated(dilated(p)))))]
    theta = act(T x), w = U x, j = argmax over the channels of x at each position
    f = w theta + w_j theta_j;  CMixer(x) = P SE(act(BN(conv3x3(c f))))
    x = x + s1 SMixer(GN(x));  x = x + s2 CMixer(GN(x))

c multiplies channels 2i and 2i + 1, read as one complex number, by a learned complex number. In
the first half of the stages the mixers' 3x3 convolutions are dense and depthwise, in the second
half depthwise and in groups.

Differences: the complex product is written out in real numbers (the authors leave autocast for
it), so that it exports; 2x2 steps begin a stage here and end one there, the sequence is the same.

Reported: 77.7 % ImageNet top-1, 3.8 M params, about 1 GFLOP (1.07 G multiply-adds at 256 px).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import ClassifierHead, DropPath, GroupNorm1, SqueezeExcite
from timm.models import generate_default_cfgs, register_model
from torch import nn

from sinet.layers import ConvNorm
from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["SpaRTAN"]

SCALE_INIT = 1e-5


class Conv(ConvNorm):
    """Convolution without bias, then BatchNorm, with any padding and dilation.

    Shape: (B, in_chs, H, W) -> (B, out_chs, H', W')
    """

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, **options: Any) -> None:
        super().__init__(in_chs, out_chs, norm_layer=partial(nn.BatchNorm2d, eps=1e-6))
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, bias=False, **options)


class SpatialMixer(nn.Module):
    """Look near and, dilated, farther; weigh the channels of each view; join them.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, depthwise: bool) -> None:
        super().__init__()
        half = dim // 2
        groups = half if depthwise else 1
        far: dict[str, Any] = {"padding": 2, "dilation": 2, "groups": groups}
        self.gamma = nn.Parameter(torch.full((half, 1, 1), SCALE_INIT))
        self.proj_in = nn.Conv2d(dim, half, 1)
        self.near = Conv(half, half, 3, padding=1, groups=groups)
        self.far = nn.Sequential(nn.Conv2d(half, half, 3, bias=False, **far))
        self.far.append(Conv(half, half, 3, **far))
        self.act = nn.GELU()
        self.near_se = SqueezeExcite(half, rd_channels=half // 4)
        self.far_se = SqueezeExcite(half, rd_channels=half // 4)
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions."""
        x = self.proj_in(x)
        x = x + self.gamma * (x - x.mean((2, 3), keepdim=True))
        near, far = self.near_se(self.act(self.near(x))), self.far_se(self.act(self.far(x)))
        return self.proj_out(torch.cat([near, far], dim=1))  # type: ignore[no-any-return]


class ChannelMixer(nn.Module):
    """Modulate channels, add the product of the strongest one, turn pairs, mix.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, expansion: int, depthwise: bool) -> None:
        super().__init__()
        hidden = dim * expansion
        self.theta = nn.Conv2d(dim, hidden, 1)
        self.act = nn.GELU()
        self.proj = nn.Conv2d(dim, hidden, 1)
        self.turn = nn.Parameter(torch.randn(hidden // 2, 2))
        self.conv = Conv(hidden, hidden, 3, padding=1, groups=hidden if depthwise else dim)
        self.se = SqueezeExcite(hidden, rd_channels=dim // 4)
        self.proj_out = nn.Conv2d(hidden, dim, 1)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """Every pair of channels as a complex number, times the learned one of that pair.

        Shape: (B, hidden, H, W) -> (B, hidden, H, W)
        """
        real, imag = x.unflatten(1, (-1, 2)).unbind(2)
        a, b = self.turn.to(x.dtype)[..., None, None].unbind(1)
        return torch.stack([real * a - imag * b, real * b + imag * a], dim=2).flatten(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix channels."""
        strongest = x.argmax(dim=1, keepdim=True)
        theta, weight = self.act(self.theta(x)), self.proj(x)
        best = weight.gather(1, strongest) * theta.gather(1, strongest)
        x = self.turned(weight * theta + best)
        return self.proj_out(self.se(self.act(self.conv(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Spatial, then channel mixer, each normed before and scaled after.

    Shape: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, dim: int, expansion: int, early: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm1(dim, eps=1e-6)
        self.smixer = SpatialMixer(dim, depthwise=not early)
        self.scale1 = nn.Parameter(torch.full((dim, 1, 1), SCALE_INIT))
        self.norm2 = GroupNorm1(dim, eps=1e-6)
        self.cmixer = ChannelMixer(dim, expansion, depthwise=early)
        self.scale2 = nn.Parameter(torch.full((dim, 1, 1), SCALE_INIT))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions, then channels."""
        x = x + self.drop_path(self.scale1 * self.smixer(self.norm1(x)))
        x = x + self.drop_path(self.scale2 * self.cmixer(self.norm2(x)))
        return x


class SpaRTAN(StagedNet):
    """The network: stem, stages, pooling and a linear layer, with timm's methods.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        expansions: Sequence[int],
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            dims: channels of each stage, multiples of 8.
            depths: blocks of each stage.
            expansions: hidden channels of each stage's channel mixer, in units of `dims`.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth; block i of n drops i / n of it.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        first = dims[0]
        self.stem = nn.Sequential(
            Conv(in_chans, first // 2, 3, stride=2, padding=1),
            nn.GELU(),
            Conv(first // 2, first, 3, stride=2, padding=1),
            nn.GELU(),
        )
        stages: list[nn.Module] = []
        for i, (dim, depth, expansion) in enumerate(zip(dims, depths, expansions, strict=True)):
            early = i < len(dims) // 2
            before = sum(depths[:i])
            rates = [drop_path_rate * (before + j) / sum(depths) for j in range(depth)]
            down = [Conv(dims[i - 1], dim, 2, stride=2), nn.SiLU()] if i else []
            stages.append(nn.Sequential(*down, *(Block(dim, expansion, early, r) for r in rates)))
            info = {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            self.feature_info.append(info)
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.set_head(dims[-1], ClassifierHead(dims[-1], num_classes, global_pool, drop_rate))

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """The boost of what is not constant; the blocks' scales do decay in the authors' code."""
        return {name for name, _ in self.named_parameters() if name.endswith("gamma")}


_RENAMES = (
    (r"\.smixer\.h_conv\.", ".smixer.near."),
    (r"\.smixer\.l_conv\.0\.conv\.", ".smixer.far.0."),
    (r"\.smixer\.l_conv\.", ".smixer.far."),
    (r"\.smixer\.h_attn\.", ".smixer.near_se."),
    (r"\.smixer\.l_attn\.", ".smixer.far_se."),
    (r"\.cmixer\.attn\.", ".cmixer.se."),
    (r"\.squeeze\.", ".fc1."),
    (r"\.expand\.", ".fc2."),
    (r"\.cmixer\.complex$", ".cmixer.turn"),
    (r"\.scale_(\d)$", r".scale\1"),
    (r"\.norm_(\d)\.", r".norm\1."),
    (r"((?:near|far\.1|cmixer\.conv)\.)norm\.", r"\1bn."),
    (r"^linear\.", "head.fc."),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming -> ours; ours are left as they are.

    Theirs are one list of blocks and of the steps between stages; a step is known by `conv`.
    """
    if "conv.0.conv.weight" not in state_dict:
        return state_dict
    places = {int(key.split(".")[1]) for key in state_dict if key.startswith("layers.")}
    positions, stage, position = {}, 0, 0
    for place in sorted(places):
        if f"layers.{place}.conv.weight" in state_dict:
            stage, position = stage + 1, 0
        positions[place] = f"stages.{stage}.{position}"
        # a step is a convolution and an activation
        position += 2 if positions[place].endswith(".0") and stage else 1
    converted = {}
    for key, value in state_dict.items():
        if found := re.match(r"layers\.(\d+)\.(.*)", key):
            key = f"{positions[int(found[1])]}.{re.sub(r'^norm[.]', 'bn.', found[2])}"
        elif found := re.match(r"conv\.([01])\.(.*)", key):
            key = f"stem.{2 * int(found[1])}.{found[2].replace('norm.', 'bn.')}"
        for pattern, new in _RENAMES:
            key = re.sub(pattern, new, key)
        if key.endswith(("gamma", "scale1", "scale2")) and value.ndim == 4:
            value = value[0]
        elif key.endswith("turn") and value.ndim == 5:
            value = value[0, 0, 0]
        converted[key] = value
    return converted


_VARIANTS: dict[str, dict[str, Any]] = {
    "spartan_test": {
        "dims": (32, 48, 64, 96), "depths": (1, 1, 2, 1), "expansions": (4, 4, 2, 2),
    },
    "spartan": {
        "dims": (32, 64, 128, 256), "depths": (3, 3, 12, 2), "expansions": (4, 4, 2, 2),
    },
}  # fmt: skip
default_cfgs = generate_default_cfgs(
    {name: default_cfg(min_input_size=(3, 29, 29)) for name in _VARIANTS}
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(SpaRTAN, variant, pretrained, 4, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def spartan_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.4 M parameters."""
    return _create("spartan_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def spartan(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The published configuration, called SpaRTAN-T."""
    return _create("spartan", pretrained, **kwargs)
