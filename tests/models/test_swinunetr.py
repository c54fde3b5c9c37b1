from __future__ import annotations

import importlib.util
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sinet.errors import UsageError
from sinet.models import create_network, list_networks, load_state, load_weights
from sinet.models.swinunetr import PatchMerging, convert, load_encoder

_missing = [p for p in ("monai", "einops") if importlib.util.find_spec(p) is None]
needs_monai = pytest.mark.skipif(bool(_missing), reason=f"{_missing} not installed")

# parameters; multiply-adds of convolutions, linear layers and attention at a published input (in
# 2-D, where none are published for this way of counting, our own)
FIGURES: dict[str, tuple[int, float | None, tuple[int, ...]]] = {
    "swin_unetr": (62_191_941, 97.6e9, (4, 64, 64, 64)),
    "swin_unetr_brats21": (62_191_941, None, (4, 64, 64, 64)),
    "swin_unetr_btcv": (62_187_296, None, (1, 64, 64, 64)),
    "swin_unetr_small": (15_705_621, 26.0e9, (4, 64, 64, 64)),
    "swin_unetr_tiny": (4_079_373, None, (4, 64, 64, 64)),
    "swin_unetr_v2": (72_767_301, None, (4, 64, 64, 64)),
    "swin_unetr_2d": (6_302_900, 2.491e9, (3, 160, 224)),
    "swin_unetr_2d_v2": (7_184_180, None, (3, 160, 224)),
    "swin_unetr_test": (1_590_464, None, (3, 64, 64)),
}


def create(**kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_network("swin_unetr_test", **kwargs).eval()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (1, 3, 64, 64)), generator=torch.Generator().manual_seed(1))


def test_every_name_has_figures() -> None:
    assert list_networks("swin_unetr*") == sorted(FIGURES)


@needs_monai
@pytest.mark.parametrize("name", list(FIGURES))
def test_parameters_and_multiply_adds_are_the_published_ones(name: str) -> None:
    params, macs, shape = FIGURES[name]
    model = create_network(name).eval()
    assert sum(p.numel() for p in model.parameters()) == params
    if macs is not None:
        x = torch.empty(1, *shape, device="meta")
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            out = model.to("meta")(x)  # MONAI cannot build it there
        assert out.shape[2:] == x.shape[2:]
        assert flops.get_total_flops() / 2 == pytest.approx(macs, rel=0.01)


@needs_monai
def test_oblong_images_classes_and_channels() -> None:
    for height, width in ((32, 64), (96, 64)):
        with torch.inference_mode():
            out = create(num_classes=5, in_chans=1)(images(2, 1, height, width))
        assert out.shape == (2, 5, height, width)
        assert out.isfinite().all()


@needs_monai
@pytest.mark.parametrize("merging", ["corrected", "legacy", "v2"])
@pytest.mark.parametrize("use_v2", [False, True])
def test_volumes(merging: str, use_v2: bool) -> None:
    model = create_network("swin_unetr_tiny", in_chans=1, merging=merging, use_v2=use_v2).eval()
    with torch.inference_mode():
        assert model(images(1, 1, 32, 32, 64)).shape == (1, 3, 32, 32, 64)


@needs_monai
def test_gradient_reaches_every_parameter() -> None:
    model = create(use_v2=True, drop_path_rate=0.1, drop_rate=0.1).train()
    model(images(2, 3, 64, 64)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@needs_monai
def test_double_precision() -> None:
    exact = create().double()(images().double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(create()(images()).double(), exact, atol=1e-3, rtol=1e-3)


@needs_monai
def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    model = create()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), model(images()), atol=1e-5, rtol=1e-5)


@needs_monai
def test_onnx_runtime_agrees(tmp_path: Path) -> None:
    model, path = create(), str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (images(),), path, dynamo=False, input_names=["x"], opset_version=17
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": images().numpy()})
    np.testing.assert_allclose(out, model(images()).detach().numpy(), atol=2e-4, rtol=2e-4)


@needs_monai
def test_image_does_not_depend_on_its_batch() -> None:
    model, x = create(), images(2, 3, 64, 64)
    with torch.inference_mode():
        together, alone = model(x), torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@needs_monai
def test_save_and_load(tmp_path: Path) -> None:
    model = create()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = create()
    for parameter in other.parameters():
        parameter.data.zero_()
    assert not load_weights(other, tmp_path / "model.safetensors").converted
    assert other(images()).equal(model(images()))
    assert pickle.loads(pickle.dumps(model))(images()).equal(model(images()))


