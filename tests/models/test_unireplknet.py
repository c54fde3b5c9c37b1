from __future__ import annotations

import re
from typing import ClassVar

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.errors import UsageError
from sinet.measurement.cost import cost
from sinet.models import load_state
from sinet.models.unireplknet import BRANCHES, Block, DilatedReparam

from .tester import ModelTester, create, images, lively


class TestUniRepLKNet(ModelTester):
    module = "unireplknet"
    # the training form, whose dilated branches count; the published multiply-adds are those of the
    # merged form: all in tests/papers/test_published.py, two more closely below
    figures: ClassVar = {
        "unireplknet_test": (151_638, None),
        "unireplknet_a": (4_649_060, 674_684_480),
        "unireplknet_f": (6_489_328, 946_947_840),
        "unireplknet_p": (11_080_520, 1_628_801_024),
        "unireplknet_n": (18_818_880, 2_848_853_760),
        "unireplknet_t": (31_693_420, 5_003_516_800),
        "unireplknet_s": (56_456_704, 9_219_412_992),
        "unireplknet_b": (99_089_416, 16_224_446_464),
        "unireplknet_l": (220_076_056, 36_132_357_120),
        "unireplknet_xl": (388_690_984, 63_904_059_392),
    }


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random everywhere, as gamma and GRN start at nothing."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return lively(model).eval().double()


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [("unireplknet_a", 4_437_300, 0.64), ("unireplknet_f", 6_235_216, 0.91)],
)
def test_merged_form_has_the_published_cost(name: str, params: int, gmacs: float) -> None:
    found = cost(reparameterize_model(timm.create_model(name)), 224)
    assert found.params == params
    assert found.macs / 1e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize("kernel_size", sorted(BRANCHES))
def test_branches_merge_into_one_kernel(kernel_size: int) -> None:
    layer = filled(DilatedReparam(6, kernel_size))
    conv = layer.fuse()
    assert (conv.kernel_size, conv.groups) == ((kernel_size, kernel_size), 6)
    x = torch.randn(2, 6, 20, 23, dtype=torch.float64)
    torch.testing.assert_close(conv(x), layer(x), atol=1e-12, rtol=1e-12)


def test_a_branch_reaches_no_further_than_the_kernel() -> None:
    for kernel_size, branches in BRANCHES.items():
        assert all(r * (k - 1) + 1 <= kernel_size for k, r in branches)


@pytest.mark.parametrize("kernel_size", [3, 5, 13])
def test_block_merges_exactly(kernel_size: int) -> None:
    block = filled(Block(8, kernel_size, 0.0))
    merged = block.fuse()
    x = torch.randn(2, 8, 15, 11, dtype=torch.float64)
    torch.testing.assert_close(merged(x), block(x), atol=1e-12, rtol=1e-12)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in merged.modules())
    assert merged.fuse() is merged


def test_network_merges_exactly_and_keeps_the_original() -> None:
    model = filled(timm.create_model("unireplknet_test", num_classes=10))
    x = images(2, 3, 64, 80).double()
    before = model(x)
    torch.testing.assert_close(reparameterize_model(model)(x), before, atol=1e-12, rtol=1e-12)
    assert model(x).equal(before)


def test_merged_weights_load_into_a_merged_network() -> None:
    merged = reparameterize_model(create("unireplknet_test"))
    other = reparameterize_model(timm.create_model("unireplknet_test", num_classes=10)).eval()
    load_state(other, merged.state_dict(), "merged")
    assert other(images(1)).equal(merged(images(1)))
    with pytest.raises(UsageError, match="missing"):
        load_state(create("unireplknet_test"), merged.state_dict(), "merged")


def test_large_kernels_are_few() -> None:
    model = timm.create_model("unireplknet_t")
    large = [[isinstance(b.dw, DilatedReparam) for b in s if isinstance(b, Block)]
             for s in model.stages]  # fmt: skip
    assert large == [[False] * 3, [True] * 3, [True, False] * 9, [True] * 3]


def dense(**options: object) -> nn.Module:
    """Maps behind norms of their own, which do something here."""
    return create("unireplknet_test", features_only=True, feature_norms=True, **options)


def test_feature_norms_stand_behind_the_maps_only() -> None:
    x = images(1, 3, 64, 80)
    plain = create("unireplknet_test", features_only=True)(x)
    model = dense()
    norms = model.model.norms
    for found, before, norm in zip(model(x), plain, norms, strict=True):
        torch.testing.assert_close(found, norm(before), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found, before, atol=1e-2)
    assert create("unireplknet_test").norms is None


def test_feature_norms_of_some_maps() -> None:
    x, model = images(1), dense(out_indices=(0, -2))
    info = model.feature_info
    assert [m.shape[1:] for m in model(x)] == [(16, 16, 16), (32, 4, 4)]
    assert (info.channels(), info.reduction()) == ([16, 32], [4, 16])
    torch.testing.assert_close(model(x), dense()(x)[::2])
    assert not any(name.startswith("model.stages.3") for name in model.state_dict())
    with pytest.raises(UsageError, match=r"has the feature maps 0 to 3$"):
        dense(out_indices=(0, 4))


BACK = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.([1-3])\.0\.", r"downsample_layers.\1."),
    (r"^norms\.", "norm"),
    (r"\.dw\.branches\.(k\d+_\d+)\.(conv|bn)\.", r".dwconv.dil_\2_\1."),
    (r"\.dw\.origin\.conv\.", ".dwconv.lk_origin."),
    (r"\.dw\.origin\.bn\.", ".dwconv.origin_bn."),
    (r"\.dw\.", ".dwconv."),
    (r"\.se\.fc1\.", ".se.down."),
    (r"\.se\.fc2\.", ".se.up."),
    (r"(\.\d)\.fc1\.", r"\1.pwconv1.1."),
    (r"(\.\d)\.fc2\.", r"\1.pwconv2.0."),
    (r"(\.\d)\.bn\.", r"\1.pwconv2.2."),
    (r"\.grn\.weight$", ".act.1.gamma"),
    (r"\.grn\.bias$", ".act.1.beta"),
)
"""Our names -> the authors'."""


def authors_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The network's state as the authors' files have it."""
    state = {}
    for name, value in model.state_dict().items():
        for pattern, theirs in BACK:
            name = re.sub(pattern, theirs, name)
        # the first place of stages 2-4 is the downsampling here
        name = re.sub(r"^stages\.([1-3])\.(\d+)", lambda m: f"stages.{m[1]}.{int(m[2]) - 1}", name)
        state[name] = value.reshape(1, 1, 1, -1) if ".act.1." in name else value
    return state


def test_authors_network_for_dense_prediction_loads() -> None:
    """It has norm0 .. norm3 and no head."""
    model, x = dense(), images(1)
    expected, state = model(x), authors_state(model.model)
    assert {"norm0.weight", "norm3.bias", "stages.2.1.dwconv.weight"} <= state.keys()
    assert "stages.1.0.dwconv.dil_conv_k5_1.weight" in state
    assert not any(name.startswith(("head", "norm.")) for name in state)
    other = timm.create_model("unireplknet_test", features_only=True, feature_norms=True).eval()
    load_state(other.model, state, "the authors' file")
    torch.testing.assert_close(other(x), expected)


def test_a_kernel_without_branches_is_refused() -> None:
    with pytest.raises(UsageError, match="kernel size 12 has no branches"):
        DilatedReparam(8, 12)
