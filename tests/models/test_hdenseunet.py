from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from timm.models.densenet import DenseNet
from timm.utils import reparameterize_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sinet.errors import UsageError
from sinet.models import create_network, list_networks, load_state, load_weights
from sinet.models.hdenseunet import (
    DenseUNet2d,
    DenseUNet3d,
    HDenseUNet,
    NormScaleReLU,
    convert,
    load_encoder,
)

# parameters, multiply-adds of the convolutions and the input at which they were published; those of
# the 3-D network alone are ours, the published count is of the one inside the hybrid
FIGURES: dict[str, tuple[int, float | None, tuple[int, ...]]] = {
    "hdenseunet": (61_195_054, 302.9e9, (1, 224, 224, 8)),
    "hdenseunet_2d": (49_747_779, 18.58e9, (3, 224, 224)),
    "hdenseunet_2d_noskip": (45_082_275, 17.66e9, (3, 224, 224)),
    "hdenseunet_3d": (15_903_211, None, (1, 224, 224, 8)),
    "hdenseunet_skip": (65_860_558, None, (1, 224, 224, 8)),
    "hdenseunet_test": (164_060, None, (1, 64, 64, 8)),
}
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
NARROW: dict[str, Any] = {"depths": (1, 2, 2, 1), "growth": 8, "stem_width": 16, "width": 16}
SMALL = {
    "2d": (lambda **k: DenseUNet2d(**{**NARROW, **k}), (3, 64, 32)),
    "2d_noskip": (lambda **k: DenseUNet2d(**{**NARROW, "skips": False, **k}), (3, 64, 32)),
    "3d": (lambda **k: DenseUNet3d(**{**NARROW, **k}), (1, 32, 64, 8)),
    "hybrid": (lambda **k: create_network("hdenseunet_test", **k), (1, 64, 32, 8)),
    "hybrid_skip": (
        lambda **k: create_network("hdenseunet_test", skips=True, **k),
        (1, 32, 64, 4),
    ),
}


@pytest.fixture(params=list(SMALL))
def small(request: pytest.FixtureRequest) -> tuple[Any, tuple[int, ...]]:
    """A builder of a narrow network, every norm in a random state, and its input's shape."""
    build, shape = SMALL[request.param]

    def create(**kwargs: Any) -> nn.Module:
        torch.manual_seed(0)
        return lively(build(**kwargs)).eval()

    return create, shape


def lively(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, (*NORMS, NormScaleReLU)):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model


def data(shape: tuple[int, ...], batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", list(FIGURES))
def test_parameters_and_multiply_adds_are_the_published_ones(name: str) -> None:
    params, macs, shape = FIGURES[name]
    with torch.device("meta"):
        model = create_network(name).eval()
        x = torch.empty(1, *shape)
    assert sum(p.numel() for p in model.parameters()) == params
    if macs is not None:
        with FlopCounterMode(display=False) as flops:
            assert model(x).shape == (1, 3, *shape[1:])
        assert flops.get_total_flops() / 2 == pytest.approx(macs, rel=2e-3)


def test_every_name_has_figures() -> None:
    assert list_networks("hdenseunet*") == sorted(FIGURES)


def test_3d_part_of_the_hybrid_has_the_published_count() -> None:
    with torch.device("meta"):
        part = create_network("hdenseunet").net3d
    assert sum(p.numel() for p in part.parameters()) == 16_001_800


def test_classes_channels_and_oblong_sizes(small: Any) -> None:
    create, shape = small
    channels = 2 * shape[0]
    oblong = (96, 32, *shape[3:])
    with torch.inference_mode():
        out = create(num_classes=5, in_chans=channels)(data((channels, *oblong)))
    assert out.shape == (1, 5, *oblong)
    assert out.isfinite().all()


def test_gradient_reaches_every_parameter(small: Any) -> None:
    create, shape = small
    model = create().train()
    model(data(shape, 2)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # a bias before a batch norm changes nothing, the norm takes it away again
        assert parameter.grad.any() or name.endswith("conv.bias"), name


def test_double_precision(small: Any) -> None:
    create, shape = small
    model, x = create(), data(shape)
    exact = create().double()(x.double())
    assert exact.dtype == torch.float64
    scale = exact.abs().max()
    torch.testing.assert_close(model(x).double() / scale, exact / scale, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["2d_noskip", "hybrid_skip"])  # between them, every part
def test_compiles_to_one_graph(kind: str) -> None:
    build, shape = SMALL[kind]
    torch.compiler.reset()
    model, x = lively(build()).eval(), data(shape)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)


def test_onnx_runtime_agrees(small: Any, tmp_path: Path) -> None:
    create, shape = small
    model, path = create(), str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (data(shape),),
            path,
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for batch in (1, 2):
        x = data(shape, batch)
        (out,) = session.run(None, {"x": x.numpy()})
        want = model(x).detach().numpy()
        np.testing.assert_allclose(out, want, atol=2e-4 * max(1, abs(want).max()), rtol=2e-4)


def test_volume_does_not_depend_on_its_batch(small: Any) -> None:
    create, shape = small
    model, x = create().double(), data(shape, 2).double()
    with torch.inference_mode():
        together, alone = model(x), torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=1e-9)


