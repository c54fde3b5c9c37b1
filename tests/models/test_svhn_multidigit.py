from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.measurement.cost import cost
from sinet.models import create_network, list_networks, load_state, load_weights
from sinet.models.svhn_multidigit import (
    NO_DIGIT,
    LocallyConnected,
    Maxout,
    NumberLogits,
    SubtractiveNorm,
    _paper_layer,
    coverage_at,
    number_loss,
    read_numbers,
)

SMALL = ["svhn_multidigit_test", "svhn_multidigit_bn_test"]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = create_network(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def images(batch: int = 2, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "params", "mmacs"),
    [
        # convolutions 4,338,464, locally connected 14,748,672, dense 18,880,512, heads 175,161
        ("svhn_multidigit", 38_142_809, None),
        ("svhn_multidigit_bn", 42_868_734, 793.27),
    ],
)
def test_cost(name: str, params: int, mmacs: float | None) -> None:
    with torch.device("meta"):
        model = create_network(name)
    found = cost(model, 54)
    assert found.params == params
    if mmacs is not None:
        assert found.macs / 1e6 == pytest.approx(mmacs, abs=0.01)


def test_variants() -> None:
    assert len(list_networks("svhn_multidigit*")) == 4
    for name in SMALL:
        assert sum(p.numel() for p in create_network(name).parameters()) < 1_000_000


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("svhn_multidigit", [27, 27, 14, 14, 7, 7, 4, 4]),
        ("svhn_multidigit_bn", [28, 29, 15, 16, 9, 10, 6, 7]),
    ],
)
def test_maps_shrink_as_published(name: str, sides: list[int]) -> None:
    with torch.device("meta"):
        x, model = torch.empty(1, 3, 54, 54), create_network(name)
        found = [(x := layer(x)).shape[-1] for layer in model.features]
    assert found[:8] == sides


@pytest.mark.parametrize("name", SMALL)
def test_logits_of_length_and_digits(name: str) -> None:
    length, digits = network(name)(images())
    assert length.shape == (2, 7)
    assert digits.shape == (2, 5, 11 if "bn" in name else 10)


def test_other_places_and_oblong_images() -> None:
    model = create_network(SMALL[0], places=3, img_size=(24, 40), in_chans=1).eval()
    length, digits = model(torch.randn(2, 1, 24, 40))
    assert length.shape == (2, 5)
    assert digits.shape == (2, 3, 10)


@pytest.mark.parametrize(("name", "fits"), [(SMALL[0], (29, 32)), (SMALL[1], (32, 35))])
def test_sizes_that_fit(name: str, fits: tuple[int, int]) -> None:
    model = network(name)
    for side in fits:
        assert model(images(1, side, side)).length.isfinite().all()
    for side in (fits[0] - 1, fits[1] + 1):
        with pytest.raises(UsageError, match=f"32 x {side} .*{fits[0]} to {fits[1]} pixels"):
            model(images(1, 32, side))


