"""Swin UNETR: a Swin encoder of 3-D (or 2-D) windows, a residual convolutional decoder.

"Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images",
arXiv:2201.01266. The network is MONAI's own (`monai.networks.nets.SwinUNETR`, Apache-2.0, extra
`medical`); this file gives it names, sizes that are refused with a hint, the three ways in which
its patches were merged, and the reading of published checkpoints.

Each stage halves the size by concatenating the 2 x 2 x 2 sub-grids of its map. MONAI 0.9 to 1.4,
and so every published BraTS and BTCV checkpoint, took two of the eight twice and two never
("legacy"); since 1.5 all eight are taken ("corrected"), and `mergingv2` takes them in another order
("v2"). The parameters have the same shapes: with the wrong choice a checkpoint loads and gives
wrong results. `swin_unetr_brats21` and `swin_unetr_btcv` are made for the published files.

    network            parameters   multiply-adds
    swin_unetr         62.2 M       97.6 G at 4 x 64 x 64 x 64
    swin_unetr_small   15.7 M       at a width of 24
    swin_unetr_tiny    4.1 M        at a width of 12
    swin_unetr_v2      72.8 M       a residual block before every stage (MICCAI 2023)
    swin_unetr_2d      6.3 M        2.5 G at 3 x 160 x 224

Reported on BraTS21, five folds: Dice 0.913 (nnU-Net 0.908). Every side is a multiple of 32, and one
at least is 64: the smallest map is normalized over its positions and needs two.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from sinet.errors import UsageError, missing_extra, unknown
from sinet.models._networks import register_for

__all__ = ["PatchMerging", "convert", "load_encoder"]

Merging = Literal["corrected", "legacy", "v2"]

# First axis, second, third: which sub-grids are concatenated, in order.
_OFFSETS = {
    "corrected": ("000", "100", "010", "001", "110", "101", "011", "111"),
    "legacy": ("000", "100", "010", "001", "101", "010", "001", "111"),
    "v2": ("000", "001", "010", "011", "100", "101", "110", "111"),
}
_OFFSETS_2D = ("00", "10", "01", "11")


class PatchMerging(nn.Module):
    """Halve every side: `linear(norm([sub-grids]))`, channels last.

    Shape: (B, D, H, W, C) -> (B, D / 2, H / 2, W / 2, 2 C), and without D in 2-D; even sides.
    """

    def __init__(
        self,
        dim: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        spatial_dims: int = 3,
        order: Merging = "corrected",
    ) -> None:
        """Build the layer.

        Args:
            dim: channels that come in.
            norm_layer: called with the number of concatenated channels.
            spatial_dims: 2 or 3; in 2-D all orders are one.
            order: which sub-grids are taken, see the top of this file.
        """
        super().__init__()
        if order not in _OFFSETS:
            raise unknown("merging", order, _OFFSETS)
        names = _OFFSETS[order] if spatial_dims == 3 else _OFFSETS_2D
        self.offsets = [[int(place) for place in name] for name in names]
        self.reduction = nn.Linear(len(self.offsets) * dim, 2 * dim, bias=False)
        self.norm = norm_layer(len(self.offsets) * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Concatenate, normalize, mix."""
        grids = [x[(slice(None), *(slice(i, None, 2) for i in o))] for o in self.offsets]
        return self.reduction(self.norm(torch.cat(grids, dim=-1)))  # type: ignore[no-any-return]


@functools.cache
def _network_class() -> type[nn.Module]:
    """MONAI's network, with our words for a size that does not fit.

    It is made when first asked for, since MONAI is optional and takes seconds to import; the
    class belongs to this file all the same, where `load_weights` looks for `convert`.
    """
    # einops is optional in MONAI, but its Swin UNETR does not run without it
    for package in ("monai", "einops"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "medical")
    with warnings.catch_warnings():  # of packages that MONAI imports if they are there
        warnings.simplefilter("ignore")
        from monai.networks.nets.swin_unetr import SwinUNETR

    class SwinUnetr(SwinUNETR):  # type: ignore[misc, unused-ignore]
        """Swin UNETR; its arguments are MONAI's.

        Shape: (B, in_channels, [D,] H, W) -> (B, out_channels, [D,] H, W)
        """

        def _check_input_size(self, spatial_shape: Sequence[int]) -> None:
            _check_size(tuple(spatial_shape), self.patch_size**5)

    SwinUnetr.__qualname__ = "SwinUnetr"  # so that a pickled network finds its class
    setattr(sys.modules[__name__], "SwinUnetr", SwinUnetr)  # noqa: B010
    return SwinUnetr


def _check_size(sides: tuple[int, ...], multiple: int) -> None:
    fit = [math.ceil(side / multiple) * multiple for side in sides]
    if all(side == multiple for side in fit):  # a single position has no variance
        fit[-1] *= 2
    if fit != list(sides):
        raise UsageError(
            f"{' x '.join(map(str, sides))} does not fit; every side must be a multiple of "
            f"{multiple}, one of them {2 * multiple} at least: pad to {' x '.join(map(str, fit))}"
        )


