from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sinet.errors import UsageError
from sinet.measurement.cost import cost
from sinet.models import create_network, list_networks, load_state, load_weights
from sinet.models.freenet import FreeNet, pad_scene

TEST = "freenet_test"


def network() -> nn.Module:
    torch.manual_seed(0)
    return create_network(TEST).eval()


def scene(batch: int = 1, height: int = 24, width: int = 40) -> torch.Tensor:
    return torch.randn(batch, 8, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "params", "gmacs", "size"),
    [
        ("freenet_paviau", 2_712_755, 110.7, (624, 352)),
        ("freenet_salinas", 2_800_922, 67.9, (512, 224)),
        ("freenet_houston", 2_748_953, 365.1, (352, 1920)),
        (TEST, 169_670, None, (16, 16)),
    ],
)
def test_cost(name: str, params: int, gmacs: float | None, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = create_network(name)
    found = cost(model, size, model.in_chans)
    assert found.params == params
    if gmacs is not None:
        assert found.macs / 1e9 == pytest.approx(gmacs, rel=0.005)


def test_every_variant_is_costed() -> None:
    assert len(list_networks("freenet*")) == 4


@pytest.mark.parametrize("size", [(8, 8), (24, 40), (56, 16)])
def test_scene_to_logits_of_every_pixel(size: tuple[int, int]) -> None:
    with torch.inference_mode():
        logits = network()(scene(1, *size))
    assert logits.shape == (1, 4, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(25, 40), (24, 41), (7, 7)])
def test_other_sizes_are_refused_and_can_be_padded(size: tuple[int, int]) -> None:
    x = scene(1, *size)
    fits = f"{-(-size[0] // 8) * 8} x {-(-size[1] // 8) * 8}"
    with pytest.raises(UsageError, match=f"{size[0]} x {size[1]} does not fit.*{fits}"):
        network()(x)
    padded = pad_scene(x)
    assert padded.shape[2] % 16 == padded.shape[3] % 16 == 0
    assert padded[..., : size[0], : size[1]].equal(x)
    assert padded.sum().item() == pytest.approx(x.sum().item(), abs=1e-3)
    assert network()(padded).isfinite().all()


def test_fitting_scenes_are_not_padded() -> None:
    x = scene(1, 32, 48)
    assert pad_scene(x).equal(x)


def test_published_padding_of_pavia() -> None:
    assert pad_scene(torch.empty(103, 610, 340)).shape == (103, 624, 352)


def test_training_and_evaluation_give_the_same_logits() -> None:
    model, x = network(), scene()
    assert model(x).equal(model.train()(x))


def test_gradient_reaches_every_parameter() -> None:
    model = network().train()
    model(scene(2)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_double_precision() -> None:
    model, x = network(), scene()
    plain = model(x).double()
    torch.testing.assert_close(plain, model.double()(x.double()), atol=1e-3, rtol=1e-3)


def test_scene_does_not_depend_on_its_batch() -> None:
    model, x = network(), scene(3)
    alone = torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(model(x), alone, atol=1e-5, rtol=1e-5)


def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    model, x = network(), scene()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)


def test_onnx_runtime_agrees(tmp_path: Path) -> None:
    model, path = network(), str(tmp_path / "model.onnx")
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (scene(),), path, dynamo=False, input_names=["x"], dynamic_axes=axes
        )
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 24, 40), (2, 16, 56)):
        x = scene(*shape)
        (logits,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(logits, model(x).detach().numpy(), atol=2e-4, rtol=2e-4)


def test_weights_round_trip(tmp_path: Path) -> None:
    model, other = network(), create_network(TEST).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    report = load_weights(other, tmp_path / "model.safetensors")
    assert not report.converted
    assert other(scene()).equal(model(scene()))


def test_weights_of_another_scene_are_refused() -> None:
    with pytest.raises(UsageError, match="does not fit FreeNet"):
        load_state(create_network(TEST, num_classes=9), network().state_dict(), "other")


def test_ratio_scales_widths_and_groups() -> None:
    with torch.device("meta"):
        model = FreeNet(ratio=0.5)
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert [norm.num_channels for norm in norms] == [48, 48, 64, 96, 128]
    assert {norm.num_groups for norm in norms} == {8}
    assert model.head.in_channels == 64
    with pytest.raises(UsageError, match="1/16"):
        FreeNet(ratio=0.05)


def test_decoder_is_linear() -> None:
    """Neither norm nor activation: what is upsampled is the map that was convolved."""
    model = network().double()
    assert not any(isinstance(m, nn.ReLU | nn.GroupNorm) for m in model.decoder.modules())
    kinds = {type(m) for m in model.decoder}
    assert kinds == {nn.Conv2d}