@needs_monai
@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 3, 60, 100), "60 x 100 does not fit.*multiple of 32.*pad to 64 x 128"),
        ((1, 3, 32, 32), "one of them 64 at least: pad to 32 x 64"),
    ],
)
def test_wrong_size_is_explained(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        create()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 40}, "width 40 does not fit; give a multiple of 12, such as 48"),
        ({"merging": "legasy"}, "did you mean 'legacy'"),
    ],
)
def test_wrong_arguments_are_explained(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        create_network("swin_unetr", **options)


@pytest.mark.parametrize("package", ["monai", "einops"])
def test_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sinet.models import swinunetr

    swinunetr._network_class.cache_clear()
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: {package: None}.get(name, there("sinet") if name == "monai" else there(name)),
    )
    with pytest.raises(UsageError, match=rf"{package} is not installed.*sinet\[medical\]"):
        create_network("swin_unetr_test")


def test_orders_of_merging() -> None:
    """What each takes of a map whose values are their places: 100 d + 10 h + w."""
    place = torch.tensor([100.0, 10.0, 1.0])
    axis = torch.arange(2.0)
    x = sum(p * axis.view([-1 if i == j else 1 for j in range(3)]) for i, p in enumerate(place))
    taken = {}
    for order in ("corrected", "legacy", "v2"):
        layer = PatchMerging(1, nn.Identity, order=order)  # type: ignore[arg-type]
        layer.norm = nn.Identity()
        layer.reduction = nn.Identity()
        taken[order] = layer(x[None, ..., None]).flatten().tolist()
    assert taken["corrected"] == [0, 100, 10, 1, 110, 101, 11, 111]
    assert taken["legacy"] == [0, 100, 10, 1, 101, 10, 1, 111]
    assert taken["v2"] == [0, 1, 10, 11, 100, 101, 110, 111]


@needs_monai
@pytest.mark.parametrize(
    ("order", "name"), [("corrected", "PatchMerging"), ("v2", "PatchMergingV2")]
)
@pytest.mark.parametrize("dims", [2, 3])
def test_merging_is_monais(order: Any, name: str, dims: int) -> None:
    from monai.networks.nets import swin_unetr

    theirs = getattr(swin_unetr, name)(4, spatial_dims=dims)
    ours = PatchMerging(4, spatial_dims=dims, order=order)
    ours.load_state_dict(theirs.state_dict())
    x = images(1, *(4, 6, 8)[:dims], 4)
    assert ours(x).equal(theirs(x))


@needs_monai
def test_legacy_merging_loads_the_same_weights_and_gives_other_results() -> None:
    networks = [
        create_network("swin_unetr_tiny", in_chans=1, merging=merging).eval()
        for merging in ("corrected", "legacy")
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    x = images(1, 1, 32, 32, 64)
    with torch.inference_mode():
        assert not networks[0](x).allclose(networks[1](x), atol=1e-3)


def pretrained(model: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """The encoder as published files name it, with heads of the pre-training."""
    state = {
        k.removeprefix("swinViT."): v + 1.0
        for k, v in model.state_dict().items()
        if k.startswith("swinViT.") and v.is_floating_point()
    }
    if prefix == "module.":
        state = {k.replace("mlp.linear", "mlp.fc"): v for k, v in state.items()}
        heads = ("norm.weight", "rotation_head.weight", "contrastive_head.bias", "conv.0.weight")
    else:
        state = {k.replace("0.blocks", "0.0.blocks"): v for k, v in state.items()}
        state = {k.replace("0.downsample", "0.0.downsample"): v for k, v in state.items()}
        heads = ("norm.weight", "mask_token")
    return {prefix + k: v for k, v in {**state, **dict.fromkeys(heads, torch.ones(2))}.items()}


@needs_monai
@pytest.mark.parametrize("prefix", ["module.", "encoder."])
def test_pretrained_encoders_are_read(prefix: str) -> None:
    model = create()
    state = pretrained(model, prefix)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count = sum(k.startswith("swinViT.") and v.is_floating_point() for k, v in before.items())
    assert load_encoder(model, state) == count
    for key, value in model.state_dict().items():
        if key.startswith("swinViT.") and value.is_floating_point():
            assert value.equal(before[key] + 1.0), key
        else:
            assert value.equal(before[key]), key
    with pytest.raises(UsageError, match="the encoder has another form"):
        load_encoder(create(width=24), state)


@needs_monai
def test_published_checkpoints_are_read() -> None:
    model = create()
    state = {f"module.{k}": v for k, v in model.state_dict().items()}
    assert load_state(create(), state, "a file of several GPUs").converted
    assert list(convert(model.state_dict())) == list(model.state_dict())
    with pytest.raises(UsageError, match="does not fit SwinUnetr"):
        load_state(create(), pretrained(model, "module."), "an encoder only")
