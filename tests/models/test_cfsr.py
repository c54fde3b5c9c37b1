from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.measurement.cost import cost
from sinet.models import create_network, list_networks, load_state, load_weights
from sinet.models.cfsr import _MASKS, CFSR, EdgeConv

TEST = "cfsr_test"
# one block of the origin: ours -> theirs
AUTHORS = (
    ("stem.", "conv_first."),
    ("groups.", "layers."),
    ("ls1.gamma", "layer_scale_1"),
    ("ls2.gamma", "layer_scale_2"),
    ("mixer.query.", "attn.a.0."),
    ("mixer.dw.", "attn.a.2.lkb_reparam."),
    ("mixer.value.", "attn.v."),
    ("mixer.", "attn."),
    ("ffn.dw.", "mlp.pos."),
    ("ffn.", "mlp."),
    ("head.", "upsample.0."),
)
EDGES = ("sobel_x", "sobel_y", "laplacian")


def network(name: str = TEST) -> nn.Module:
    """Lively: layer scales and edges that count."""
    torch.manual_seed(0)
    model = create_network(name).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("gamma") or "edge_" in key:
            parameter.data.uniform_(-0.5, 0.5)
    return model


def image(batch: int = 1, height: int = 12, width: int = 17) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def authors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state as the origin names it."""
    out = {}
    for name, value in model.state_dict().items():
        if "edge_" in name:
            place, kind = name.split("dw.edge_")
            place = place.replace("groups.", "layers.").replace("ffn.", "mlp.")
            for edge, column in zip(EDGES, value.unbind(1), strict=True):
                if kind == "scale":
                    out[f"{place}scale_{edge}"] = column[:, None, None, None]
                else:
                    out[f"{place}{edge}_bias"] = column
            continue
        theirs = f"conv_after_body.{name[5:]}" if name.startswith("conv.") else name
        for ours, new in AUTHORS:
            theirs = theirs.replace(ours, new)
        out[theirs] = value
    return out


@pytest.mark.parametrize(
    ("name", "scale", "merged", "training", "gmacs"),
    [
        ("cfsr_x2", 2, 291_324, 298_236, 65.1),
        ("cfsr_x3", 3, 297_819, 304_731, 29.6),
        ("cfsr_x4", 4, 306_912, 313_824, 17.2),
        (TEST, 2, 15_932, 16_508, None),
    ],
)
def test_cost(name: str, scale: int, merged: int, training: int, gmacs: float | None) -> None:
    model = create_network(name)
    found = cost(model, (720 // scale, 1280 // scale))
    assert found.params == training
    assert sum(p.numel() for p in model.fuse().parameters()) == merged
    if gmacs is not None:
        assert found.macs / 1e9 == pytest.approx(gmacs, rel=0.005)


def test_every_variant_is_costed() -> None:
    assert len(list_networks("cfsr*")) == 4


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (9, 23), (16, 16)])
def test_any_size(scale: int, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        larger = create_network(TEST, scale=scale).eval()(image(1, *size))
    assert larger.shape == (1, 3, scale * size[0], scale * size[1])
    assert larger.isfinite().all()


def test_merges_exactly() -> None:
    model, x = network().double(), image(2).double()
    for merged in (model.fuse(), reparameterize_model(model)):
        torch.testing.assert_close(merged(x), model(x), atol=1e-12, rtol=1e-12)
        assert not any(isinstance(m, EdgeConv) for m in merged.modules())
    assert any(isinstance(m, EdgeConv) for m in model.modules())


@pytest.mark.parametrize("textbook", [False, True])
def test_edges_are_branches_of_their_own(textbook: bool) -> None:
    """The kernel that is run is the sum of the four convolutions of the paper, borders and all."""
    torch.manual_seed(0)
    layer = EdgeConv(5, textbook).double()
    layer.edge_scale.data.normal_()
    layer.edge_bias.data.normal_()
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    out = F.conv2d(x, layer.weight, layer.bias, padding=1, groups=5)
    for k in range(3):
        kernel = layer.masks[k].expand(5, 1, 3, 3) * layer.edge_scale[:, k, None, None, None]
        out = out + F.conv2d(x, kernel, layer.edge_bias[:, k], padding=1, groups=5)
    torch.testing.assert_close(layer(x), out, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(layer.fuse()(x), out, atol=1e-12, rtol=1e-12)


def test_textbook_masks_see_no_edge_in_a_plane() -> None:
    assert EdgeConv(1, textbook_masks=True).masks.sum((1, 2)).tolist() == [0, 0, 0]
    published = EdgeConv(1).masks
    assert published[0].tolist() == [[0, 1, -1], [2, 0, -2], [1, 0, -1]]
    assert published[1].tolist() == [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]
    assert published[2].tolist() == [[1, 0, 0], [1, -4, 1], [0, 1, 0]]


def test_group_shortcut_starts_after_the_blocks() -> None:
    group = network().groups[0]
    nn.init.zeros_(group.conv.weight)
    nn.init.zeros_(group.conv.bias)
    x = torch.randn(1, 16, 5, 5)
    assert group(x).equal(group.blocks(x))


def test_mean_is_taken_off_and_put_back() -> None:
    model = network()
    for layer in (model.stem, model.head):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    mean = torch.tensor([0.4488, 0.4371, 0.4040])[:, None, None]
    torch.testing.assert_close(model(image()), mean.expand(1, 3, 24, 34))
    assert not create_network(TEST, in_chans=1).mean.any()


@pytest.mark.parametrize("in_chans", [1, 4])
def test_in_chans(in_chans: int) -> None:
    model = create_network(TEST, in_chans=in_chans)
    assert model(torch.rand(1, in_chans, 6, 7)).shape == (1, in_chans, 12, 14)


def test_gradient_reaches_every_parameter() -> None:
    model = create_network(TEST).train()
    model(image(2)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_double_precision() -> None:
    model, x = network(), image()
    plain = model(x).double()
    torch.testing.assert_close(plain, model.double()(x.double()), atol=1e-3, rtol=1e-3)


def test_image_does_not_depend_on_its_batch() -> None:
    model, x = network(), image(3)
    alone = torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(model(x), alone, atol=1e-5, rtol=1e-5)


def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    model, x = network(), image()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merged", [False, True])
def test_onnx_runtime_agrees(merged: bool, tmp_path: Path) -> None:
    model, path = network(), str(tmp_path / "model.onnx")
    exported = model.fuse() if merged else model
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            exported, (image(),), path, dynamo=False, input_names=["x"], dynamic_axes=axes
        )
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 12, 17), (2, 9, 30)):
        x = image(*shape)
        (larger,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(larger, model(x).detach().numpy(), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("merged", [False, True])
def test_weights_round_trip(merged: bool, tmp_path: Path) -> None:
    model, other = network(), create_network(TEST).eval()
    if merged:
        model, other = model.fuse(), other.fuse()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    report = load_weights(other, tmp_path / "model.safetensors")
    assert report.tensors == len(model.state_dict())
    assert other(image()).equal(model(image()))


@pytest.mark.parametrize("wrapper", ["params", "params_ema"])
@pytest.mark.parametrize("into_merged", [False, True])
def test_published_files_load_into_both_forms(
    wrapper: str, into_merged: bool, tmp_path: Path
) -> None:
    """They are merged, in the authors' names, and wrapped as BasicSR does."""
    model, other = network().fuse(), create_network(TEST).eval()
    torch.save({wrapper: authors(model)}, tmp_path / "CFSR.pth")
    other = other.fuse() if into_merged else other
    assert load_weights(other, tmp_path / "CFSR.pth").converted
    torch.testing.assert_close(other(image()), model(image()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("with_masks", [False, True])
def test_training_checkpoints_load(with_masks: bool) -> None:
    model, other = network(), create_network(TEST).eval()
    state = authors(model)
    places = [name.removesuffix("scale_sobel_x") for name in state if name.endswith("sobel_x")]
    if with_masks:
        for place in places:
            for edge, mask in zip(EDGES, _MASKS, strict=True):
                state[f"{place}mask_{edge}"] = torch.tensor(mask).expand(32, 1, 3, 3)
    load_state(other, state, "checkpoint")
    assert other(image()).equal(model(image()))


def test_other_masks_are_refused() -> None:
    state = authors(network())
    place = next(n for n in state if n.endswith("scale_sobel_x")).removesuffix("scale_sobel_x")
    state[f"{place}mask_sobel_y"] = torch.ones(32, 1, 3, 3)
    with pytest.raises(UsageError, match="other edge masks"):
        load_state(create_network(TEST), state, "checkpoint")


def test_weights_of_another_scale_are_refused() -> None:
    with pytest.raises(UsageError, match=r"does not fit CFSR.*head\.bias"):
        load_state(CFSR(3, 16, (2, 1)), network().state_dict(), "x2")
