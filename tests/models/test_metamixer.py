from __future__ import annotations

import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import LayerScale2d
from timm.utils import reparameterize_model
from torch import nn

from sinet.errors import UsageError
from sinet.layers.ffnified_attention import RepDepthwise
from sinet.measurement.cost import cost
from sinet.models import create_network, list_networks, load_state, load_weights
from sinet.models.metamixer import FFNetSR, NormConvSkip

from .tester import ModelTester, create, images, lively


class TestFFNet(ModelTester):
    module = "metamixer"
    # the training form, which has a second kernel beside each of 7 x 7; the published multiply-adds
    # are those of the merged form: all in tests/papers/test_published.py, two more closely below
    figures: ClassVar = {
        "ffnet_test": (402_872, None),
        "ffnet_1": (13_775_656, 3_000_681_472),
        "ffnet_2": (27_208_408, 6_060_932_608),
        "ffnet_3": (48_817_896, 10_235_590_656),
        "ffnet_4": (79_868_968, 43_422_097_408),
    }


def filled(module: nn.Module) -> nn.Module:
    """Random everywhere, as layer scales start at nothing."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.3)
    return lively(module).eval().double()


@pytest.mark.parametrize(
    ("name", "params", "gmacs"), [("ffnet_1", 13.66, 2.98), ("ffnet_2", 26.91, 6.00)]
)
def test_merged_form_has_the_published_cost(name: str, params: float, gmacs: float) -> None:
    found = cost(reparameterize_model(timm.create_model(name)), 256)
    assert found.params / 1e6 == pytest.approx(params, abs=0.005)
    assert found.macs / 1e9 == pytest.approx(gmacs, abs=0.01)


def test_network_merges_exactly() -> None:
    model = filled(timm.create_model("ffnet_test", num_classes=10))
    x = images(2, 3, 64, 80).double()
    merged = reparameterize_model(model)
    torch.testing.assert_close(merged(x), model(x), atol=1e-12, rtol=1e-12)
    norms = [name for name, m in merged.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == ["norm"]


def test_skip_is_taken_into_the_convolution() -> None:
    layer = filled(NormConvSkip(6))
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(layer.fuse()(x), layer(x), atol=1e-12, rtol=1e-12)


def test_merged_weights_load_into_a_merged_network() -> None:
    merged = reparameterize_model(create("ffnet_test"))
    other = reparameterize_model(timm.create_model("ffnet_test", num_classes=10)).eval()
    load_state(other, merged.state_dict(), "merged")
    assert other(images(1)).equal(merged(images(1)))


@pytest.mark.parametrize(
    ("name", "channel_large", "layer_scale"),
    [("ffnet_1", False, False), ("ffnet_2", True, False), ("ffnet_3", True, True)],
)
def test_variants_differ_as_published(name: str, channel_large: bool, layer_scale: bool) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    large = [isinstance(stage[-1].mixer.keys, RepDepthwise) for stage in model.stages]
    assert large == [False, False, True, True]
    assert isinstance(model.stages[0][0].mlp.dw, RepDepthwise) == channel_large
    assert isinstance(model.stages[0][0].ls1, LayerScale2d) == layer_scale


def test_super_resolution_starts_from_repeated_pixels() -> None:
    net = FFNetSR(scale=3, dim=8, depth=2).eval()
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    x = torch.randn(1, 3, 5, 7)
    larger = nn.functional.interpolate(x, scale_factor=3, mode="nearest")
    assert net(x).equal(larger)


def super_resolution() -> nn.Module:
    torch.manual_seed(0)
    return create_network("ffnet_sr_test").eval()


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        # the light network as recorded; the other has twelve blocks more
        ("ffnet_sr_light_x2", 1_789_452, 1_355_636_736),
        ("ffnet_sr_x2", 2_381_580, 1_804_197_888),
        ("ffnet_sr_test", 5_836, None),
    ],
)
def test_super_resolution_cost(name: str, params: int, macs: int | None) -> None:
    with torch.device("meta"):
        model = create_network(name)
    found = cost(model, (24, 32))
    assert found.params == params
    if macs is not None:
        assert found.macs == macs
    assert len(list_networks("ffnet_sr*")) == 3


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (9, 23)])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_super_resolution_of_any_size(scale: int, size: tuple[int, int], in_chans: int) -> None:
    model = create_network("ffnet_sr_test", scale=scale, in_chans=in_chans).eval()
    larger = model(images(2, in_chans, *size))
    assert larger.shape == (2, in_chans, scale * size[0], scale * size[1])
    assert larger.isfinite().all()


def test_super_resolution_gradients_and_precision() -> None:
    model, x = super_resolution(), images(2, 3, 8, 9)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    plain, alone = model(x), torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(plain, alone, atol=1e-5, rtol=1e-5)
    exact = model.double()(x.double())
    torch.testing.assert_close(plain.double(), exact, atol=1e-3, rtol=1e-3)


def test_super_resolution_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    model, x = super_resolution(), images(1, 3, 8, 9)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)


def test_super_resolution_in_onnx_runtime(tmp_path: Path) -> None:
    model, path = super_resolution(), str(tmp_path / "model.onnx")
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = images(1, 3, 8, 9)
        torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 8, 9), (2, 3, 13, 6)):
        x = images(*shape)
        (larger,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(larger, model(x).detach().numpy(), atol=2e-4, rtol=2e-4)


def test_super_resolution_weights_round_trip(tmp_path: Path) -> None:
    model, other = super_resolution(), create_network("ffnet_sr_test").eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    x = images(1, 3, 8, 9)
    assert other(x).equal(model(x))
    with pytest.raises(UsageError, match="does not fit FFNetSR"):
        load_state(create_network("ffnet_sr_test", scale=3), model.state_dict(), "x2")
