from __future__ import annotations

import itertools
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
from sinet.models.unetpp import UNetPP, convert

from .tester import lively

SMALL = ["unetpp_test", "unetpp_test_3d"]
# 1 input channel and 1 class (nnU-Net, MONAI: 2 classes; unetpp_bn: 3 channels)
PARAMETERS = {
    "unetpp": 9_041_700,
    "unetpp_bn": 9_163_428,
    "unetpp_nnunet": 24_000_032,
    "unetpp_nnunet_3d": 45_966_624,
    "unetpp_monai": 9_118_888,
    "unetpp_monai_3d": 6_979_976,
    "unetpp_test": 97_164,
    "unetpp_test_3d": 54_996,
}


def create(name: str, **kwargs: Any) -> UNetPP:
    torch.manual_seed(0)
    model = create_network(name, **kwargs).eval()
    assert isinstance(model, UNetPP)
    return lively(model)  # type: ignore[return-value]


def inputs(model: UNetPP, batch: int = 2, sides: tuple[int, ...] | None = None) -> torch.Tensor:
    sides = sides or {2: (32, 48), 3: (16, 16, 24)}[model.dims]
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, model.in_chans, *sides, generator=generator)


def macs(model: nn.Module, *shape: int) -> float:
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.empty(shape, device="meta"))
    return flops.get_total_flops() / 2


def test_every_name_has_its_figures() -> None:
    assert set(list_networks("unetpp*")) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in create_network(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("depth", "params", "cost"),
    [
        (1, 100_961, 0.489e9),
        (2, 511_105, 1.249e9),
        (3, 2_204_961, 2.452e9),
        (4, 9_041_601, 4.184e9),
    ],
)
def test_depths_cost_what_the_paper_says(depth: int, params: int, cost: float) -> None:
    with torch.device("meta"):
        pruned = create_network("unetpp").eval().prune(depth)
        built = create_network("unetpp", depth=depth, deep_supervision=False).eval()
    for model in (pruned, built):
        assert sum(p.numel() for p in model.parameters()) == params
        assert macs(model, 1, 1, 96, 96) == pytest.approx(cost, rel=1e-3)
    assert pruned.state_dict().keys() == built.state_dict().keys()


@pytest.mark.parametrize(("depth", "params"), [(1, 103_041), (2, 519_105), (3, 2_236_161)])
def test_depths_of_nested_unet(depth: int, params: int) -> None:
    with torch.device("meta"):
        model = create_network("unetpp_bn", depth=depth, deep_supervision=False)
    assert sum(p.numel() for p in model.parameters()) == params


def test_nested_unet_costs_what_its_card_says() -> None:
    with torch.device("meta"):
        model = create_network("unetpp_bn", deep_supervision=False).eval()
    assert sum(p.numel() for p in model.parameters()) == 9_163_329
    assert macs(model, 1, 3, 96, 96) == pytest.approx(4.85e9, rel=2e-3)


@pytest.mark.parametrize("name", SMALL)
def test_pruned_network_is_the_head_bit_for_bit(name: str) -> None:
    model = create(name)
    x = inputs(model)
    heads = model.forward_heads(model.forward_features(x))
    for depth, head in enumerate(heads, start=1):
        pruned = model.prune(depth)
        assert pruned(x).equal(head)
        assert pruned.training is False
        assert list(pruned.heads) == [str(depth)]
        small = create_network(name, depth=depth, deep_supervision=False).eval()
        small.load_state_dict(pruned.state_dict())
        assert small(x).equal(head)
    assert len(model.heads) == model.depth == len(heads)  # the original is whole
    assert model(x).equal(heads[-1])


def test_a_pruned_network_shares_nothing() -> None:
    model = create("unetpp_test")
    pruned = model.prune(2)
    with torch.no_grad():
        pruned.nodes["0_0"][0].conv.weight.zero_()
    assert model.nodes["0_0"][0].conv.weight.any()


def test_pruning_again() -> None:
    model = create("unetpp_test")
    x = inputs(model)
    with pytest.raises(UsageError, match="deep_supervision=True"):
        model.prune(3).prune(2)
    shallow = create_network("unetpp_test", depth=2).eval()
    assert shallow.prune(1)(x).shape == (2, 1, 32, 48)


@pytest.mark.parametrize("name", SMALL)
def test_training_gives_all_outputs_and_evaluation_the_last(name: str) -> None:
    model = create(name, num_classes=3)
    x = inputs(model)
    expected = (2, 3, *x.shape[2:])
    assert model(x).shape == expected
    outputs = model.train()(x)
    assert [out.shape for out in outputs] == [expected] * model.depth
    alone = create(name, deep_supervision=False).train()
    assert isinstance(alone(x), torch.Tensor)


