from __future__ import annotations

from typing import Any, ClassVar

import timm
import torch
from torch import nn

from sinet.layers import FDConv2d
from sinet.models.fdconv import convert

from .tester import ModelTester, images


class TestFDConv(ModelTester):
    module = "fdconv"
    # the counts of the authors' code are of backbones: 11,745,712 and 27,155,152, without the
    # classifier; the paper prints what a detector has more, and no multiply-adds of a classifier
    figures: ClassVar = {
        "fdconv_test": (177_576, None),
        "fdconv_resnet18": (11_745_712 + 513_000, None),
        "fdconv_resnet50": (27_155_152 + 2_049_000, None),
        "fdconv_resnet101": (52_048_378, None),
    }

    def create(self, name: str, **kwargs: Any) -> nn.Module:
        """As usual; but a hundred layers of random norms reach 1e19, whose square overflows."""
        if name == "fdconv_resnet101":
            return timm.create_model(name, **{"num_classes": 10, **kwargs}).eval()
        return super().create(name, **kwargs)

    def test_gradient_reaches_every_parameter(self, name: str) -> None:
        """The lowest bands are empty on maps of fewer than 8 x 8 positions, 256 px here."""
        model = self.create(name).train()
        model(images(2, 3, 256, 256)).square().sum().backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any(), parameter_name


def meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


def test_only_the_blocks_own_convolutions_are_dynamic() -> None:
    model = meta("fdconv_resnet50")
    dynamic = {n for n, m in model.named_modules() if isinstance(m, FDConv2d)}
    expected = {n for n, _ in meta("resnet50").named_modules() if n.startswith("layer")}
    assert dynamic == {n for n in expected if n.rpartition(".")[2].startswith("conv")}
    assert len(dynamic) == 48
    assert all(model.get_submodule(n).kernel_num == 64 for n in dynamic)


def test_extra_parameters_are_those_of_the_paper() -> None:
    counts = [sum(p.numel() for p in meta(n).parameters()) for n in ("fdconv_resnet50", "resnet50")]
    assert counts[0] - counts[1] == 3_647_120


def test_narrow_convolutions_stay() -> None:
    options = {"channels": (16, 24, 32, 48)}
    with torch.device("meta"):
        model = timm.create_model("fdconv_test", **options)
    assert isinstance(model.layer1[0].conv1, nn.Conv2d)
    assert isinstance(model.layer2[0].conv1, nn.Conv2d)
    assert isinstance(model.layer2[0].conv2, FDConv2d)


def test_authors_names_are_told_apart() -> None:
    one = torch.zeros(1)
    theirs = {
        "layer1.0.conv1.dft_weight": torch.zeros(1, 4, 3, 2),
        "layer1.0.conv1.KSM_Global.bn.running_var": one,
        "layer1.0.conv1.KSM_Global.relu.bias": one,
        "layer1.0.conv1.KSM_Global.kernel_fc.bias": one,
        "layer1.0.conv1.KSM_Local.norm.weight": one,
        "layer1.0.conv1.FBM.freq_weight_conv_list.2.bias": one,
    }
    ours = convert(theirs)
    prefix = "layer1.0.conv1."
    assert [key.removeprefix(prefix) for key in ours] == [
        "dft_weight",
        "modulation.fc.bn.running_var",
        "modulation.shift",
        "modulation.kernel.bias",
        "local.norm.weight",
        "bands.convs.2.bias",
    ]
    assert ours[f"{prefix}dft_weight"].shape == (4, 3, 2)
    assert convert(ours) == ours
