"""H-DenseUNet: a 2-D DenseUNet for the slice, a thin 3-D one for the third axis, fused at the end.

"H-DenseUNet: Hybrid Densely Connected UNet for Liver and Tumor Segmentation from CT Volumes",
arXiv:1709.07330 (IEEE TMI 2018). The authors' Keras code (github.com/xmengli/H-DenseUNet) has no
licence: this is written from a description of it. For a volume V, its slices i and the 2-D net f,

    (s_i, u_i) = f(V_{i-1}, V_i, V_{i+1})       scores and last map of every slice (ends repeated)
    u'         = g([V, 250 s])                  auto-context: raw scores, brought to the range of V
    out        = HFF(u + u')                    hybrid feature fusion: convolution, norm, classes

Different from the paper: the released hybrid has no connections from encoder to decoder, the
paper's figure has them; they are `skips` here (additions, and in the 2-D net only). The last map of
the stand-alone 2-D net is dropped out at 0.3 while training, that inside the hybrid is not.

    network               parameters   multiply-adds
    hdenseunet_2d         49.7 M       18.6 G at 3 x 224 x 224
    hdenseunet_2d_noskip  45.1 M       17.7 G at 3 x 224 x 224
    hdenseunet            61.2 M       302.9 G at 224 x 224 x 8

Reported on LiTS: Dice per case 72.2 (lesion), 96.1 (liver). Inputs are Hounsfield units clipped to
[-200, 250], minus 48, not divided. Everything returns logits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.models._networks import register_for

__all__ = ["DenseUNet2d", "DenseUNet3d", "HDenseUNet", "load_encoder"]

CONTEXT_SCALE = 250.0
"""What scores are multiplied by to have the range of Hounsfield units."""

Stage = Literal["free", "fusion", "end_to_end"]

_OPS: dict[int, tuple[type[nn.Module], ...]] = {
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AvgPool3d),
}


class NormScaleReLU(nn.Module):
    """`relu(weight * bn(x) + bias)`: as in Caffe, a scale and shift besides those of the norm.

    Shape: (B, C, ...) -> (B, C, ...)
    """

    def __init__(self, chs: int, dims: int) -> None:
        super().__init__()
        self.bn = _OPS[dims][1](chs, eps=1.1e-5)
        self.weight = nn.Parameter(torch.ones(chs))
        self.bias = nn.Parameter(torch.zeros(chs))
        self.shape = (chs, *(1,) * dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize, scale, rectify."""
        x = self.bn(x)
        return F.relu(x * self.weight.view(self.shape) + self.bias.view(self.shape))

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """The same with both scales in one norm; `timm.utils.reparameterize_model` calls this."""
        old = cast(nn.BatchNorm3d, self.bn)
        bn = type(old)(old.num_features, eps=old.eps).to(self.weight).train(self.training)
        bn.load_state_dict(old.state_dict())
        bn.weight.mul_(self.weight)
        bn.bias.mul_(self.weight).add_(self.bias)
        return nn.Sequential(bn, nn.ReLU())