@pytest.mark.parametrize("classes", [1, 3])
def test_average_is_the_mean_probability(classes: int) -> None:
    model = create("unetpp_test", num_classes=classes, average=True).double()
    x = inputs(model).double()

    def probabilities(logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid() if classes == 1 else logits.softmax(1)

    heads = model.forward_heads(model.forward_features(x))
    mean = torch.stack([probabilities(head) for head in heads]).mean(0)
    torch.testing.assert_close(probabilities(model(x)), mean, atol=1e-12, rtol=0)
    with pytest.raises(UsageError, match="deep_supervision"):
        create("unetpp_test", average=True, deep_supervision=False)


@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = create(name).train()
    sum(out.square().sum() for out in model(inputs(model))).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # a bias before a norm is undone by it: its gradient is only rounding
        if not parameter_name.endswith("conv.bias"):
            assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("unetpp_test", (16, 16)),
        ("unetpp_test", (33, 47)),
        ("unetpp_test_3d", (9, 16, 23)),
        ("unetpp_test_3d", (1, 17, 8)),
    ],
)
@pytest.mark.parametrize("style", ["pool", "stride", "linear"])
def test_any_size(name: str, sides: tuple[int, ...], style: str) -> None:
    if style == "pool" and sides[0] < 8:
        sides = (8, *sides[1:])
    options: dict[str, Any] = {
        "pool": {"pool": True, "up_widths": None},
        "stride": {"pool": False, "up_widths": None},
        "linear": {"pool": False, "up_widths": ()},
    }[style]
    model = create(name, **options)
    with torch.inference_mode():
        out = model(inputs(model, 1, sides))
    assert out.shape == (1, model.num_classes, *sides)
    assert out.isfinite().all()


