from __future__ import annotations

from typing import Any, ClassVar

import pytest
import timm
import torch
from torch import nn

from sinet.errors import UsageError
from sinet.models.snn import SNN, convert, snn_widths

from .tester import ModelTester, create


class TestSnn(ModelTester):
    module = "snn"
    figures: ClassVar = {
        "snn_test": (32_842, None),
        "snn_mlp": (535_818, 535_040),
        "snn_cnn": (6_609_674, 37.4e6),
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
        if name == "snn_cnn":
            kwargs = {"in_chans": 1, **kwargs}
        return super().create(name, **kwargs)

    def test_maps_of_every_variant(self, variant: str) -> None:
        with pytest.raises(UsageError, match=f"{variant} is fully connected and has no maps"):
            self.shapes(variant, features_only=True)
        assert self.shapes(variant)(self.shape_of_images()).shape == (1, 10)

    @pytest.mark.parametrize("odd", [False])
    def test_features_only_agrees_with_feature_info(self, name: str, odd: bool) -> None:
        with pytest.raises(UsageError, match="no maps"):
            self.create(name, features_only=True)

    def test_out_indices(self, name: str) -> None:
        with pytest.raises(UsageError, match="no maps"):
            self.create(name, features_only=True, out_indices=(1, 2))


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.5, 2.0)])
def test_a_hundred_layers_keep_mean_and_variance(mean: float, variance: float) -> None:
    torch.manual_seed(0)
    model = SNN(snn_widths(100, 256), img_size=16).eval()
    x = mean + variance**0.5 * torch.randn(512, 1, 16, 16)
    with torch.inference_mode():
        out = model.forward_features(x)
    assert abs(out.mean()) < 0.05
    assert out.var() == pytest.approx(1.0, abs=0.15)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    torch.manual_seed(0)
    layers = timm.create_model("snn_mlp").layers
    x = torch.randn(1000, 1000)
    dropped = layers[1].drop.train()(x)
    assert layers[1].drop.p == 0.05
    assert layers[0].drop.p == 0  # pixels are not dropped
    assert abs(dropped.mean()) < 0.01
    assert dropped.var() == pytest.approx(1.0, abs=0.01)
    assert dropped.min() < -1.5  # to SELU's lower limit, not to zero


def test_weights_are_lecun_normal() -> None:
    torch.manual_seed(0)
    for layer in (m for m in timm.create_model("snn_cnn").modules() if hasattr(m, "weight")):
        fan_in = layer.weight[0].numel()
        assert layer.weight.var().item() * fan_in == pytest.approx(1.0, rel=0.06)
        assert not layer.bias.any()


def test_widths() -> None:
    assert snn_widths(3, 64) == (64, 64, 64)
    assert snn_widths(4, 160, "conic", 10) == (160, 80, 40, 20)
    with pytest.raises(UsageError, match="conic"):
        snn_widths(3, 64, "conical")


def test_convolutional_names_are_converted() -> None:
    model = create("snn_cnn")
    numbered = zip((0, 3, 6, 9, 12, 15), ("convs.0", "convs.3", "convs.6", "layers.0.fc",
                   "layers.1.fc", "fc"), strict=True)  # fmt: skip
    state = {
        f"net.{number}.{leaf}": model.state_dict()[f"{place}.{leaf}"]
        for number, place in numbered
        for leaf in ("weight", "bias")
    }
    model.load_state_dict(convert(state), strict=True)
