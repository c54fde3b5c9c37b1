from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from timm.models.densenet import DenseLayer
from torch import nn

from sinet.deployment.export import export_network
from sinet.layers import IBN
from sinet.models.ibnnet import convert

from .tester import ModelTester, create, images


class TestIBNNet(ModelTester):
    module = "ibnnet"
    # the authors print errors only; multiply-adds are given where their code was counted
    # DenseNet-121: convolutions and the classifier; the 2.87 G of other counts include its norms
    figures: ClassVar = {
        "ibn_test": (133_816, None),
        "resnet18_ibn_a": (11_689_512, 1.82e9),
        "resnet34_ibn_a": (21_797_672, None),
        "resnet50_ibn_a": (25_557_032, 4.11e9),
        "resnet101_ibn_a": (44_549_160, None),
        "resnet152_ibn_a": (60_192_808, None),
        "resnet18_ibn_b": (11_689_896, 1.82e9),
        "resnet34_ibn_b": (21_798_056, None),
        "resnet50_ibn_b": (25_558_568, None),
        "resnet101_ibn_b": (44_550_696, None),
        "resnet152_ibn_b": (60_194_344, None),
        "resnext101_ibn_a": (44_177_704, None),
        "se_resnet101_ibn_a": (49_292_328, 7.85e9),
        "densenet121_ibn_a": (7_978_856, 2.834e9),
        "densenet169_ibn_a": (14_149_480, None),
    }
    no_drop_path: ClassVar = dict.fromkeys(
        ("densenet121_ibn_a", "densenet169_ibn_a"), "maps are concatenated: none can be left out"
    )


DENSE = {"growth_rate": 8, "block_config": (4, 3, 3, 2)}
OTHERS = [("ibn_test", {"ibn": "b"}), ("densenet121_ibn_a", DENSE)]


def meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext101", "se_resnet101"])
def test_a_has_its_norms_after_the_first_convolutions_of_three_stages(name: str) -> None:
    model = meta(f"{name}_ibn_a")
    found = [n for n, m in model.named_modules() if isinstance(m, IBN)]
    assert len(found) == sum(len(s) for s in (model.layer1, model.layer2, model.layer3))
    assert all(n.endswith(".bn1") and not n.startswith("layer4") for n in found)
    assert all(m.instance_first for m in model.modules() if isinstance(m, IBN))
    assert isinstance(model.bn1, nn.BatchNorm2d)


@pytest.mark.parametrize(("name", "last", "extra"), [("18", "act2", 384), ("50", "act3", 1536)])
def test_b_has_its_norms_after_the_sum(name: str, last: str, extra: int) -> None:
    model, plain = meta(f"resnet{name}_ibn_b"), meta(f"resnet{name}")
    found = [n for n, m in model.named_modules() if isinstance(m, nn.InstanceNorm2d)]
    ends = [f"layer{i}.{len(getattr(model, f'layer{i}')) - 1}.{last}.norm" for i in (1, 2)]
    assert found == ["bn1", *ends]
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, plain)]
    assert counts[0] - counts[1] == extra


@pytest.mark.parametrize("name", ["resnet18", "resnet152", "densenet121", "densenet169"])
def test_a_costs_no_parameter(name: str) -> None:
    counts = [sum(p.numel() for p in meta(n).parameters()) for n in (name, f"{name}_ibn_a")]
    assert counts[0] == counts[1]


def test_dense_layers_have_batch_norm_first_in_every_third() -> None:
    model = meta("densenet121_ibn_a")
    for block in range(1, 5):
        layers = [m for m in model.get_submodule(f"features.denseblock{block}").values()]
        assert all(isinstance(layer, DenseLayer) for layer in layers)
        for i, layer in enumerate(layers):
            norm = getattr(layer.norm1, "norm", None)
            assert isinstance(norm, IBN) == (i % 3 == 0 and block < 4)
            if isinstance(norm, IBN):
                assert not norm.instance_first
                assert norm.parts[0] == int(0.6 * sum(norm.parts)) == norm.batch.num_features


@pytest.mark.parametrize(("name", "options"), OTHERS)
def test_the_other_kinds_do_what_the_battery_asks(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    """The battery's small network is of kind a and a ResNet; these are not."""
    model, x = create(name, **options), images(3)
    expected = model(x)
    alone = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)
    hidden = model.forward_head(model.forward_features(x), pre_logits=True)
    assert hidden.shape == (3, model.head_hidden_size)
    assert model.get_classifier()(hidden).equal(expected)
    assert model.drop_rate == 0
    maps = create(name, features_only=True, **options)(x)
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]
    assert create(name, in_chans=1, **options)(images(1, 1, 33, 47)).shape == (1, 10)
    path = export_network(model, 64, 3, tmp_path / "network.onnx")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=2e-4, rtol=2e-4)
    gradients = []
    for enable in (False, True):
        model = create(name, **options).train()
        model.set_grad_checkpointing(enable)
        assert model.grad_checkpointing == enable
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    assert all(gradient.any() for gradient in gradients[0])
    assert model.no_weight_decay() == set()


def test_authors_names_are_told_apart() -> None:
    one, two = torch.zeros(1), torch.zeros(4, 8)
    theirs = {
        "bn1.weight": one,
        "layer1.0.bn1.IN.weight": one,
        "layer1.0.bn1.BN.running_mean": one,
        "layer1.1.IN.bias": one,
        "layer2.1.conv3.weight": one,
        "layer2.1.IN.bias": one,
        "layer1.0.se.fc.0.weight": two,
        "layer1.0.se.fc.2.weight": two.t(),
        "features.denseblock1.denselayer1.norm1.BN.weight": one,
        "features.denseblock1.denselayer1.norm1.IN.weight": one,
    }
    ours = convert(theirs)
    assert list(ours) == [
        "bn1.weight",
        "layer1.0.bn1.instance.weight",
        "layer1.0.bn1.batch.running_mean",
        "layer1.1.act2.norm.bias",
        "layer2.1.conv3.weight",
        "layer2.1.act3.norm.bias",
        "layer1.0.se.fc1.weight",
        "layer1.0.se.fc2.weight",
        "features.denseblock1.denselayer1.norm1.norm.batch.weight",
        "features.denseblock1.denselayer1.norm1.norm.instance.weight",
    ]
    assert ours["layer1.0.se.fc1.weight"].shape == (4, 8, 1, 1)
    assert convert(ours) == ours
