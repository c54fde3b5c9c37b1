from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import roi_align

from heads.necks import create, lively, maps, run_onnx
from sinet.errors import UsageError
from sinet.heads import SCP, HRoIE, PyramidBackbone, create_neck
from sinet.heads.catnet import DenseStage, convert
from sinet.models import load_state

RESNET50 = [256, 512, 1024, 2048]
BOXES = torch.tensor([[0, 4.3, 6.1, 40.7, 33.2], [1, 0, 0, 63.5, 60.1], [0, -5, 30, 90, 70]])


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "channels", "stages", "count"),
    [
        ("dense_fpn", RESNET50, 1, 3_715_602),
        ("dense_fpn", RESNET50, 3, 7_995_922),
        ("dense_fpn", RESNET50, 5, 12_276_242),
        ("dense_fpn", RESNET50[1:], 5, 12_800_530),
        ("catnet", RESNET50, 1, 4_376_092),
    ],
)
def test_parameters_are_the_published_ones(
    name: str, channels: list[int], stages: int, count: int
) -> None:
    with torch.device("meta"):
        assert parameters(create_neck(name, channels, stages=stages)) == count


def test_parameters_of_the_parts() -> None:
    with torch.device("meta"):
        assert parameters(SCP()) == 660_490
        assert parameters(HRoIE()) == 525_312
        assert parameters(create_neck("fpn", RESNET50)) == 3_344_384


def test_spatial_context_starts_as_the_identity() -> None:
    given = maps(channels=[16] * 3)
    for x, y in zip(SCP(16, 3)(given), given, strict=True):
        assert x.equal(y)


def test_spatial_context_mixes_no_levels() -> None:
    scp, given = lively(SCP(16, 3)), maps(channels=[16] * 3)
    first = scp(given)
    given[1] = given[1] + 1
    second = scp(given)
    assert [x.equal(y) for x, y in zip(first, second, strict=True)] == [True, False, True]


def test_a_stage_sums_inputs_downwards_and_results_upwards() -> None:
    """Bottlenecks replaced by ReLU alone, the sums written out for four levels."""
    stage = DenseStage(4, 4, "batchnorm").eval()
    stage.top_down = nn.ModuleList(nn.ReLU() for _ in range(4))
    stage.bottom_up = nn.ModuleList(nn.ReLU() for _ in range(4))
    l0, l1, l2, l3 = given = maps(8, 8, channels=[4] * 4)
    a = [torch.tensor([0.3, 1.0, -0.5]), torch.tensor([0.2, 0.7])]
    c = [torch.tensor([0.1, 0.9]), torch.tensor([1.0, 0.0, 2.0])]

    def up(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=like.shape[2:], mode="bilinear")

    def down(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return F.adaptive_max_pool2d(x, like.shape[2:])

    w, v = a[0].softmax(0), a[1].softmax(0)
    t3 = l3.relu()
    t2 = (l2 + up(l3, l2)).relu()
    t1 = (l1 + v[0] * up(l3, l1) + v[1] * up(l2, l1)).relu()
    t0 = (l0 + w[0] * up(l3, l0) + w[1] * up(l2, l0) + w[2] * up(l1, l0)).relu()
    w, v = c[1].softmax(0), c[0].softmax(0)
    expected = [
        (l0 + t0).relu(),
        (l1 + t1 + down(t0, l1)).relu(),
        (l2 + t2 + v[0] * down(t0, l2) + v[1] * down(t1, l2)).relu(),
        (l3 + t3 + w[0] * down(t0, l3) + w[1] * down(t1, l3) + w[2] * down(t2, l3)).relu(),
    ]
    torch.testing.assert_close(stage(given, a, c), expected)


def test_stages_share_the_weights_between_levels() -> None:
    names = [n for n, _ in create_neck("dense_fpn", [8, 8], 16, stages=3).named_parameters()]
    assert sum("_weights" in name for name in names) == 6


def test_converted_names_tell_the_passes_apart() -> None:
    state = {f"0.stages.2.{i}.1.conv.weight": torch.zeros(1) for i in range(6)}
    assert list(convert(state)) == [
        f"pyramid.stages.2.{way}.{i}.2.conv.weight"
        for way in ("top_down", "bottom_up")
        for i in range(3)
    ]
    ours = create("catnet").state_dict()
    assert convert(ours).keys() == ours.keys()


@pytest.mark.parametrize("direction", ["bottom_up", "top_down"])
def test_extractor_adds_gated_crops(direction: str) -> None:
    extractor = lively(HRoIE(8, 3, (4, 8, 16), direction))
    given = maps(16, 16, channels=[8] * 3)
    region = torch.zeros(3, 8, 3, 3)
    for i in (0, 1, 2) if direction == "bottom_up" else (2, 1, 0):
        crop = roi_align(given[i], BOXES, 3, 1 / (4 * 2**i), aligned=True)
        gate = F.conv2d(
            torch.cat([region, crop], 1), extractor.gates[i].weight, extractor.gates[i].bias
        )
        region = region + crop * gate.sigmoid()
    torch.testing.assert_close(extractor(given, BOXES), region)
    named = {str(i): x for i, x in enumerate(given)} | {"pool": given[0]}
    by_image = [BOXES[BOXES[:, 0] == i, 1:] for i in range(2)]
    torch.testing.assert_close(extractor(named, by_image, [(64, 64)] * 2), region[[0, 2, 1]])


def test_extractor_state_precision_gradient_and_graph() -> None:
    extractor, given = lively(HRoIE(8, (3, 5))), maps(16, 16, channels=[8] * 4)
    out = extractor(given, BOXES)
    assert out.shape == (3, 8, 3, 5)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in extractor.parameters())
    other = HRoIE(8, (3, 5))
    authors = {
        name.replace("gates.", "atts.")
        .replace(".weight", ".conv.weight")
        .replace(".bias", ".conv.bias"): value
        for name, value in extractor.state_dict().items()
    }
    assert load_state(other, authors, "hroie").converted
    assert other(given, BOXES).equal(out)
    exact = extractor.double()([x.double() for x in given], BOXES.double())
    torch.testing.assert_close(out.double(), exact, atol=1e-3, rtol=1e-3)
    torch.compiler.reset()
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(given, BOXES), out)


