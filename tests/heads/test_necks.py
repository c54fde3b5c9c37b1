from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

from heads.necks import CHANNELS, WIDTH, Listed, create, maps, run_onnx
from sinet.errors import UsageError
from sinet.heads import PyramidBackbone, create_neck, list_necks
from sinet.heads._base import GlobalContext, _max_windows
from sinet.models import load_state

NECKS = list_necks()
OUTPUTS = {name: 3 if name in ("fpn", "sinet_pyramid", "unetpp") else 5 for name in NECKS}
# a shift of all logits changes no softmax, so these biases have no effect and no gradient
IDLE = ("key.bias", "guide.conv.bias")


def test_the_registry_knows_its_necks() -> None:
    assert NECKS == [
        "catnet",
        "dense_fpn",
        "fpn",
        "rcnet",
        "rcnet_plain",
        "revfp",
        "revfp_plain",
        "sinet_pyramid",
        "unetpp",
    ]
    assert list_necks("rc*") == ["rcnet", "rcnet_plain"]
    with pytest.raises(UsageError, match="did you mean 'catnet'"):
        create_neck("katnet", CHANNELS)


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize("size", [(16, 16), (13, 19), (8, 30)])
def test_shapes_at_odd_sizes(name: str, size: tuple[int, int]) -> None:
    neck = create(name)
    assert neck.in_channels == CHANNELS
    assert neck.out_channels == WIDTH
    assert neck.num_outs == OUTPUTS[name]
    given = maps(*size)
    before = [x.clone() for x in given]
    with torch.inference_mode():
        out = neck(given)
    assert isinstance(out, list)
    assert [x.shape for x in out] == [
        (2, WIDTH, -(-size[0] // 2**i), -(-size[1] // 2**i)) for i in range(OUTPUTS[name])
    ]
    assert all(x.isfinite().all() for x in out)
    assert all(x.equal(y) for x, y in zip(given, before, strict=True))


@pytest.mark.parametrize("name", NECKS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    neck = create(name).train()
    weights = torch.Generator().manual_seed(3)
    loss = sum(
        (x * torch.randn(x.shape, generator=weights)).sum() for x in neck(maps(32, 32, batch=3))
    )
    loss.backward()
    for parameter_name, parameter in neck.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        if parameter_name.endswith(IDLE):
            assert parameter.grad.abs().max() < 1e-2, parameter_name
        else:
            assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", NECKS)
def test_double_precision_and_batches(name: str) -> None:
    neck, given = create(name), maps(13, 19)
    with torch.inference_mode():
        out = neck(given)
        neck, given = neck.double(), [x.double() for x in given]
        exact = neck(given)
        alone = [neck([x[i : i + 1] for x in given]) for i in range(2)]
    for level, x in enumerate(out):
        assert exact[level].dtype == torch.float64
        torch.testing.assert_close(x.double(), exact[level], atol=1e-3, rtol=1e-3)
        single = torch.cat([image[level] for image in alone])
        torch.testing.assert_close(exact[level], single, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("name", NECKS)
def test_compiles_to_one_graph(name: str) -> None:
    torch.compiler.reset()
    neck, given = create(name), maps(13, 19)
    compiled = torch.compile(neck, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(given), neck(given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NECKS)
def test_torch_export(name: str) -> None:
    neck, given = create(name), maps(13, 19)
    program = torch.export.export(neck, (given,))
    torch.testing.assert_close(program.module()(given), neck(given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("opset", "size"), [(17, (13, 19)), (20, (16, 16))])
@pytest.mark.parametrize("name", NECKS)
def test_onnx_runtime_agrees(name: str, opset: int, size: tuple[int, int], tmp_path: Path) -> None:
    neck = create(name)
    run = run_onnx(Listed(neck), maps(*size), tmp_path / "neck.onnx", opset)
    for batch in (1, 3):
        given = maps(*size, batch=batch)
        with torch.inference_mode():
            expected = neck(given)
        for x, y in zip(run(*given), expected, strict=True):
            np.testing.assert_allclose(x, y.numpy(), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", NECKS)
def test_state_round_trip(name: str) -> None:
    neck, other = create(name), create(name)
    for parameter in other.parameters():
        parameter.data.zero_()
    report = load_state(other, neck.state_dict(), name)
    assert not report.converted
    for x, y in zip(other(maps()), neck(maps()), strict=True):
        assert x.equal(y)


@pytest.mark.parametrize("name", NECKS)
def test_reparameterize_changes_no_output(name: str) -> None:
    neck = create(name).double()
    given = [x.double() for x in maps(13, 19)]
    fused = reparameterize_model(neck)
    # CSN's and CATNet's maps too: every norm follows a convolution
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    for x, y in zip(fused(given), neck(given), strict=True):
        torch.testing.assert_close(x, y, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in NECKS if name not in ("fpn", "sinet_pyramid")])
@pytest.mark.parametrize("norm_layer", ["groupnorm", None])
def test_other_norms(name: str, norm_layer: str | None) -> None:
    neck = create(name, norm_layer=norm_layer, out_channels=64)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in neck.modules())
    assert any(isinstance(m, nn.GroupNorm) for m in neck.modules()) == (norm_layer is not None)
    assert len(neck(maps())) == OUTPUTS[name]


def test_widths_that_no_norm_divides_are_explained() -> None:
    with pytest.raises(UsageError, match=r"groupnorm does not fit 16 channels.*out_channels"):
        create("catnet", norm_layer="groupnorm")


@pytest.mark.parametrize("name", NECKS)
def test_wrong_maps_are_explained(name: str) -> None:
    neck = create(name)
    with pytest.raises(UsageError, match=r"built for maps of \[8, 12, 20\] channels.*\[8, 12\]"):
        neck(maps()[:2])
    with pytest.raises(UsageError, match=r"got \[8, 12, 16\]"):
        neck(maps(channels=[8, 12, 16]))
    with pytest.raises(UsageError, match="maps, not 0"):
        create_neck(name, [])


@pytest.mark.parametrize("name", [name for name in NECKS if name != "sinet_pyramid"])
def test_fewer_outputs_than_inputs_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="takes 1 to 2 maps, not 3"):
        create_neck(name, CHANNELS, WIDTH, num_outs=2)


def test_sinet_pyramid_takes_a_reduction_for_each_map() -> None:
    assert create("sinet_pyramid", reductions=[2, 8, 32]).reductions == [2, 8, 32]
    with pytest.raises(UsageError, match=r"reductions are \[4, 8\].*one for each map"):
        create("sinet_pyramid", reductions=[4, 8])


def test_fpn_adds_two_levels_at_most() -> None:
    assert [len(create("fpn", num_outs=n)(maps())) for n in (3, 4, 5)] == [3, 4, 5]
    with pytest.raises(UsageError, match="at most 2 levels"):
        create("fpn", num_outs=6)


@pytest.mark.parametrize("sizes", [(7, 5), (16, 4), (5, 5), (9, 2), (4, 7), (3, 1)])
def test_windows_by_hand_are_adaptive_max_pooling(sizes: tuple[int, int]) -> None:
    before, after = sizes
    x = torch.randn(2, 3, before, before + 1)
    by_hand = _max_windows(_max_windows(x, -2, after), -1, after + 1)
    assert by_hand.equal(F.adaptive_max_pool2d(x, (after, after + 1)))


def test_global_context_is_the_mean_of_mapped_positions() -> None:
    torch.manual_seed(0)
    context, x = GlobalContext(6).double(), torch.randn(2, 6, 5, 4, dtype=torch.float64)
    weight = context.key(x).flatten(2).softmax(-1)
    mapped = (context.value(x).flatten(2) * weight).sum(-1)
    torch.testing.assert_close(context(x)[..., 0, 0], mapped, atol=1e-12, rtol=1e-12)


def test_a_backbone_and_a_neck_are_one_backbone() -> None:
    body = timm.create_model("test_resnet", features_only=True, out_indices=(1, 2, 3))
    channels = body.feature_info.channels()
    joined = PyramidBackbone(body, create("catnet", channels)).eval()
    out = joined(torch.randn(1, 3, 64, 64))
    assert list(out) == ["0", "1", "2", "3", "4"]
    assert joined.out_channels == WIDTH
    first = body.feature_info.reduction()[0]
    assert joined.reductions == [first * 2**i for i in range(5)]
    assert [64 // x.shape[-1] for x in out.values()][:4] == joined.reductions[:4]
    with pytest.raises(UsageError, match=r"feature_info.channels\(\)"):
        PyramidBackbone(body, create("catnet", [1, 2, 3]))
    with pytest.raises(UsageError, match="features_only=True"):
        PyramidBackbone(timm.create_model("test_resnet"), create("catnet", channels))


@pytest.mark.parametrize("name", ["fpn", "sinet_pyramid"])
def test_backbones_with_channels_last(name: str) -> None:
    body = timm.create_model(
        "swin_tiny_patch4_window7_224",
        features_only=True,
        depths=(1,) * 4,
        embed_dim=12,
        img_size=64,
        window_size=2,
    )
    joined = PyramidBackbone(body, create(name, body.feature_info.channels())).eval()
    out = joined(torch.randn(1, 3, 64, 64))
    assert [x.shape for x in out.values()] == [(1, WIDTH, 16 >> i, 16 >> i) for i in range(4)]
