from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import RetinaNet

from heads.necks import create, lively, maps
from sinet.errors import UsageError
from sinet.heads import CSN, PyramidBackbone, RevFP, create_neck
from sinet.heads.rcnet import FusionNode, Guide, ModulatedDeformConv, _halved, convert

RESNET50 = [512, 1024, 2048]


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("rcnet", {}, 7_665_346),
        ("rcnet", {"norm_layer": "groupnorm"}, 7_665_346),
        ("rcnet_plain", {}, 6_669_586),
        ("fpn", {"num_outs": 5}, 7_997_440),
    ],
)
def test_parameters_are_the_published_ones(
    name: str, options: dict[str, object], count: int
) -> None:
    with torch.device("meta"):
        neck = create_neck(name, RESNET50, **options)
    assert sum(p.numel() for p in neck.parameters()) == count


def test_multiply_adds_are_the_published_ones() -> None:
    """25.8 G at 800 x 1280, a deformable convolution counted as a plain one with its offsets."""
    shapes = [(100, 160), (50, 80), (25, 40)]
    macs = {}
    for name in ("rcnet", "rcnet_plain"):
        with torch.device("meta"):
            neck = create_neck(name, RESNET50).eval()
            given = [torch.empty(1, c, *s) for c, s in zip(RESNET50, shapes, strict=True)]
            with torch.no_grad(), FlopCounterMode(display=False) as flops:
                neck(given)
        macs[name] = flops.get_total_flops() / 2
    # the counter sees the offset convolutions (54 of 256 channels) and not the deformable ones
    fusions = (macs["rcnet_plain"] - macs["rcnet"]) / (1 - 54 / 256)
    assert macs["rcnet"] + fusions == pytest.approx(25.8e9, rel=0.01)


def test_deformable_convolution_starts_as_half_a_plain_one() -> None:
    torch.manual_seed(0)
    conv = ModulatedDeformConv(8, 6).double()
    x = torch.randn(2, 8, 7, 5, dtype=torch.float64)
    plain = F.conv2d(x, conv.weight, padding=1)
    torch.testing.assert_close(conv(x), plain / 2, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (1, 4)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_exported_form_is_the_same_convolution(size: tuple[int, int], groups: int) -> None:
    conv = lively(ModulatedDeformConv(8, 6, offset_groups=groups, bias=True)).double()
    conv.conv_offset.weight.data.mul_(3)  # far outside the map too
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    moved = conv.conv_offset(x)
    offset, mask = moved[:, : 18 * groups], moved[:, 18 * groups :].sigmoid()
    assert offset.abs().max() > 2
    torch.testing.assert_close(conv(x), conv.sampled(x, offset, mask), atol=1e-12, rtol=1e-12)


def test_guide_has_weights_of_mean_one() -> None:
    guide, x = Guide(8), torch.randn(2, 8, 4, 6)
    assert guide(x, x).equal(x)  # all weights are one at the start
    weight = lively(guide)(x, torch.ones_like(x))
    torch.testing.assert_close(weight.mean((2, 3)), torch.ones(2, 8))
    assert weight.std() > 0.1
    assert weight[:, :1].expand_as(weight).equal(weight)  # one map for all channels


def test_nodes_start_at_equal_shares_and_gate_before_guiding() -> None:
    node = FusionNode(8, above=True, below=False, norm_layer=None, deformable=False)
    node.post = nn.Identity()
    x, y = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)
    up = F.interpolate(y, size=(4, 4), mode="bilinear")
    torch.testing.assert_close(node(x, y, None), (x + up) / 2)
    lively(node)
    share = node.gate_above(x, up)
    torch.testing.assert_close(node(x, y, None), share * x + (1 - share) * node.guide(x, up))


def test_finest_and_coarsest_nodes_have_two_inputs() -> None:
    nodes = RevFP([8, 8], 16, num_outs=4).nodes
    assert [node.pre is not None for node in nodes] == [False, True, True, False]
    assert [node.guide is not None for node in nodes] == [True, True, True, False]


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1), (1, 2)])
def test_halving_repeats_the_last_row_and_column(size: tuple[int, int]) -> None:
    height, width = size
    x = torch.randn(2, 3, *size)
    padded = F.pad(x, (0, width % 2, 0, height % 2), "replicate")
    like = torch.empty(1, 1, -(-height // 2), -(-width // 2))
    assert _halved(x, like).equal(F.max_pool2d(padded, 2))


def test_sizes_that_do_not_halve_are_explained() -> None:
    given = [torch.randn(1, c, n, n) for c, n in ((8, 9), (8, 4), (8, 2))]
    with pytest.raises(UsageError, match=r"9 x 9 leads to 5 x 5, the next map has 4 x 4"):
        create("revfp", [8, 8, 8])(given)


def test_shift_is_cyclic_over_the_levels() -> None:
    x = torch.arange(5.0)[None, :, None, None, None].expand(1, 5, 16, 1, 1)
    moved = CSN(16).shift(x)[0, :, :, 0, 0]
    assert moved.shape == (5, 20)
    assert moved[:, 0].tolist() == [1, 2, 3, 4, 0]
    assert moved[:, 1].tolist() == [4, 0, 1, 2, 3]
    assert moved[:, 2].tolist() == [2, 3, 4, 0, 1]
    assert moved[:, 3].tolist() == [3, 4, 0, 1, 2]
    assert moved[:, 4:].equal(x[0, :, :, 0, 0])


def test_every_level_hears_every_other() -> None:
    csn = lively(CSN(16)).eval()
    given = [x.requires_grad_() for x in maps(16, 16, channels=[16] * 5)]
    for out in csn(given):
        gradients = torch.autograd.grad(out.square().sum(), given, retain_graph=True)
        assert all(g.any() for g in gradients)


def test_widths_that_do_not_divide_are_explained() -> None:
    with pytest.raises(UsageError, match="multiple of 16 channels, not 5 levels of 24"):
        create_neck("rcnet", [8, 8], 24)
    assert len(create("revfp", [8, 8], out_channels=24)(maps(channels=[8, 8]))) == 5


def test_ours_needs_no_renaming() -> None:
    ours = create("rcnet").state_dict()
    assert convert(ours).keys() == ours.keys()
    authors = {"RevFP.p7.weight.0.bias": torch.ones(1), "RevFP.p5.weight.0.bias": torch.ones(1)}
    assert list(convert(authors)) == [
        "pyramid.nodes.4.gate_below.conv.bias",
        "pyramid.nodes.2.gate_above.conv.bias",
    ]


def test_retinanet_takes_the_neck() -> None:
    torch.manual_seed(0)
    body = timm.create_model("test_resnet", features_only=True, out_indices=(1, 2, 3))
    neck = create_neck("rcnet", body.feature_info.channels(), 32)
    detector = RetinaNet(PyramidBackbone(body, neck), num_classes=3, min_size=64, max_size=64)
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    targets = [
        {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([i])} for i in range(2)
    ]
    losses = detector(images, targets)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in neck.parameters())
    with torch.inference_mode():
        found = detector.eval()(images)
    assert {"boxes", "labels", "scores"} <= set(found[0])
