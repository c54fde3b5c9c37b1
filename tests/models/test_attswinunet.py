from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file

from sinet.errors import UsageError
from sinet.measurement.cost import cost
from sinet.models import ModelSpec, create_network, list_networks, load_state, load_weights
from sinet.models._networks import registered
from sinet.models.attswinunet import (
    AttSwinUNet,
    CrossContextualAttention,
    PatchExpand,
    SwinBlock,
    convert,
)

NAME = "attswinunet_test"
UNUSED = 7_968  # parameters of the released files that nothing uses
# parameters with nine classes; multiply-adds at 224 px as we count them: the released code does
# 0.06 G more, and 0.17 G more again in its plain mode, where it joins every skip twice
FIGURES = {
    "attswinunet": (46_901_892 - UNUSED, 11.121e9),
    "attswinunet_lite": (32_689_956 - UNUSED, 8.287e9),
    "swinunet": (41_388_804 - UNUSED, 8.943e9),
    "swinunet_lite": (27_176_868 - UNUSED, 6.110e9),
}


def create(**kwargs: Any) -> AttSwinUNet:
    torch.manual_seed(0)
    model = create_network(NAME, **kwargs).eval()
    assert isinstance(model, AttSwinUNet)
    for parameter in model.parameters():  # Swin starts with branches that are nearly silent
        if parameter.ndim > 1:
            parameter.data.mul_(5)
    return model


def images(batch: int = 2, height: int = 64, width: int = 64, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, height, width, generator=generator)


def test_every_name_has_its_figures() -> None:
    assert set(list_networks("*swinunet*")) - {NAME} == set(FIGURES)
    assert sum(p.numel() for p in create().parameters()) < 1_000_000


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_are_the_published_ones_and_multiply_adds_ours(name: str) -> None:
    params, macs = FIGURES[name]
    with torch.device("meta"):
        model = create_network(name)
    counted = cost(model, 224)
    assert counted.params == params
    assert counted.macs == pytest.approx(macs, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"num_classes": 1, "in_chans": 1}, {"in_chans": 4}])
def test_classes_and_channels(options: dict[str, int]) -> None:
    x = images(1, channels=options.get("in_chans", 3))
    out = create(**options)(x)
    assert out.shape == (1, options.get("num_classes", 9), 64, 64)
    assert out.isfinite().all()


@pytest.mark.parametrize("size", [(64, 128), (192, 64)])
def test_oblong_images(size: tuple[int, int]) -> None:
    assert create()(images(1, *size)).shape == (1, 9, *size)


def test_sizes_that_do_not_fit_are_explained() -> None:
    with pytest.raises(UsageError, match="multiples of 64; 64x128 is the nearest"):
        create()(images(1, 72, 120))
    with torch.device("meta"):
        assert create_network("attswinunet").unit == 224
        # where fewer tokens than a window are left, the stage takes them all
        assert create_network("attswinunet", img_size=128, window_size=8).unit == 128


@pytest.mark.parametrize("options", [{}, {"img_size": 128, "window_size": 8}, {"window_size": 4}])
@pytest.mark.parametrize("name", [*FIGURES, NAME])
def test_the_size_rule_is_that_of_the_network(name: str, options: dict[str, int]) -> None:
    with torch.device("meta"):
        unit = create_network(name, **options).unit
    assert registered(name).step(options) == unit
    assert ModelSpec(name, 1, options).side(1) == unit
    assert ModelSpec(name, 1, options).side(2.4 * unit) == 2 * unit


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"class_token": "broadcasts"}, "broadcast"),
        ({"spatial_attention": "plus"}, "spatial attention"),
        ({"cross_skips": 4}, "3 skips"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        create(**options)


@pytest.mark.parametrize("spatial", ["off", "mul"])
@pytest.mark.parametrize("token", ["replace_first", "broadcast"])
def test_gradient_reaches_every_parameter(spatial: str, token: str) -> None:
    model = create(spatial_attention=spatial, class_token=token, drop_path_rate=0.0).train()
    model(images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_dropout_only_while_training() -> None:
    for options in ({"drop_rate": 0.5}, {"drop_path_rate": 0.5}):
        model, x = create(**options), images()
        assert model(x).equal(model(x))
        model.train()
        assert not model(x).equal(model(x))


@pytest.mark.parametrize("spatial", ["off", "add", "mul"])
def test_double_precision(spatial: str) -> None:
    x = images(1)
    exact = create(spatial_attention=spatial).double()(x.double())
    assert exact.dtype == torch.float64
    have = create(spatial_attention=spatial)(x).double()
    torch.testing.assert_close(have, exact, atol=1e-3, rtol=1e-3)


def test_image_does_not_depend_on_its_batch() -> None:
    model, x = create().double(), images(3).double()
    with torch.inference_mode():
        together, alone = model(x), torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=1e-9)


def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    model, x = create(spatial_attention="mul"), images(1, 64, 128)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("opset", "options"),
    [(17, {}), (20, {"spatial_attention": "mul", "class_token": "broadcast"})],
)
def test_onnx_runtime_agrees(opset: int, options: dict[str, Any], tmp_path: Path) -> None:
    model = create(**options)
    path = str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images(),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, session_options, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = images(batch)
        (logits,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(logits, model(x).detach().numpy(), atol=2e-4, rtol=2e-4)


def test_weights_round_trip(tmp_path: Path) -> None:
    model, other = create(), create()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    for parameter in other.parameters():
        parameter.data.zero_()
    report = load_weights(other, tmp_path / "model.safetensors")
    assert report.tensors == len(model.state_dict())
    assert not report.converted
    assert other(images()).equal(model(images()))


def test_weights_of_other_classes_and_channels_start_it() -> None:
    source, model = create(), create(num_classes=1, in_chans=1)
    report = load_state(model, source.state_dict(), "source")
    assert len(report.adapted) == 2
    assert not model.head.weight.any()


def test_what_the_released_files_never_use_is_left_out() -> None:
    names = {
        "patch_embed.proj.weight": None,
        "decoder.norm.weight": None,
        "encoder.layers.0.blocks.0.attn.relative_position_index": None,
        "encoder.patch_embed.norm.weight": "patch_norm.weight",
        "decoder.norm_up.weight": "norm_up.weight",
        "decoder.layers_up.0.expand.weight": "expands.2.expand.weight",
        "decoder.layers_up.1.upsample.expand.weight": "expands.1.expand.weight",
        "decoder.layers_up.3.blocks.0.attn.qkv.weight": "decoder.0.0.attn.qkv.weight",
        "decoder.concat_back_dim.1.weight": "skips.2.reduce.weight",
    }
    state = {name: torch.zeros(8) for name in names}
    # a list of cross attentions that holds the deeper stages only is told by its widths
    layer = "decoder.Crossvit_layer.0.layers.0.0.fn"
    state |= {f"{layer}.norm.weight": torch.zeros(16), f"{layer}.fn.to_q.weight": torch.zeros(1)}
    expected = {new for new in names.values() if new} | {
        "skips.1.cross.layers.0.0.norm.weight",
        "skips.1.cross.layers.0.0.q.weight",
    }
    assert set(convert(state)) == expected


def test_released_cross_attention_alters_one_token() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 2, 25, 16).unbind(0)
    released = CrossContextualAttention(16, 2, 8, "replace_first")
    for before, after in zip((a, b), released(a, b), strict=True):
        changed = (before != after).any(-1)
        assert changed[:, 0].all()
        assert not changed[:, 1:].any()
    ours = CrossContextualAttention(16, 2, 8, "broadcast")
    for before, after in zip((a, b), ours(a, b), strict=True):
        assert (before != after).any(-1).all()
        torch.testing.assert_close(
            (after - before), (after - before)[:, :1].expand_as(before), atol=1e-5, rtol=1e-5
        )


