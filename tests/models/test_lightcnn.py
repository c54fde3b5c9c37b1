from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from sinet.errors import UsageError
from sinet.models.lightcnn import LightCNN

from .tester import ModelTester, create, images


class TestLightcnn(ModelTester):
    module = "lightcnn"
    figures: ClassVar = {
        "lightcnn_test": (2_670, None),
        "lightcnn": (14_862, 462_048),
        "lightcnn_cifar": (19_758, None),
    }
    no_drop_path: ClassVar = dict.fromkeys(figures, "no layer has a way around it")
    size = 28
    last_map = ()
    fixed_size = True
    oblong = ()

    def images(self, batch: int = 2, channels: int = 3, *shape: int) -> torch.Tensor:
        # the networks are made for grey images; only test_in_chans asks for another number
        return super().images(batch, 1 if channels == 3 else channels, *shape)

    def create(self, name: str, **kwargs: Any) -> nn.Module:
        if name == "lightcnn_cifar" and "in_chans" not in kwargs:
            kwargs["in_chans"] = 1
        return super().create(name, **kwargs)

    def side(self, size: int, reduction: int) -> int:
        while reduction > 1:  # convolutions without padding, then poolings that round down
            size, reduction = (size - 2) // 2, reduction // 2
        return size

    def test_save_pretrained_round_trip(self, name: str, tmp_path: Path) -> None:
        """At each network's own size and number of channels, which differ in this family."""
        model = create(name)
        save_for_hf(model, str(tmp_path), safe_serialization=True)
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        channels, height, width = model.pretrained_cfg["input_size"]
        x = images(2, channels, height, width)
        assert again(x).equal(model(x))


def branch_of(model: LightCNN, which: int) -> nn.Sequential:
    """One branch as the article draws it: plain convolutions and dense layers."""
    layers: list[nn.Module] = []
    for stage in model.stages:
        conv = stage[0]
        out = conv.out_channels // 2
        plain = nn.Conv2d(conv.weight.shape[1], out, 3)
        plain.weight.data = conv.weight.data.chunk(2)[which]
        plain.bias.data = conv.bias.data.chunk(2)[which]
        layers += [plain, nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    for grouped, act in ((model.dense[0], nn.ReLU()), (model.votes, nn.Softmax(1))):
        weight = grouped.weight.data.chunk(2)[which].flatten(1)
        dense = nn.Linear(weight.shape[1], weight.shape[0])
        dense.weight.data, dense.bias.data = weight, grouped.bias.data.chunk(2)[which]
        layers += [dense, act]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("name", ["lightcnn", "lightcnn_cifar"])
def test_groups_compute_two_branches_and_a_head(name: str) -> None:
    model = create(name).double()
    channels, height, width = model.pretrained_cfg["input_size"]
    x = torch.randn(3, channels, height, width, dtype=torch.double)
    branches = [branch_of(model, which).double() for which in (0, 1)]
    if name == "lightcnn":
        assert [sum(p.numel() for p in b.parameters()) for b in branches] == [6_930, 6_930]
    voted = torch.cat([branch(x) for branch in branches], 1)
    expected = model.fc(model.mix(voted))
    torch.testing.assert_close(model(x), expected, atol=1e-12, rtol=1e-12)


def test_each_branch_sees_its_own_image() -> None:
    model = create("lightcnn")
    image, altered = images(4, 1, 28, 28).chunk(2)
    first, second = model.branch_logits(image, altered).unbind(1)
    same = model.branch_logits(image, image).unbind(1)
    torch.testing.assert_close(first, same[0])
    assert not torch.allclose(second, same[1])


def test_branches_start_like_networks_of_their_own() -> None:
    torch.manual_seed(0)
    model = timm.create_model("lightcnn", widths=(8, 64, 64))
    conv = model.stages[1][0]
    bound = (6 / (9 * (8 + 64))) ** 0.5  # Glorot's, with one branch's fan-in and fan-out
    assert 0.9 * bound < conv.weight.abs().max().item() <= bound


def test_a_new_classifier_leaves_the_branches_alone() -> None:
    model = create("lightcnn")
    model.reset_classifier(7)
    assert model.branch_classes == 10
    assert create("lightcnn", num_classes=7).branch_classes == 7


def test_too_small_images_are_refused() -> None:
    with pytest.raises(UsageError, match="no map"):
        LightCNN(img_size=16)