def test_save_and_load(small: Any, tmp_path: Path) -> None:
    create, shape = small
    model = create()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = create()
    for parameter in other.parameters():
        parameter.data.zero_()
    assert not load_weights(other, tmp_path / "model.safetensors").converted
    assert other(data(shape)).equal(model(data(shape)))


def test_fused_is_equal(small: Any) -> None:
    create, shape = small
    model, x = create().double(), data(shape).double()
    fused = reparameterize_model(model)
    assert not any(isinstance(module, NormScaleReLU) for module in fused.modules())
    want = model(x)
    error = (fused(x) - want).abs().max() / want.abs().max()
    assert error < 1e-12


def test_dropout_only_while_training(small: Any) -> None:
    create, shape = small
    model, x = create(drop_rate=0.5), data(shape)
    assert model(x).equal(model(x))
    model.train()
    assert not model(x).equal(model(x))


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("hdenseunet_test", (1, 1, 64, 50, 8), "pad to 64 x 64 x 8"),
        ("hdenseunet_test", (1, 1, 64, 64, 6), "pad to 64 x 64 x 8"),
        ("hdenseunet_test", (1, 1, 64, 64), "give \\(batch, channels, H, W, Z\\)"),
    ],
)
def test_wrong_size_is_explained(name: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        create_network(name)(torch.zeros(shape))


def test_wrong_size_is_explained_in_2d() -> None:
    with pytest.raises(UsageError, match="multiples \\(H of 32, W of 32\\): pad to 64 x 96"):
        DenseUNet2d(**NARROW)(torch.zeros(1, 3, 33, 96))


def test_slices_see_their_neighbours_and_the_ends_see_themselves_twice() -> None:
    model = SMALL["hybrid"][0]().eval()
    volume = data((1, 32, 32, 4))
    scores, features = model.forward_planar(volume)
    for i in range(4):
        triple = volume[:, 0, :, :, [max(i - 1, 0), i, min(i + 1, 3)]].permute(0, 3, 1, 2)
        want_scores, want_features = model.net2d.forward_both(triple)
        torch.testing.assert_close(scores[..., i], want_scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(features[..., i], want_features, atol=1e-4, rtol=1e-4)


def test_context_is_the_raw_scores_times_250() -> None:
    model = SMALL["hybrid"][0]().eval()
    volume, seen = data((1, 32, 32, 4)), []
    model.net3d.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(volume)
    scores, _ = model.forward_planar(volume)
    assert seen[0][:, :1].equal(volume)
    torch.testing.assert_close(seen[0][:, 1:], 250 * scores)


def test_fusion_reads_the_sum_of_both_last_maps() -> None:
    model = SMALL["hybrid"][0]().eval()
    volume, seen = data((1, 32, 32, 4)), []
    model.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out = model(volume)
    scores, planar = model.forward_planar(volume)
    spatial = model.net3d(torch.cat([volume, 250 * scores], 1))
    torch.testing.assert_close(seen[0], spatial + planar)
    torch.testing.assert_close(out, model.classifier(model.fusion(spatial + planar)))


def test_third_axis_is_halved_twice_only() -> None:
    top, maps = SMALL["3d"][0]().encode(data((1, 64, 32, 8)))
    assert [tuple(m.shape[2:]) for m in maps] == [(32, 16, 4), (16, 8, 2), (8, 4, 2), (4, 2, 2)]
    assert top.shape[2:] == (2, 1, 2)


def test_skips_are_additions() -> None:
    """Without the lateral's weights and the maps' weights the two networks are one."""
    with_skips, without = (SMALL[name][0]().eval() for name in ("2d", "2d_noskip"))
    state = with_skips.state_dict()
    shared = {k: v for k, v in state.items() if not k.startswith("lateral")}
    without.load_state_dict(shared)  # strict: the lateral is all that skips add
    assert set(state) - set(shared) == {"lateral.weight", "lateral.bias"}
    assert not with_skips(data((3, 32, 32))).allclose(without(data((3, 32, 32))))


def test_stages_of_the_training() -> None:
    model: HDenseUNet = SMALL["hybrid"][0]()
    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    assert all(norm.training for norm in norms)

    model.set_stage("fusion").train()
    assert not any(p.requires_grad for p in model.net2d.parameters())
    assert all(p.requires_grad for p in model.net3d.parameters())
    before = copy.deepcopy(model.net2d.state_dict())
    model(data((1, 32, 32, 8)))
    assert all(value.equal(before[key]) for key, value in model.net2d.state_dict().items())

    model.set_stage("end_to_end").train()
    assert model.net2d.conv.weight.requires_grad
    assert model.net2d.act.weight.requires_grad  # the scale after the norm learns
    fixed = [m for m in norms if not m.training]
    inside = [m for p in (model.net2d, model.net3d.stages) for m in p.modules()]
    assert fixed == [m for m in inside if isinstance(m, NORMS)]

    model.set_stage("free").train()
    assert all(norm.training for norm in norms)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(UsageError, match="give 'free'"):
        model.set_stage("3dpart")  # type: ignore[arg-type]


def test_own_names_stay_and_foreign_ones_are_refused() -> None:
    state = SMALL["2d"][0]().state_dict()
    assert convert(state) is state
    with pytest.raises(UsageError, match="does not fit HDenseUNet"):
        load_state(create_network("hdenseunet_test"), state, "a 2-D file")


def test_encoder_starts_from_a_densenet() -> None:
    torch.manual_seed(0)
    densenet = DenseNet(growth_rate=8, block_config=(1, 2, 2, 1), num_classes=10)
    lively(densenet).eval()
    model = DenseUNet2d(**NARROW).eval()
    floating = [k for k, v in densenet.state_dict().items() if v.is_floating_point()]
    assert load_encoder(model, densenet.state_dict()) == len(floating) - 2
    x = data((3, 64, 64))
    with torch.inference_mode():
        top, _ = model.encode(x)
        # our norms have another epsilon
        torch.testing.assert_close(top, densenet.forward_features(x), atol=1e-3, rtol=1e-3)
    with pytest.raises(UsageError, match="densenet161"):
        load_encoder(DenseUNet2d(**{**NARROW, "growth": 12}), densenet.state_dict())


def test_first_scores_are_small() -> None:
    """A fresh network starts near even odds, whatever its input's range."""
    scores = create_network("hdenseunet_test").train()(100 * data((1, 64, 64, 8)))
    assert scores.std() < math.e