@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = network(name).train()
    length, digits = model(images(8))
    (length.square().sum() + digits.square().sum()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # a bias in front of a batch norm is taken off again
        if not ("bn" in name and key.startswith("features") and key.endswith("0.bias")):
            assert parameter.grad.any(), key


@pytest.mark.parametrize("name", SMALL)
def test_double_precision(name: str) -> None:
    model, x = network(name), images()
    plain = [out.double() for out in model(x)]
    exact = list(model.double()(x.double()))
    torch.testing.assert_close(plain, exact, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_image_does_not_depend_on_its_batch(name: str) -> None:
    model, x = network(name), images(3)
    alone = torch.cat([model(one[None]).digits for one in x])
    torch.testing.assert_close(model(x).digits, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_dropout_only_while_training(name: str) -> None:
    model, x = network(name), images()
    assert model(x).digits.equal(model(x).digits)
    rates = {m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    assert rates == ({0.2, 0.0} if "bn" in name else {0.5})
    model.train()
    assert not model(x).digits.equal(model(x).digits)


@pytest.mark.parametrize("name", SMALL)
def test_compiles_to_one_graph(name: str) -> None:
    torch.compiler.reset()
    model, x = network(name), images()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(list(compiled(x)), list(model(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_onnx_runtime_agrees(name: str, tmp_path: Path) -> None:
    model, path = network(name), str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images(),),
            path,
            dynamo=False,
            input_names=["x"],
            output_names=["length", "digits"],
            dynamic_axes={"x": {0: "batch"}},
        )
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        found = session.run(None, {"x": images(batch).numpy()})
        for a, b in zip(found, model(images(batch)), strict=True):
            np.testing.assert_allclose(a, b.detach().numpy(), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", SMALL)
def test_weights_round_trip(name: str, tmp_path: Path) -> None:
    model, other = network(name), create_network(name).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert other(images()).digits.equal(model(images()).digits)
    with pytest.raises(UsageError, match="does not fit MultiDigitNet"):
        load_state(other, network(SMALL[1 - SMALL.index(name)]).state_dict(), "other")


def test_maxout_takes_the_largest_of_a_units_pieces() -> None:
    x = torch.randn(2, 12, 4, 5)
    units = [x[:, 3 * u : 3 * u + 3].amax(1) for u in range(4)]
    assert Maxout(3)(x).equal(torch.stack(units, 1))


@pytest.mark.parametrize(("stride", "side"), [(1, 5), (1, 6), (2, 5), (2, 6)])
def test_pools_keep_the_size(stride: int, side: int) -> None:
    """A window that leaves the map is the maximum of what is left of it, below zero, too."""
    pool = nn.Sequential(*_paper_layer(1, 1, stride, 1, 0.0)[2:-2])
    x = torch.randn(1, 1, side, side) - 5
    padded = F.pad(x, (0, 1, 0, 1), value=-math.inf)
    wanted = F.max_pool2d(padded, 2, stride)[..., : -(-side // stride), : -(-side // stride)]
    assert pool(x).equal(wanted)


def test_subtractive_norm_takes_off_brightness() -> None:
    norm, x = SubtractiveNorm(), torch.randn(1, 3, 6, 7, dtype=torch.float64)
    assert norm(torch.full((1, 2, 4, 4), 3.0)).abs().max() < 1e-6
    torch.testing.assert_close(norm(x + 7), norm(x))
    assert norm(x)[0, 1, 2, 3] == pytest.approx((x[0, 1, 2, 3] - x[0, 1, 1:4, 2:5].mean()).item())


def test_locally_connected_is_a_convolution_of_each_position() -> None:
    torch.manual_seed(0)
    layer = LocallyConnected(3, 4, (2, 5), 5).double()
    layer.bias.data.normal_()
    x = torch.randn(2, 3, 2, 5, dtype=torch.float64)
    out = layer(x)
    for position in range(10):
        kernel = layer.weight[position].view(4, 3, 5, 5)
        everywhere = F.conv2d(x, kernel, layer.bias[:, position], padding=2).flatten(2)
        torch.testing.assert_close(out.flatten(2)[..., position], everywhere[..., position])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("classes", [3, 10])
def test_reading_is_the_best_of_all_sequences(seed: int, classes: int) -> None:
    """Against every number of up to three digits (classes 3: an alphabet of three)."""
    random = torch.Generator().manual_seed(seed)
    length = torch.randn(1, 5, generator=random).double()
    digits = 2 * torch.randn(1, 3, classes, generator=random).double()
    of_length, of_digit = length.log_softmax(-1)[0], digits.log_softmax(-1)[0]
    scores = {(9,) * 4: of_length[4].item()}  # more than three
    for n in range(4):
        for number in itertools.product(range(classes), repeat=n):
            chosen = [of_digit[i, c].item() for i, c in enumerate(number)]
            scores[number] = of_length[n].item() + sum(chosen)
    best = max(scores, key=lambda number: scores[number])
    found = read_numbers(length, digits)
    assert found.length.item() == len(best)
    read = best if len(best) < 4 else ()
    assert found.digits.tolist() == [[*read, *[NO_DIGIT] * (3 - len(read))]]
    assert found.log_prob.item() == pytest.approx(scores[best])


def test_reading_is_not_head_by_head() -> None:
    """Two digits are likelier than one, but no digits are sure: one digit is read."""
    length = torch.tensor([[0.0, 0.4, 0.5, 0.0]]).clamp(min=0.01).log()
    digits = torch.full((1, 2, 10), 0.0)
    digits[0, 0, 7] = 20.0  # the first is sure, the second not at all
    found = read_numbers(length, digits)
    assert length.argmax().item() == 2
    assert found.length.item() == 1
    assert found.digits.tolist() == [[7, NO_DIGIT]]


def test_too_long_numbers_are_refused() -> None:
    length = torch.zeros(1, 7)
    length[0, 6] = 30.0
    found = read_numbers(length, torch.randn(1, 5, 10))
    assert found.length.item() == 6
    assert (found.digits == NO_DIGIT).all()
    assert found.log_prob.item() == pytest.approx(0.0, abs=1e-5)


def test_class_none_is_never_read() -> None:
    length, digits = torch.zeros(1, 7), torch.zeros(1, 5, 11)
    length[0, 2], digits[..., 10], digits[..., 4] = 50.0, 9.0, 1.0
    assert read_numbers(length, digits).digits.tolist() == [[4, 4, -1, -1, -1]]


def test_extreme_logits_stay_finite() -> None:
    found = read_numbers(torch.full((1, 7), -1e4), torch.full((1, 5, 10), 1e4))
    assert found.log_prob.isfinite().all()


def test_loss_is_minus_the_log_probability_of_the_number() -> None:
    torch.manual_seed(0)
    logits = NumberLogits(torch.randn(2, 7), torch.randn(2, 5, 10, requires_grad=True))
    digits = torch.tensor([[1, 7, 5, -1, -1], [0, -1, -1, -1, -1]])
    loss = number_loss(logits, torch.tensor([3, 1]), digits)
    of_length, of_digit = logits.length.log_softmax(-1), logits.digits.log_softmax(-1)
    first = of_length[0, 3] + of_digit[0, 0, 1] + of_digit[0, 1, 7] + of_digit[0, 2, 5]
    second = of_length[1, 1] + of_digit[1, 0, 0]
    torch.testing.assert_close(loss, -(first + second) / 2)
    loss.backward()
    silent = (logits.digits.grad.abs().sum(-1) == 0).tolist()
    assert silent == (digits == NO_DIGIT).tolist()


def test_class_none_is_learnt_where_there_is_one() -> None:
    digits = torch.zeros(1, 5, 11)
    digits[..., 10] = 60.0
    logits, none = NumberLogits(torch.zeros(1, 7), digits), torch.full((1, 5), NO_DIGIT)
    loss = number_loss(logits, torch.tensor([0]), none, none_class=True)
    assert loss.item() == pytest.approx(math.log(7))


@pytest.mark.parametrize(
    ("accuracy", "share"), [(1.0, 0.4), (0.75, 0.8), (0.6, 1.0), (0.98, 0.4), (0.0, 1.0)]
)
def test_coverage(accuracy: float, share: float) -> None:
    log_prob = torch.tensor([-0.3, -0.1, -0.5, -0.2, -0.4])  # order: right right wrong right wrong
    correct = torch.tensor([False, True, False, True, True])
    assert coverage_at(accuracy, log_prob, correct) == pytest.approx(share)


def test_coverage_parts_no_equal_confidences() -> None:
    log_prob, correct = torch.zeros(4), torch.tensor([True, True, True, False])
    assert coverage_at(0.9, log_prob, correct) == 0.0
    assert coverage_at(0.75, log_prob, correct) == 1.0
    assert coverage_at(0.9, log_prob[:0], correct[:0]) == 0.0
