from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import onnxruntime
import pytest
import timm
import torch
from timm.layers.pool2d_same import AvgPool2dSame
from timm.models.nasnet import NASNetALarge
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

from sinet.deployment.export import export_network
from sinet.errors import UsageError
from sinet.models._nasnet_cell import (
    COMBINATIONS,
    NORMAL_A,
    OPERATIONS,
    REDUCTION_A,
    Block,
    CellSpec,
)
from sinet.models.nasnet import (
    Cell,
    FactorizedReduction,
    NASNet,
    Pool,
    ScheduledDropPath,
    Separable,
    convert,
    operation,
)

from .tester import ModelTester, create, images, lively


class TestNasnet(ModelTester):
    module = "nasnet"
    figures: ClassVar = {
        "nasnet_test": (263_750, None),
        "nasnet_mobile": (5_289_978, 564e6),
        "nasnet_large": (88_753_150, 23.8e9),
        # TensorFlow's first cell takes the stem's 96 channels as its previous input as they are;
        # 3,325,098 (523 M) would be with the projected 32 channels twice
        "nasnet_cifar": (3_346_538, 544_333_312),
    }

    padded_stem = False

    def side(self, size: int, reduction: int) -> int:
        if self.padded_stem:
            return super().side(size, reduction)
        half = (size - 3) // 2 + 1
        return -(-half // (reduction // 2))

    def test_maps_of_every_variant(self, variant: str) -> None:
        self.padded_stem = variant == "nasnet_cifar"
        super().test_maps_of_every_variant(variant)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(8, 8), (7, 10)])
def test_operations_keep_or_halve_a_map(name: str, stride: int, shape: tuple[int, int]) -> None:
    halved = tuple(-(-side // stride) for side in shape)
    for out_chs in (6, 4):
        out = operation(name, 6, out_chs, stride, 1e-3)(torch.randn(2, 6, *shape))
        assert out.shape == (2, out_chs, *halved)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("conv1", (6 * 4,)),
        ("conv3", (6 * 4 * 9,)),
        ("dil3", (6 * 4 * 9,)),
        ("conv1x3", (6 * 4 * 3, 4 * 4 * 3)),
        ("conv1x7", (6 * 4 * 7, 4 * 4 * 7)),
        ("sep7", (6 * 49, 6 * 4, 4 * 49, 4 * 4)),
    ],
)
def test_kernels_of_operations(name: str, weights: tuple[int, ...]) -> None:
    convs = [m for m in operation(name, 6, 4, 2, 1e-3).modules() if isinstance(m, nn.Conv2d)]
    assert [c.weight.numel() for c in convs] == list(weights)


def test_a_dilated_convolution_reads_every_second_pixel() -> None:
    module, x = operation("dil3", 1, 1, 1, 1e-3).eval(), torch.rand(1, 1, 7, 7, requires_grad=True)
    module(x)[0, 0, 3, 3].backward()
    assert x.grad is not None
    assert x.grad.ne(0).nonzero()[:, 2:].unique().tolist() == [1, 3, 5]