def _build(
    num_classes: int = 3,
    in_chans: int = 4,
    width: int = 48,
    spatial_dims: int = 3,
    merging: Merging = "corrected",
    use_v2: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    **kwargs: Any,
) -> nn.Module:
    """MONAI's network in this library's words.

    Args:
        num_classes: maps of scores.
        in_chans: modalities of the image.
        width: channels of the first map, a multiple of 12.
        spatial_dims: 3 for volumes, 2 for images.
        merging: how patches are merged; checkpoints of MONAI before 1.5 need "legacy".
        use_v2: put a residual block before every stage.
        drop_rate: dropout in the encoder.
        drop_path_rate: largest rate at which a block of the encoder is skipped.
        kwargs: more of MONAI's arguments, such as `depths`, `window_size`, `use_checkpoint`.
    """
    if merging not in _OFFSETS:
        raise unknown("merging", merging, _OFFSETS)
    if width % 12:
        raise UsageError(
            f"width {width} does not fit; give a multiple of 12, such as {-(-width // 12) * 12}"
        )
    return _network_class()(
        in_channels=in_chans,
        out_channels=num_classes,
        feature_size=width,
        spatial_dims=spatial_dims,
        downsample=functools.partial(PatchMerging, order=merging),
        use_v2=use_v2,
        drop_rate=drop_rate,
        dropout_path_rate=drop_path_rate,
        **kwargs,
    )


_HEADS = r"^(encoder|swinViT)?\.?(mask_token$|norm\.|(rotation|contrastive)_(head|pre)\.|conv\.)"


def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of published files -> ours, which are MONAI's.

    Read besides those of MONAI itself: files of several GPUs ("module."), and the two pre-trained
    encoders (arXiv:2111.14791 with the layers bare and `fc1`, arXiv:2307.16896 under "encoder."),
    whose heads of the pre-training are left out.
    """
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        bare = re.match(r"^(patch_embed|layers\d)\.", name)
        if bare or name.startswith("encoder.") or re.match(_HEADS, name):
            if re.match(_HEADS, name):
                continue
            name = "swinViT." + name.removeprefix("encoder.")
            name = re.sub(r"^(swinViT\.layers\d\.0)\.0\.", r"\1.", name)
        renamed[re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", name)] = value
    return renamed


def load_encoder(model: nn.Module, state: Mapping[str, torch.Tensor]) -> int:
    """Load a pre-trained encoder; the decoder stays as it is.

    Args:
        model: a network of this file, made with `merging="legacy"` for the published encoders.
        state: the tensors of the file, in any naming that `convert` reads.

    Returns:
        How many tensors were loaded.

    Raises:
        UsageError: the tensors are not those of this network's encoder.
    """
    prefix = "swinViT."
    given = {k: v for k, v in convert(dict(state)).items() if k.startswith(prefix)}
    ours = {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}
    needed = {k for k, v in ours.items() if v.is_floating_point()}
    wrong = sorted(
        (needed - given.keys())
        | (given.keys() - ours.keys())
        | {k for k in given.keys() & ours.keys() if given[k].shape != ours[k].shape}
    )
    if wrong:
        raise UsageError(
            f"the encoder has another form: {len(wrong)} tensors are missing, surplus or of "
            f"another shape (such as {', '.join(wrong[:3])}); give the width, `in_chans` and "
            "`use_v2` that it was trained with"
        )
    model.load_state_dict(given, strict=False)
    return len(given)


_PLANE = {"width": 24, "spatial_dims": 2, "in_chans": 3, "num_classes": 2}
_VARIANTS: dict[str, dict[str, Any]] = {
    "swin_unetr_test": {**_PLANE, "width": 12},
    "swin_unetr": {"width": 48},
    "swin_unetr_small": {"width": 24},
    "swin_unetr_tiny": {"width": 12},
    "swin_unetr_v2": {"width": 48, "use_v2": True},
    "swin_unetr_2d": _PLANE,
    "swin_unetr_2d_v2": {**_PLANE, "use_v2": True},
    "swin_unetr_brats21": {"width": 48, "in_chans": 4, "num_classes": 3, "merging": "legacy"},
    "swin_unetr_btcv": {"width": 48, "in_chans": 1, "num_classes": 14, "merging": "legacy"},
}


@register_for("volume")
def swin_unetr_test(**kwargs: Any) -> nn.Module:
    """For tests: the narrowest that MONAI builds, in 2-D."""
    return _build(**{**_VARIANTS["swin_unetr_test"], **kwargs})


@register_for("volume")
def swin_unetr(**kwargs: Any) -> nn.Module:
    """The published network, for volumes of four modalities and three regions."""
    return _build(**{**_VARIANTS["swin_unetr"], **kwargs})


@register_for("volume")
def swin_unetr_small(**kwargs: Any) -> nn.Module:
    """Half as wide."""
    return _build(**{**_VARIANTS["swin_unetr_small"], **kwargs})


@register_for("volume")
def swin_unetr_tiny(**kwargs: Any) -> nn.Module:
    """A quarter as wide."""
    return _build(**{**_VARIANTS["swin_unetr_tiny"], **kwargs})


@register_for("volume")
def swin_unetr_v2(**kwargs: Any) -> nn.Module:
    """Version 2: a residual convolutional block before every stage."""
    return _build(**{**_VARIANTS["swin_unetr_v2"], **kwargs})


@register_for("segment", "volume")
def swin_unetr_2d(**kwargs: Any) -> nn.Module:
    """For images."""
    return _build(**{**_VARIANTS["swin_unetr_2d"], **kwargs})


@register_for("segment", "volume")
def swin_unetr_2d_v2(**kwargs: Any) -> nn.Module:
    """Version 2 for images."""
    return _build(**{**_VARIANTS["swin_unetr_2d_v2"], **kwargs})


@register_for("volume")
def swin_unetr_brats21(**kwargs: Any) -> nn.Module:
    """For the published BraTS21 checkpoints: regions TC, WT, ET of four modalities."""
    return _build(**{**_VARIANTS["swin_unetr_brats21"], **kwargs})


@register_for("volume")
def swin_unetr_btcv(**kwargs: Any) -> nn.Module:
    """For the published BTCV checkpoint: 13 organs and background in CT."""
    return _build(**{**_VARIANTS["swin_unetr_btcv"], **kwargs})
