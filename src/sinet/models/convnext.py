"""Isotropic ConvNeXt: the layout of a vision transformer, with convolutions in place of attention.

"A ConvNet for the 2020s", arXiv 2201.03545 (CVPR 2022), section 3.3. Origin:
github.com/facebookresearch/ConvNeXt, MIT. The staged networks of the paper are timm's own,
`convnext_tiny` to `convnext_xlarge`; here are the three that timm lacks, of its blocks:

    x = x + W2 gelu(W1 LN(dw7x7(x)))        LN over the channels of each position

The stem cuts the image into patches of 16 x 16 and has no norm, all blocks have one width and work
on one map, and none has a layer scale. Then mean, LN, linear. No difference from the origin; any
image size works, what is left over from 16 being dropped.

Reported, ImageNet-1K at 224: small 78.7, base 82.0, large 82.6 top-1 in 4.3, 16.9 and 59.7 GMACs;
ours 22.31, 87.08 and 305.91 M parameters, 4.29, 16.90 and 59.70 GMACs. Stochastic depth in
training: 0.1, 0.2, 0.5.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.layers import NormMlpClassifierHead, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXtBlock
from torch import nn

from sinet.models._base import StagedNet, build, default_cfg

__all__ = ["ConvNeXtIsotropic"]

PATCH, LEVELS = 16, 4


class ConvNeXtIsotropic(StagedNet):
    """The network: one strided convolution, equal blocks, a head, with timm's methods.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Build the network.

        Args:
            dim: channels of every block.
            depth: blocks, at least four: feature maps are taken at each quarter of them.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, rising linearly from zero.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            global_pool: any timm pooling that keeps the width, "" for none.
        """
        super().__init__(num_classes, in_chans, drop_rate)
        self.stem = nn.Sequential(nn.Conv2d(in_chans, dim, PATCH, PATCH))
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.Sequential(
            *(ConvNeXtBlock(dim, ls_init_value=None, drop_path=rate) for rate in rates)
        )
        for level in range(1, LEVELS + 1):
            info = {"num_chs": dim, "reduction": PATCH}
            self.feature_info.append({**info, "module": f"blocks.{level * depth // LEVELS - 1}"})
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.set_head(dim, NormMlpClassifierHead(dim, num_classes, None, global_pool, drop_rate))

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: one a block."""
        return {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last map of `num_features` channels."""
        return self.forward_stage(self.blocks, self.stem(x))


_RENAMES = (
    (r"^stem\.(weight|bias)$", r"stem.0.\1"),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the authors' naming -> ours; ours pass unchanged."""
    out = {}
    for name, tensor in state_dict.items():
        for pattern, ours in _RENAMES:
            name = re.sub(pattern, ours, name)
        out[name] = tensor
    return out


_VARIANTS: dict[str, dict[str, Any]] = {
    "convnext_isotropic_test": {"dim": 48, "depth": 6},
    "convnext_isotropic_small": {"dim": 384, "depth": 18},
    "convnext_isotropic_base": {"dim": 768, "depth": 18},
    "convnext_isotropic_large": {"dim": 1024, "depth": 36},
}
default_cfgs = generate_default_cfgs(
    dict.fromkeys(
        _VARIANTS,
        default_cfg(
            first_conv="stem.0",
            pool_size=(14, 14),
            min_input_size=(3, PATCH, PATCH),
            crop_pct=0.875,
            license="mit",
        ),
    )
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    options = {**_VARIANTS[variant], **kwargs}
    return build(ConvNeXtIsotropic, variant, pretrained, LEVELS, **options)


@register_model  # type: ignore[untyped-decorator]
def convnext_isotropic_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 0.2 M parameters."""
    return _create("convnext_isotropic_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convnext_isotropic_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Isotropic ConvNeXt-S: 78.7 % on ImageNet-1K in 4.3 GMACs, as reported."""
    return _create("convnext_isotropic_small", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convnext_isotropic_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Isotropic ConvNeXt-B: 82.0 % on ImageNet-1K in 16.9 GMACs, as reported."""
    return _create("convnext_isotropic_base", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def convnext_isotropic_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Isotropic ConvNeXt-L: 82.6 % on ImageNet-1K in 59.7 GMACs, as reported."""
    return _create("convnext_isotropic_large", pretrained, **kwargs)
