from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.models import load_state
from sinet.models.moat import MOAT, Attention, MBConv, MOATBlock, SamePool, convert

from .tester import ModelTester, create, images, lively


class TestMoat(ModelTester):
    module = "moat"
    drop_path_after_last = True  # as in the origin
    # The multiply-adds are those of convolutions, linear layers and products; the published 1.1,
    # 1.6, 3.0, 6.0, 5.7, 9.1, 54.3, 271 and 648.5 G are up to 3% more and count softmax as well
    # (before they are rounded; compared in tests/papers/test_published.py).
    figures: ClassVar = {
        "moat_test": (151_744, None),
        "tiny_moat_0": (3_355_348, 1.041e9),
        "tiny_moat_1": (5_122_895, 1.576e9),
        "tiny_moat_2": (9_772_741, 2.975e9),
        "tiny_moat_3": (19_534_390, 5.897e9),
        "moat_0": (27_846_892, 5.638e9),
        "moat_1": (41_598_448, 9.001e9),
        "moat_2": (73_422_408, 53.28e9),
        "moat_3": (189_958_040, 263.4e9),
        "moat_4": (483_214_184, 636.3e9),
    }


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny_moat_0", 3.332), ("moat_0", 27.778), ("moat_2", 73.248), ("moat_4", 482.539)],
)
def test_position_tables_can_be_left_out(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, position_sizes=())
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)
    assert model.no_weight_decay() == set()


def test_tables_are_not_decayed() -> None:
    assert len(create("moat_test").no_weight_decay()) == 3