def test_anisotropic_volumes() -> None:
    """Thick slices, as nnU-Net plans them: the first steps leave the depth alone."""
    model = create(
        "unetpp_test_3d",
        strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)),
        kernel_sizes=((1, 3, 3), 3, 3, 3),
        decoder_kernel_sizes=(3, 3, 3, 3),
    )
    assert model.nodes["0_0"][0].conv.kernel_size == (1, 3, 3)
    assert model.nodes["0_1"][0].conv.kernel_size == (3, 3, 3)
    assert model.ups["0_1"].kernel_size == (1, 2, 2)
    x = inputs(model, 1, (6, 32, 16))
    assert model(x).shape == (1, 2, 6, 32, 16)
    with torch.no_grad():
        maps = model.nodes["1_0"](model.nodes["0_0"](x))
    assert maps.shape[2:] == (6, 16, 8)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"depth": 5}, "depths 1 to 4"), ({"depth": 0}, "depths 1 to 4"), ({"strides": (2, 2)}, "4")],
)
def test_options_that_do_not_exist(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        create("unetpp_test", **options)


def test_sizes_that_do_not_fit_are_explained() -> None:
    model = create("unetpp_test")
    with pytest.raises(UsageError, match=r"8x40 is too small .* at least 16x16"):
        model(inputs(model, 1, (8, 40)))
    assert model.prune(3)(inputs(model, 1, (8, 40))).shape == (1, 1, 8, 40)
    with pytest.raises(UsageError, match="takes images"):
        model(torch.zeros(1, 3, 16))
    volumes = create("unetpp_test_3d")
    with pytest.raises(UsageError, match="takes volumes"):
        volumes(torch.zeros(1, 1, 16, 16))
    with pytest.raises(UsageError, match="one of them as long as in 9x9x9"):
        volumes(inputs(volumes, 1, (8, 8, 8)))
    with pytest.raises(UsageError, match="depths 1 to 3"):
        volumes.prune(4)


@pytest.mark.parametrize("name", SMALL)
def test_double_precision(name: str) -> None:
    model = create(name)
    x = inputs(model, 1)
    exact = create(name).double()(x.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(model(x).double(), exact, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_image_does_not_depend_on_its_batch(name: str) -> None:
    model = create(name).double()
    x = inputs(model, 3).double()
    with torch.inference_mode():
        together, alone = model(x), torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("name", "training"), [("unetpp_test", True), ("unetpp_test_3d", False)])
def test_compiles_to_one_graph(name: str, training: bool) -> None:
    torch.compiler.reset()
    model = create(name).train(training)
    x = inputs(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(("name", "opset"), [("unetpp_test", 17), ("unetpp_test_3d", 20)])
def test_onnx_runtime_agrees(name: str, opset: int, odd: bool, tmp_path: Path) -> None:
    model = create(name)
    sides = {2: (35, 49), 3: (9, 16, 23)}[model.dims] if odd else None
    path = str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (inputs(model, 2, sides),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = inputs(model, batch, sides)
        (logits,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(logits, model(x).detach().numpy(), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", SMALL)
def test_weights_round_trip(name: str, tmp_path: Path) -> None:
    model, other = create(name), create(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    for parameter in other.parameters():
        parameter.data.zero_()
    report = load_weights(other, tmp_path / "model.safetensors")
    assert report.tensors == len(model.state_dict())
    assert not report.converted
    assert other(inputs(model)).equal(model(inputs(model)))


def test_weights_of_other_classes_and_channels_start_it() -> None:
    source = create("unetpp_test")
    model = create("unetpp_test", num_classes=4, in_chans=1)
    report = load_state(model, source.state_dict(), "source")
    assert len(report.adapted) == 2
    assert model.nodes["1_0"][0].conv.weight.equal(source.nodes["1_0"][0].conv.weight)
    assert not model.heads["1"].weight.any()


def test_weights_of_another_depth_are_refused() -> None:
    with pytest.raises(UsageError, match="does not fit UNetPP"):
        load_state(create("unetpp_test", depth=3), create("unetpp_test").state_dict(), "L4")


def test_dropout_only_while_training() -> None:
    model = create("unetpp", widths=(8, 8, 8), deep_supervision=False)
    x = inputs(model)
    assert model(x).equal(model(x))
    model.train()
    assert not model(x).equal(model(x))


def test_columns_read_what_the_paper_draws() -> None:
    """X(i, j) takes j maps of its level and one from below; in the Keras network that one first."""
    model = create("unetpp_test", up_widths=(3, 3, 3, 3))
    widths = (8, 12, 16, 24, 32)
    for i, j in itertools.product(range(5), range(1, 5)):
        if i + j <= 4:
            assert model.nodes[f"{i}_{j}"][0].conv.in_channels == j * widths[i] + 3
    first, last = create("unetpp"), create("unetpp", up_first=False)
    node, width = "nodes.0_1.0.conv.weight", 32
    state = first.state_dict()
    state[node] = state[node].roll(width, 1)  # skip and upward map have 32 channels each
    for column in (2, 3, 4):
        name = f"nodes.0_{column}.0.conv.weight"
        state[name] = state[name].roll(-width, 1)
    for i, j in itertools.product(range(1, 4), range(1, 4)):
        name = f"nodes.{i}_{j}.0.conv.weight"
        if name in state:
            state[name] = state[name].roll(-width * 2**i, 1)
    last.load_state_dict(state)
    x = inputs(first, 1, (16, 32))
    torch.testing.assert_close(first(x), last(x), atol=1e-4, rtol=1e-4)


def test_head_of_an_unsupervised_nested_unet() -> None:
    names = {"conv0_0.conv1.weight", "conv0_3.bn2.running_var", "final.weight"}
    ours = convert({name: torch.zeros(1) for name in names})
    assert set(ours) == {
        "nodes.0_0.0.conv.weight", "nodes.0_3.1.norm.running_var", "heads.3.weight",
    }  # fmt: skip


@pytest.mark.parametrize("dims", [2, 3])
def test_monai_network_is_this_one(dims: int) -> None:
    nets = pytest.importorskip("monai.networks.nets")
    features = (8, 8, 16, 24, 32, 12)
    torch.manual_seed(0)
    theirs = nets.BasicUNetPlusPlus(dims, 2, 3, features, deep_supervision=True).double().eval()
    ours = create(
        "unetpp_monai_3d",
        dims=dims, in_chans=2, num_classes=3, widths=features[:5], last_width=features[5],
        up_widths=(8, 8, 12, 16),
    ).double()  # fmt: skip
    assert load_state(ours, theirs.state_dict(), "monai").converted
    for sides in ((32, 16, 16), (17, 35, 16)):  # MONAI continues odd sides by their last row too
        x = inputs(ours, 1, sides[:dims]).double()
        expected = theirs(x)
        got = ours.forward_heads(ours.forward_features(x))
        for have, want in zip(got, expected, strict=True):
            torch.testing.assert_close(have, want, atol=1e-12, rtol=1e-10)
