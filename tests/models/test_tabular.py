"""Seven kinds of fully connected networks with one set of options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from sinet.deployment.export import export_network
from sinet.errors import UsageError
from sinet.models import create_network, list_networks
from sinet.models.tabular import KINDS, HeLinear, Highway, Residual, TableNet, WeighedLinear

PLAIN = 5 * 32 + 32 + 4 * (32 * 32 + 32) + 32 * 3 + 3
COUNTS = {
    "snn": PLAIN, "relu": PLAIN, "batchnorm": PLAIN + 5 * 64, "layernorm": PLAIN + 5 * 64,
    "weightnorm": PLAIN + 5 * 32, "highway": PLAIN + 4 * (32 * 32 + 32), "resnet": PLAIN,
}  # fmt: skip


def make(kind: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    given = {"num_classes": 3, "in_chans": 5, "depth": 5, "width": 32, **options}
    return create_network(f"table_{kind}", **given)


def test_every_kind_is_registered() -> None:
    assert list_networks("table_*", "tabular") == sorted(f"table_{kind}" for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_gradients(kind: str) -> None:
    network = make(kind)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[kind]
    network(torch.randn(7, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_files_say_the_same(kind: str, tmp_path: Path) -> None:
    network = make(kind, drop_rate=0.2).eval()
    file = export_network(network, (), 5, tmp_path / "x.onnx")
    x = torch.randn(4, 5)
    (found,) = ort.InferenceSession(str(file)).run(None, {"input": x.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(found, network(x).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_only(kind: str) -> None:
    network, x = make(kind, drop_rate=0.5), torch.randn(8, 5)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_weights_begin_as_they_should() -> None:
    for kind, gain in (("snn", 1.0), ("relu", 2.0), ("weightnorm", 2.0)):
        layer = make(kind, width=512, depth=2).layers[1].fc  # type: ignore[index]
        assert layer.weight.var().item() * 512 == pytest.approx(gain, rel=0.02)


def test_weight_normalisation_is_pytorchs() -> None:
    ours, theirs = WeighedLinear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if k != "length"})
    theirs = weight_norm(theirs)
    x = torch.randn(3, 6)
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.no_grad():
        ours.length *= 2
        ours.weight *= 7
        theirs.parametrizations.weight.original0 *= 2
        theirs.parametrizations.weight.original1 *= 7
    torch.testing.assert_close(ours(x), theirs(x))


def test_closed_gates_and_silent_branches_pass_their_input() -> None:
    x = torch.randn(3, 8)
    gate, block = Highway(8, 0.0), Residual(8, 0.0)
    with torch.no_grad():
        gate.gate.bias.fill_(-100.0)
        block.second.weight.zero_()
    assert torch.allclose(gate(x), x)
    assert torch.equal(block(x), x)
    assert isinstance(block.second, HeLinear)


def test_conic_networks_shrink() -> None:
    widths = [layer.fc.out_features for layer in make("snn", form="conic", depth=4).layers]
    assert widths == [32, 18, 10, 5]


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("resnet", {"form": "conic"}, "resnet adds its input to its output"),
        ("snn", {"form": "round"}, "unknown form 'round'"),
        ("snn", {"depth": 0}, "depth 0 given"),
    ],
)
def test_options_that_cannot_be(kind: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make(kind, **options)


def test_an_unknown_kind_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'batchnorm'"):
        TableNet("batch_norm", 3, 5)