def random_state(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return lively(module).double().eval()


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (8, 7)])
def test_padding_is_tensorflows(size: tuple[int, int]) -> None:
    """A step of 2 on an even side pads after it only; windows start at 0, not at -1."""
    block = random_state(MBConv(4, 4, 2))
    assert isinstance(block, MBConv)
    x = torch.randn(1, 16, *size, dtype=torch.float64)
    before = [side % 2 for side in size]
    padded = F.pad(x, (before[1], 1, before[0], 1))
    conv = block.depthwise.conv
    expected = F.conv2d(padded, conv.weight, stride=2, groups=16)
    torch.testing.assert_close(conv(x), expected)
    assert expected.shape[2:] == tuple(-(-side // 2) for side in size)


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("size", [(6, 6), (5, 7), (6, 5)])
def test_pooling_leaves_padding_out_of_the_mean(kernel_size: int, size: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    out = SamePool(kernel_size)(x)
    ones = torch.ones_like(x)
    torch.testing.assert_close(SamePool(kernel_size)(ones), torch.ones_like(out))
    starts = []
    for side in size:
        total = max((-(-side // 2) - 1) * 2 + kernel_size - side, 0)
        starts.append([i * 2 - total // 2 for i in range(-(-side // 2))])
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            window = x[:, :, max(top, 0) : top + kernel_size, max(left, 0) : left + kernel_size]
            torch.testing.assert_close(out[:, :, i, j], window.mean((2, 3)))


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (6, 2)])
def test_position_table_by_its_definition(size: tuple[int, int]) -> None:
    h, w = size
    layer = random_state(Attention(32, 16, position_size=4))
    assert isinstance(layer, Attention)
    assert layer.position is not None
    table = layer.position.detach()
    if size != (4, 4):
        table = F.interpolate(table[None], (2 * h - 1, 2 * w - 1), mode="bilinear")[0]
    bias = layer.bias(h, w)
    assert bias is not None
    for i in range(h * w):
        for j in range(h * w):
            dy, dx = j // w - i // w, j % w - i % w  # key minus query
            torch.testing.assert_close(bias[:, i, j].detach(), table[:, dy + h - 1, dx + w - 1])


def test_windows_see_only_themselves_and_must_divide_the_map() -> None:
    layer = random_state(Attention(32, window=(2, 4)))
    x = torch.randn(1, 32, 4, 8, dtype=torch.float64)
    other = x.clone()
    other[:, :, 2:, :] += 1
    changed = (layer(x) != layer(other)).any(1)[0]
    assert not changed[:2].any()
    assert changed[2:].all()
    torch.testing.assert_close(layer(x)[:, :, 2:, 4:], layer(x[:, :, 2:, 4:].contiguous()))
    with pytest.raises(UsageError, match="5 x 8 does not divide into windows of 2 x 4"):
        layer(torch.randn(1, 32, 5, 8, dtype=torch.float64))


def test_norms_fold_to_the_last_digit() -> None:
    model = create("moat_test").double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-3, 0.01)
    fused = reparameterize_model(model)
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    x = images(2).double()
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), model(x), atol=1e-12, rtol=1e-12)


def test_first_block_always_survives() -> None:
    model = MOAT(8, (16, 16, 32, 64), (1, 2, 2, 1), drop_path_rate=0.6)
    rates = [
        (b.mbconv if isinstance(b, MOATBlock) else b).drop_path for s in model.stages for b in s
    ]
    assert isinstance(rates[0], nn.Identity)
    assert [r.drop_prob for r in rates[1:]] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def tensorflow_variables(model: nn.Module) -> dict[str, torch.Tensor]:
    """The network's state as TensorFlow would have written it."""
    variables = {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        for ours, theirs in (
            ("stem.conv1.conv", "stem.conv_0"), ("stem.conv1.norm", "stem.norm_0"),
            ("stem.conv2", "stem.conv_1"), (".mbconv.", "."), (".expand.pre_norm", ".pre_norm"),
            (".expand.conv", ".expand_conv"), (".expand.norm", ".expand_norm"),
            (".depthwise.conv", ".depthwise_conv"), (".depthwise.norm", ".depthwise_norm"),
            (".shortcut.0", ".shortcut_conv"), (".shortcut.1", ".shortcut_conv"),
            (".se.fc1", ".se.reduce_conv2d"), (".se.fc2", ".se.expand_conv2d"),
            (".shrink", ".shrink_conv"), ("head.norm", "final_layer_norm"),
            ("head.fc", "logits_head"), (".attn.proj", ".attention.o"),
            (".attn.position", ".attention.relative_position_embedding"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        parts = name.split(".")
        if parts[0] == "stages":
            parts[:3] = [f"block_{int(parts[1]):02d}_{int(parts[2]):02d}"]
            parts = ["attention_norm" if p == "norm" else p for p in parts]
        path = "/".join(["moat", *parts[:-1]])
        leaf = parts[-1]
        if parts[-2] == "qkv":
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                heads = len(piece) // 32
                piece = piece.reshape(heads, 32, -1).permute(2, 0, 1) if piece.ndim == 2 else (
                    piece.reshape(heads, 32)
                )  # fmt: skip
                key = f"{path}/{part}/{leaf}".replace("/qkv", "").replace("/attn/", "/attention/")
                variables[key] = piece
            continue
        if parts[-2] == "o" and leaf == "weight":
            value = value.T.reshape(-1, 32, value.shape[0])
        elif "depthwise_conv" in path:
            leaf, value = "depthwise_kernel", value.permute(2, 3, 0, 1)
        elif leaf == "weight" and (value.ndim == 4 or parts[0] == "logits_head"):
            value = value.reshape(*value.shape[:2], *(value.shape[2:] or (1, 1)))
            leaf, value = "kernel", value.permute(2, 3, 1, 0)
        elif "norm" in parts[-2]:
            leaf = {
                "weight": "gamma", "bias": "beta",
                "running_mean": "moving_mean", "running_var": "moving_variance",
            }[leaf]  # fmt: skip
        variables[f"{path}/{leaf}"] = value
    return variables


def test_tensorflows_variables_load() -> None:
    model = create("moat_test")
    variables = tensorflow_variables(model)
    average = "/ExponentialMovingAverage"
    worse = {n: torch.zeros_like(v) for n, v in variables.items() if "moving_" not in n}
    averaged = {n + average: v for n, v in variables.items() if "moving_" not in n}
    step = {"global_step": torch.tensor(1)}
    other = timm.create_model("moat_test", num_classes=10).eval()
    load_state(other, {**variables, **worse, **averaged, **step}, "theirs")
    assert other(images(1)).equal(model(images(1)))
    assert convert(model.state_dict()).keys() == model.state_dict().keys()
