from __future__ import annotations

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.errors import UsageError
from sinet.heads import SiNetPyramid


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("sinet_test", 64),
        ("sinet_test", 75),
        ("minspnet_minimal", 64),
        ("test_resnet", 75),
        ("test_vit", 160),  # maps of one size
        ("test_efficientnet", 97),
    ],
)
def test_takes_any_backbone(name: str, size: int) -> None:
    backbone = timm.create_model(name, features_only=True).eval()
    neck = SiNetPyramid(backbone, width=16).eval()
    features = backbone(torch.randn(1, 3, size, size))
    maps = neck(features)
    assert neck.reductions == backbone.feature_info.reduction()
    assert [m.shape for m in maps] == [(1, 16, *f.shape[2:]) for f in features]


def test_takes_channels_last_backbones() -> None:
    backbone = timm.create_model(
        "swin_tiny_patch4_window7_224", features_only=True, depths=(1,) * 4
    )
    features = [torch.randn(1, 8 * 2**i, 8 >> i, 8 >> i) for i in range(4)]
    sizes = zip(backbone.feature_info.channels(), (8, 4, 2, 1), strict=True)
    features = [torch.randn(1, side, side, channels) for channels, side in sizes]
    maps = SiNetPyramid(backbone, width=16).eval()(features)
    assert [m.shape for m in maps] == [(1, 16, side, side) for side in (8, 4, 2, 1)]


def test_every_output_hears_every_input() -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("sinet_test", features_only=True)
    neck = SiNetPyramid(backbone, width=16)
    features = [f.detach().requires_grad_() for f in backbone(torch.randn(2, 3, 64, 64))]
    for out in neck(features):
        gradients = torch.autograd.grad(out.square().sum(), features, retain_graph=True)
        assert all(g.any() for g in gradients)


def test_reparameterize_changes_no_output() -> None:
    backbone = timm.create_model("sinet_test", features_only=True).eval()
    neck = SiNetPyramid(backbone, width=16)
    features = backbone(torch.randn(2, 3, 64, 64))
    neck(features)
    neck.eval()
    fused = reparameterize_model(neck)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    for a, b in zip(fused(features), neck(features), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_whole_classifiers_are_refused() -> None:
    with pytest.raises(UsageError, match="features_only=True"):
        SiNetPyramid(timm.create_model("sinet_test"))