def test_cross_attention_of_the_finest_skip_reaches_a_corner_of_the_output() -> None:
    """Only windows near the first token can see it; the paper means the whole image."""
    model, x = create(img_size=64, depths=(2, 2, 2, 2)), images(1, 128, 128)
    before = model(x)
    with torch.no_grad():
        model.skips[0].cross.layers[1][0].proj.bias.add_(1)
    rows = (model(x) != before).any(1)[0].any(1).nonzero()
    assert 0 < rows.numel() < 32
    assert rows.max() < 32


def test_cross_attention_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    block = CrossContextualAttention(16, 2, 8, "replace_first").double()
    a, b = torch.randn(2, 3, 9, 16).double().unbind(0)
    cls = {"a": a.mean(1), "b": b.mean(1)}
    for layer in block.layers:
        new = {}
        for (mine, other), attend in zip((("a", b), ("b", a)), layer, strict=True):
            query = attend.norm(cls[mine])
            keys = torch.cat([query[:, None], other[:, 1:]], 1)
            k, v = attend.kv(keys).chunk(2, -1)
            heads = []
            for h in range(2):
                cut = slice(8 * h, 8 * h + 8)
                weights = torch.einsum("bc,blc->bl", attend.q(query)[:, cut], k[..., cut]) / 8**0.5
                heads.append(torch.einsum("bl,blc->bc", weights.softmax(-1), v[..., cut]))
            new[mine] = cls[mine] + attend.proj(torch.cat(heads, -1))
        cls = new
    for stream, mine in zip(block(a, b), "ab", strict=True):
        torch.testing.assert_close(stream[:, 0], cls[mine])


def test_shared_attention_maps_count_only_when_asked_for() -> None:
    x = images(1)
    off, add, mul = (create(spatial_attention=how)(x) for how in ("off", "add", "mul"))
    assert not torch.allclose(off, add)
    assert not torch.allclose(off, mul)
    assert not torch.allclose(add, mul)


@pytest.mark.parametrize("how", ["add", "mul"])
def test_combined_maps_still_average(how: str) -> None:
    torch.manual_seed(0)
    block = SwinBlock(8, 4, 2, shifted=True, drop_rate=0, drop_path=0)
    x = torch.randn(2, 8, 8, 8)
    _, other = block(torch.randn(2, 8, 8, 8))
    _, attn = block(x, other, how)
    torch.testing.assert_close(attn.sum(-1), torch.ones(attn.shape[:-1]), atol=1e-5, rtol=1e-5)


def test_shifted_windows_see_no_wrapped_neighbours() -> None:
    torch.manual_seed(0)
    block = SwinBlock(8, 4, 2, shifted=True, drop_rate=0, drop_path=0).eval()
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, 0, 0] += 1
    reached = (block(x)[0] != block(changed)[0]).any(-1)[0]
    assert reached[:2, :2].all()  # a shift of two leaves a 2x2 window in the corner
    assert reached.sum() == 4


def test_one_window_is_not_shifted() -> None:
    torch.manual_seed(0)
    plain, shifted = (SwinBlock(8, 4, 2, s, drop_rate=0, drop_path=0) for s in (False, True))
    shifted.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 4, 8)
    assert plain(x)[0].equal(shifted(x)[0])


def test_patch_expanding_puts_channels_into_space() -> None:
    expand = PatchExpand(4, 2, 2)
    x = torch.randn(1, 3, 5, 4)
    out = expand(x)
    assert out.shape == (1, 6, 10, 2)
    values = expand.expand(x)[0, 1, 2]  # (row, column, channel) in this order
    torch.testing.assert_close(out[0, 3, 4], expand.norm(values[4:6]))