class DenseLayer(nn.Module):
    """`[x, conv3(act(conv1(act(x))))]`, by way of 4 `growth` channels.

    Shape: (B, C, ...) -> (B, C + growth, ...)
    """

    def __init__(self, in_chs: int, growth: int, dims: int) -> None:
        super().__init__()
        conv = _OPS[dims][0]
        self.act1 = NormScaleReLU(in_chs, dims)
        self.conv1 = conv(in_chs, 4 * growth, 1, bias=False)
        self.act2 = NormScaleReLU(4 * growth, dims)
        self.conv2 = conv(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Append `growth` channels."""
        return torch.cat([x, self.conv2(self.act2(self.conv1(self.act1(x))))], dim=1)


class Transition(nn.Module):
    """Halve the channels and, in the slice's plane only, the size.

    Shape: (B, C, H, W[, Z]) -> (B, C / 2, H / 2, W / 2[, Z])
    """

    def __init__(self, in_chs: int, dims: int) -> None:
        super().__init__()
        conv, _, _, average = _OPS[dims]
        self.act = NormScaleReLU(in_chs, dims)
        self.conv = conv(in_chs, in_chs // 2, 1, bias=False)
        self.pool = average((2, 2, 1)[:dims])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix the channels, then average."""
        return self.pool(self.conv(self.act(x)))  # type: ignore[no-any-return]


class Up(nn.Module):
    """`relu(bn(dropout(conv3(nearest(x) + skip))))`.

    Shape: (B, in_chs, H, W[, Z]) -> (B, out_chs, scale * H, ...)
    """

    def __init__(
        self, in_chs: int, out_chs: int, scale: tuple[float, ...], drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        conv, norm, _, _ = _OPS[len(scale)]
        self.scale = scale
        self.conv = conv(in_chs, out_chs, 3, padding=1)
        self.drop = nn.Dropout(drop_rate)
        self.bn = norm(out_chs, eps=1e-3)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """Enlarge, add what the encoder saw at this size, convolve."""
        x = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        x = x if skip is None else x + skip
        return F.relu(self.bn(self.drop(self.conv(x))))


class _DenseUNet(nn.Module):
    """What the 2-D and the 3-D network share: a DenseNet, then five steps back to full size."""

    dims: int
    multiples: tuple[int, ...]
    """What each side of the input must be a multiple of."""

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        depths: Sequence[int],
        growth: int,
        stem_width: int,
    ) -> None:
        super().__init__()
        conv, _, pool, _ = _OPS[self.dims]
        self.num_classes, self.in_chans = num_classes, in_chans
        self.conv = conv(in_chans, stem_width, 7, stride=2, padding=3, bias=False)
        self.act = NormScaleReLU(stem_width, self.dims)
        self.pool = pool(3, stride=2, padding=1)
        self.stages, self.transitions = nn.ModuleList(), nn.ModuleList()
        self.widths = [stem_width]  # of the maps before each halving: stem, then dense blocks
        width = stem_width
        for depth in depths:
            layers = [DenseLayer(width + i * growth, growth, self.dims) for i in range(depth)]
            self.stages.append(nn.Sequential(*layers))
            width += depth * growth
            self.widths.append(width)
            if len(self.stages) < len(depths):
                self.transitions.append(Transition(width, self.dims))
                width //= 2
        self.top = NormScaleReLU(width, self.dims)

    def set_decoder(
        self, widths: Sequence[int], scales: Sequence[tuple[float, ...]], drop_rate: float
    ) -> None:
        """Attach the decoder, dropout in its last step, and the classifier (none for 0 classes)."""
        drops = [*[0.0] * (len(widths) - 1), drop_rate]
        ins = [self.widths[-1], *widths[:-1]]
        self.ups = nn.ModuleList(map(Up, ins, widths, scales, drops))
        conv = _OPS[self.dims][0]
        self.classifier = conv(widths[-1], self.num_classes, 1) if self.num_classes else None
        self.apply(_init)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The smallest map, and those before each halving from the finest on."""
        _check_size(x, self.multiples)
        x = self.act(self.conv(x))
        maps = [x]
        x = self.pool(x)
        for stage, transition in zip(self.stages, self.transitions, strict=False):
            x = stage(x)  # zip ends before the last stage, which no transition follows
            maps.append(x)
            x = transition(x)
        return self.top(self.stages[-1](x)), maps

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """The last map, at full size."""
        x, _ = self.encode(x)
        for up in self.ups:
            x = up(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of every class at every position (features where there are no classes)."""
        x = self.forward_features(x)
        return x if self.classifier is None else self.classifier(x)


class DenseUNet2d(_DenseUNet):
    """DenseUNet-167: DenseNet-161 with a decoder, over slices with their two neighbours.

    Shape: (B, in_chans, H, W) -> (B, num_classes, H, W), H and W multiples of 32.
    """

    dims, multiples = 2, (32, 32)

    def __init__(
        self,
        num_classes: int = 3,
        in_chans: int = 3,
        depths: Sequence[int] = (6, 12, 36, 24),
        growth: int = 48,
        stem_width: int = 96,
        width: int = 64,
        skips: bool = True,
        drop_rate: float = 0.3,
    ) -> None:
        """Build the network.

        Args:
            num_classes: maps of scores; 0 leaves the classifier out.
            in_chans: slices that are looked at together.
            depths: layers of the four dense blocks.
            growth: channels that a layer appends.
            stem_width: channels of the first convolution.
            width: channels of the last map.
            skips: add the encoder's maps in the decoder, as in the paper's figure.
            drop_rate: dropout before the last norm.
        """
        super().__init__(num_classes, in_chans, depths, growth, stem_width)
        stem, first, second, third, top = self.widths
        self.skips = skips
        self.lateral = nn.Conv2d(third, top, 1) if skips else None
        self.set_decoder((second, first, stem, stem, width), [(2.0, 2.0)] * 5, drop_rate)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """The last map, at full size."""
        if self.lateral is None:
            return super().forward_features(x)
        x, (stem, first, second, third) = self.encode(x)
        skips = (self.lateral(third), second, first, stem, None)
        for up, skip in zip(self.ups, skips, strict=True):
            x = up(x, skip)
        return x

    def forward_both(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and the map that they are made of."""
        features = self.forward_features(x)
        assert self.classifier is not None
        return self.classifier(features), features


class DenseUNet3d(_DenseUNet):
    """DenseUNet-65: a thin 3-D network that halves the third axis twice only, before its blocks.

    Shape: (B, in_chans, H, W, Z) -> (B, num_classes, H, W, Z), or the last map (B, width, H, W, Z)
    where there are no classes; H and W multiples of 32, Z of 4.
    """

    dims, multiples = 3, (32, 32, 4)

    def __init__(
        self,
        num_classes: int = 3,
        in_chans: int = 1,
        depths: Sequence[int] = (3, 4, 12, 8),
        growth: int = 32,
        stem_width: int = 96,
        width: int = 64,
        drop_rate: float = 0.0,
    ) -> None:
        """Build the network; the arguments are those of `DenseUNet2d`."""
        super().__init__(num_classes, in_chans, depths, growth, stem_width)
        stem, first, second, _, top = self.widths
        flat, deep = (2.0, 2.0, 1.0), (2.0, 2.0, 2.0)
        scales = (flat, flat, flat, deep, deep)
        self.set_decoder((top, second, first, stem, width), scales, drop_rate)


class HDenseUNet(nn.Module):
    """The hybrid: 2-D scores become input of the 3-D network, both last maps are added and fused.

    Shape: (B, in_chans, H, W, Z) -> (B, num_classes, H, W, Z); H and W multiples of 32, Z of 4.
    """

    def __init__(
        self,
        num_classes: int = 3,
        in_chans: int = 1,
        planar: Mapping[str, Any] | None = None,
        volume: Mapping[str, Any] | None = None,
        width: int = 64,
        skips: bool = False,
        drop_rate: float = 0.3,
    ) -> None:
        """Build the network.

        Args:
            num_classes: maps of scores, of the 2-D part too.
            in_chans: channels of the volume.
            planar: depths, growth and stem_width of the 2-D network, where not the published ones.
            volume: those of the 3-D network.
            width: channels of the maps that are fused.
            skips: of the 2-D network; the released hybrid has none.
            drop_rate: dropout in the fusion: 0.3 end to end, 0.1 while only it and 3-D are trained.
        """
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.net2d = DenseUNet2d(
            num_classes, 3 * in_chans, width=width, skips=skips, drop_rate=0.0, **(planar or {})
        )
        self.net3d = DenseUNet3d(0, in_chans + num_classes, width=width, **(volume or {}))
        self.fusion = Up(width, width, (1.0, 1.0, 1.0), drop_rate)
        self.classifier = nn.Conv3d(width, num_classes, 1)
        self.fusion.apply(_init)
        self.stage: Stage = "free"

    def set_stage(self, stage: Stage) -> HDenseUNet:
        """Choose what is trained, as the published schedule does after training the 2-D net alone.

        Args:
            stage: "fusion" trains the 3-D network and the fusion, the 2-D network stays as it is
                with its statistics; "end_to_end" trains all weights but the norms of the 2-D
                network and of the 3-D dense layers, whose statistics stay; "free" fixes nothing.
        """
        if stage not in ("free", "fusion", "end_to_end"):
            raise UsageError(f"unknown stage {stage!r}; give 'free', 'fusion' or 'end_to_end'")
        self.stage = stage
        self.requires_grad_(True)
        self.net2d.requires_grad_(stage != "fusion")
        for norm in self._fixed_norms():
            norm.requires_grad_(False)
        return self.train(self.training)

    def _fixed_norms(self) -> list[nn.Module]:
        """Norms that keep their statistics in this stage."""
        parts: list[nn.Module] = [] if self.stage == "free" else [self.net2d]
        parts += [self.net3d.stages] if self.stage == "end_to_end" else []
        norms = (nn.BatchNorm2d, nn.BatchNorm3d)
        return [module for part in parts for module in part.modules() if isinstance(module, norms)]

    def train(self, mode: bool = True) -> HDenseUNet:
        """Training mode, except for what the stage fixes."""
        super().train(mode)
        for norm in self._fixed_norms():
            norm.eval()
        return self

    def forward_planar(self, volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and last maps of the 2-D network, slice by slice: (B, *, H, W, Z) both."""
        slices = volume.shape[-1]
        ends = torch.cat([volume[..., :1], volume, volume[..., -1:]], dim=-1)
        triples = torch.cat([ends[..., i : slices + i] for i in range(3)], dim=1)
        both = self.net2d.forward_both(triples.permute(0, 4, 1, 2, 3).flatten(0, 1))
        scores, features = (
            x.unflatten(0, (-1, slices)).permute(0, 2, 3, 4, 1).contiguous() for x in both
        )
        return scores, features

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Scores of every class at every voxel."""
        _check_size(volume, self.net3d.multiples)
        scores, planar = self.forward_planar(volume)
        spatial = self.net3d(torch.cat([volume, CONTEXT_SCALE * scores], dim=1))
        return self.classifier(self.fusion(spatial + planar))  # type: ignore[no-any-return]


def _init(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_size(x: torch.Tensor, multiples: tuple[int, ...]) -> None:
    """Refuse what the network would return in another size."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return  # sizes are tensors there, and were checked on the way in
    names = "HWZ"[: len(multiples)]
    if x.ndim != len(multiples) + 2:
        raise UsageError(f"the input has {x.ndim} axes; give (batch, channels, {', '.join(names)})")
    sides = tuple(x.shape[2:])
    if any(side % multiple for side, multiple in zip(sides, multiples, strict=True)):
        fit = [-(-side // multiple) * multiple for side, multiple in zip(sides, multiples)]  # noqa: B905
        rule = ", ".join(f"{name} of {m}" for name, m in zip(names, multiples, strict=True))
        raise UsageError(
            f"{' x '.join(map(str, sides))} does not fit; sides must be multiples ({rule}): "
            f"pad to {' x '.join(map(str, fit))}"
        )


_NAMES = (
    (r"^conv1\.", "conv."),
    (r"^conv1_bn\.", "act.bn."),
    (r"^conv1_scale\.", "act."),
    (r"^conv5_blk_bn\.", "top.bn."),
    (r"^conv5_blk_scale\.", "top."),
    (r"^conv_up(\d)\.", r"ups.\1.conv."),
    (r"^bn_up(\d)\.", r"ups.\1.bn."),
    (r"^line0\.", "lateral."),
    (r"^(dense167)?classifer\w*\.", "classifier."),
)
_PARTS = {"_bn": "act{}.bn", "_scale": "act{}", "": "conv{}"}
_FUSION = {"fianl_conv": "fusion.conv", "final_bn": "fusion.bn", "2d3dclassifer": "classifier"}


def _rename(key: str) -> str:
    """The authors' name of a layer's tensor inside the 2-D or 3-D network -> ours."""
    if found := re.match(r"^conv(\d)_(\d+)_x([12])(_bn|_scale|)\.(\w+)$", key):
        stage, layer, place, part, leaf = found.groups()
        name = _PARTS[part].format(place)
        return f"stages.{int(stage) - 2}.{int(layer) - 1}.{name}.{leaf}"
    if found := re.match(r"^conv([234])_blk(_bn|_scale|)\.(\w+)$", key):
        stage, part, leaf = found.groups()
        return f"transitions.{int(stage) - 2}.{_PARTS[part].format('')}.{leaf}"
    for pattern, ours in _NAMES:
        if re.match(pattern, key):
            return re.sub(pattern, ours, key)
    return key


def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layer names of the authors' Keras files, tensors in PyTorch's layout -> ours."""
    volume = "3dconv1.weight" in state
    if not volume and "conv1_bn.weight" not in state:
        return state
    hybrid = volume and "conv1.weight" in state
    renamed = {}
    for key, value in state.items():
        layer, _, leaf = key.partition(".")
        if layer in _FUSION:
            renamed[f"{_FUSION[layer]}.{leaf}"] = value
        else:
            net = "" if not hybrid else "net3d." if key.startswith("3d") else "net2d."
            renamed[net + _rename(key.removeprefix("3d"))] = value
    return renamed


def load_encoder(model: nn.Module, state: Mapping[str, torch.Tensor]) -> int:
    """Start the 2-D encoder from a DenseNet-161 of timm or torchvision, as was published.

    Args:
        model: a `DenseUNet2d`, or an `HDenseUNet` for its 2-D network.
        state: the tensors of the DenseNet; its classifier is left out.

    Returns:
        How many tensors were loaded.

    Raises:
        UsageError: the tensors are not those of this encoder.
    """
    net = model.net2d if isinstance(model, HDenseUNet) else model
    names = {"conv0": "conv", "norm0": "act.bn", "norm5": "top.bn"}
    ours = net.state_dict()
    found = {}
    for key, value in state.items():
        name = key.removeprefix("features.")
        if name.startswith("classifier") or not value.is_floating_point():
            continue
        name = re.sub(
            r"^denseblock(\d)\.denselayer(\d+)\.",
            lambda m: f"stages.{int(m[1]) - 1}.{int(m[2]) - 1}.",
            re.sub(r"^(conv0|norm0|norm5)", lambda m: names[m[1]], name),
        )
        name = re.sub(r"^transition(\d)\.", lambda m: f"transitions.{int(m[1]) - 1}.", name)
        name = re.sub(r"\bnorm(\d?)\.", r"act\1.bn.", name)
        if name not in ours or ours[name].shape != value.shape:
            raise UsageError(
                f"{key} has no place in {type(net).__name__}; give the weights of a DenseNet with "
                "the depths and growth of this network (densenet161 for the published ones)"
            )
        found[name] = value
    net.load_state_dict(found, strict=False)
    return len(found)


_TEST_2D: dict[str, Any] = {"depths": (1, 2, 2, 1), "growth": 8, "stem_width": 16}
_TEST_3D: dict[str, Any] = {"depths": (1, 1, 2, 1), "growth": 8, "stem_width": 16}


@register_for("volume")
def hdenseunet_test(**kwargs: Any) -> nn.Module:
    """For tests: a narrow hybrid."""
    return HDenseUNet(**{"planar": _TEST_2D, "volume": _TEST_3D, "width": 16, **kwargs})


@register_for("volume")
def hdenseunet(**kwargs: Any) -> nn.Module:
    """The hybrid as released: DenseUNet-167 without skips, DenseUNet-65, fusion."""
    return HDenseUNet(**kwargs)


@register_for("volume")
def hdenseunet_skip(**kwargs: Any) -> nn.Module:
    """The hybrid as the paper draws it, the encoder's maps added in its 2-D decoder."""
    return HDenseUNet(**{"skips": True, **kwargs})


@register_for("segment", "volume")
def hdenseunet_2d(**kwargs: Any) -> nn.Module:
    """DenseUNet-167 with additive skips."""
    return DenseUNet2d(**kwargs)


@register_for("segment", "volume")
def hdenseunet_2d_noskip(**kwargs: Any) -> nn.Module:
    """DenseUNet-167 without skips, the one inside the released hybrid."""
    return DenseUNet2d(**{"skips": False, **kwargs})


@register_for("volume")
def hdenseunet_3d(**kwargs: Any) -> nn.Module:
    """DenseUNet-65 alone, with a classifier of its own."""
    return DenseUNet3d(**kwargs)