@pytest.mark.parametrize("kind", ["avg3", "max3", "max5", "max7"])
@pytest.mark.parametrize("shape", [(8, 8), (7, 8), (9, 5)])
def test_strided_pools_pad_as_tensorflow(kind: str, shape: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *shape)
    out, side = Pool(kind, 2)(x), int(kind[3:])
    for row in range(out.shape[2]):
        for col in range(out.shape[3]):
            # the larger half of the padding is at the bottom and on the right
            top, left = (
                2 * i - max((-(-size // 2) - 1) * 2 + side - size, 0) // 2
                for i, size in zip((row, col), shape, strict=True)
            )
            window = x[..., max(top, 0) : top + side, max(left, 0) : left + side]
            expected = window.mean((2, 3)) if kind == "avg3" else window.amax((2, 3))
            torch.testing.assert_close(out[..., row, col], expected)


def test_separable_pads_as_tensorflow() -> None:
    module = Separable(3, 4, 5, 2, 1e-3).eval()
    x = torch.randn(1, 3, 8, 8)
    padded = F.pad(x.relu(), (1, 2, 1, 2))
    half = module.pw_1(F.conv2d(padded, module.dw_1.weight, stride=2, groups=3)).relu()
    torch.testing.assert_close(module(x), module.pw_2(module.dw_2(half)))


def test_factorized_reduction_sees_every_pixel_and_folds() -> None:
    module = lively(FactorizedReduction(3, 6, 1e-3)).double().eval()
    x = torch.randn(1, 3, 7, 6, dtype=torch.double, requires_grad=True)
    fused = module.fuse()
    torch.testing.assert_close(fused(x), module(x), atol=1e-12, rtol=1e-12)
    assert module(x).shape == (1, 6, 4, 3)
    fused(x)[:, :3].sum().backward()
    even = x.grad.ne(0)
    assert even[..., ::2, ::2].all()
    assert not even[..., 1::2, :].any()


def test_fused_network_is_exact() -> None:
    model, x = create("nasnet_test").double(), images().double()
    fused = reparameterize_model(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(fused(x), model(x), atol=1e-11, rtol=1e-11)


def test_normal_cell_is_the_published_one() -> None:
    torch.manual_seed(0)
    cell = Cell(NORMAL_A, 8, 12, 10).eval()
    current, previous = torch.randn(1, 12, 6, 6), torch.randn(1, 10, 6, 6)
    c, p, op = cell.current(current), cell.previous(previous), cell.ops
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    sums = [op[0](c) + op[1](p), op[2](p) + op[3](p), pool(c) + p, 2 * pool(p), op[8](c) + c]
    torch.testing.assert_close(cell(current, previous), torch.cat([p, *sums], 1))


def test_a_concatenation_is_as_wide_as_both() -> None:
    blocks: tuple[Block, ...] = ((0, "conv1", 1, "max5", "concat"), (2, "avg3", 0, "conv1", "add"))
    for stride in (1, 2):
        cell = Cell(CellSpec(blocks, (2, 1, 3)), 4, 6, 5, stride=stride).eval()
        current, previous = torch.randn(1, 6, 8, 8), torch.randn(1, 5, 8, 8)
        c, p, op = cell.current(current), cell.previous(previous), cell.ops
        b0 = torch.cat((op[0](c), op[1](p)), 1)
        out = torch.cat((b0, cell.fits[1](p), op[2](b0) + op[3](c)), 1)
        torch.testing.assert_close(cell(current, previous), out)
        assert cell.num_chs == out.shape[1] == 16


def test_unused_states_are_the_output() -> None:
    assert CellSpec(NORMAL_A.blocks).ends == (2, 3, 4, 5, 6)
    assert CellSpec(((0, "sep3", 0, "sep3", "add"),)).ends == (1, 2)


@pytest.mark.parametrize("spec", [NORMAL_A, REDUCTION_A, CellSpec(NORMAL_A.blocks)])
def test_cells_as_plain_values(spec: CellSpec) -> None:
    assert CellSpec.of(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"blocks": []}, "without blocks"),
        ({"blocks": [[0, "sep3", 1, "sep4", "add"]]}, "unknown operation of a cell 'sep4'"),
        ({"blocks": [[0, "sep3", 2, "sep3", "add"]]}, "block 0 .* reads state 2; there are 0 to 1"),
        ({"blocks": [[0, "sep3", 1, "sep3", "sum"]]}, "known: add, concat"),
        ({"blocks": [[0, "sep3", 1, "sep3"]]}, "is no cell"),
        ({"blocks": [[0, "sep3", 1, "sep3", "add"]], "outputs": [3]}, "the output .* state 3"),
        (["sep3"], "is no cell"),
    ],
)
def test_what_is_no_cell_is_explained(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CellSpec.of(values)


def test_cells_of_any_operations_fold_and_export(tmp_path: Path) -> None:
    """All operations and both combinations in one network, as a file computes it."""
    states, ops = range(2, 9), iter(OPERATIONS + OPERATIONS[:1])
    blocks = tuple((k % 2, next(ops), k - 1, next(ops), COMBINATIONS[k % 2]) for k in states)
    spec = CellSpec(blocks).to_dict()
    options = {"cells": 3, "dim": 4, "stem_width": 8, "normal": spec, "reduction": spec}
    model = lively(timm.create_model("nasnet_cifar", **options)).eval()
    x = torch.randn(1, 3, 21, 16)
    fused = reparameterize_model(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(fused(x), model(x), atol=1e-4, rtol=1e-4)
    file = export_network(model, (21, 16), 3, tmp_path / "cells.onnx")
    out = onnxruntime.InferenceSession(file).run(None, {"input": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(out), model(x), atol=1e-3, rtol=1e-3)


def test_previous_inputs_after_a_reduction() -> None:
    with torch.device("meta"):
        mobile, large = (timm.create_model(f"nasnet_{name}") for name in ("mobile", "large"))
    assert [mobile.offsets.index(-1), large.offsets.index(-1)] == [0, 0]
    assert -3 not in mobile.offsets
    assert [i for i, offset in enumerate(large.offsets) if offset == -3] == [9, 16]


def test_drop_path_grows_with_depth_and_time() -> None:
    model = timm.create_model("nasnet_test", drop_path_rate=0.4)
    first, *_, last = (
        next(m for m in cell.modules() if isinstance(m, ScheduledDropPath)) for cell in model.cells
    )
    assert (first.drop_prob, last.drop_prob) == pytest.approx((0.4 / 7, 0.4))
    model.set_drop_path_progress(0.25)
    assert (first.drop_prob, last.drop_prob) == pytest.approx((0.1 / 7, 0.1))
    model.set_drop_path_progress(0)
    x = images(2)
    torch.manual_seed(0)
    assert model.train()(x).isfinite().all()


def test_large_is_timm_s_but_for_its_strided_average_pools() -> None:
    torch.manual_seed(0)
    theirs = lively(NASNetALarge(num_classes=10, stem_size=16, num_features=192)).double().eval()
    torch.manual_seed(0)
    options = {"cells": 18, "dim": 8, "stem_width": 16, "skip_reduction_input": True}
    ours = NASNet(**options, num_classes=10).double().eval()
    ours.load_state_dict(convert(theirs.state_dict()))
    x = images(1, 3, 75, 97).double()
    assert not torch.allclose(ours(x), theirs(x), atol=1e-6)
    pools = [name for name, m in theirs.named_modules() if isinstance(m, AvgPool2dSame)]
    for name in pools:
        theirs.set_submodule(name, Pool("avg3", theirs.get_submodule(name).stride[0]))
    assert len(pools) == 4
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-12, rtol=1e-12)


def test_own_names_pass_unchanged() -> None:
    state = create("nasnet_test").state_dict()
    assert list(convert(state)) == list(state)