class Exported(nn.Module):
    def __init__(self, extractor: HRoIE) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.extractor(list(inputs[:-1]), inputs[-1])


def test_extractor_in_onnx_runtime(tmp_path: Path) -> None:
    extractor, given = lively(HRoIE(8, 7)).eval(), maps(16, 16, channels=[8] * 4)
    inside = torch.tensor([[0, 4.3, 6.1, 40.7, 33.2], [1, 1, 2, 60.5, 60.1]])
    run = run_onnx(Exported(extractor), [*given, inside], tmp_path / "hroie.onnx")
    (out,) = run(*given, inside)
    with torch.inference_mode():
        expected = extractor(given, inside)
    np.testing.assert_allclose(out, expected.numpy(), atol=2e-4, rtol=2e-4)


def test_extractor_errors() -> None:
    with pytest.raises(UsageError, match="'bottom_up' or 'top_down', not 'sideways'"):
        HRoIE(8, direction="sideways")
    with pytest.raises(UsageError, match="crops from 4 levels and got 3"):
        HRoIE(8)(maps(channels=[8] * 3), BOXES)


def test_faster_rcnn_takes_neck_and_extractor() -> None:
    torch.manual_seed(0)
    body = timm.create_model("test_resnet", features_only=True, out_indices=(1, 2, 3))
    neck = create_neck("catnet", body.feature_info.channels(), 16, num_outs=4, stages=1)
    backbone = PyramidBackbone(body, neck)
    detector = FasterRCNN(
        backbone,
        num_classes=3,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4),
        box_roi_pool=HRoIE(16, 5, backbone.reductions),
        rpn_post_nms_top_n_test=20,
    )
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    targets = [
        {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([i + 1])}
        for i in range(2)
    ]
    losses = detector(images, targets)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in detector.roi_heads.box_roi_pool.parameters())
    with torch.inference_mode():
        found = detector.eval()(images)
    assert {"boxes", "labels", "scores"} <= set(found[0])
