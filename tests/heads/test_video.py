"""Networks for clips on any backbone: what they start as, what sees what, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from sinet.compression.fuse import fuse
from sinet.deployment.export import export_network
from sinet.errors import UsageError
from sinet.heads.video import GRID, TemporalConv, grid
from sinet.measurement.bench import settled
from sinet.measurement.cost import cost
from sinet.models import create_network, list_networks
from sinet.models.spec import ModelSpec

BACKBONES = ["sinet_test", "test_resnet", "test_efficientnet", "test_convnext", "minspnet_test"]
HEADS = ["video_attention", "video_conv21d"]


def made(head: str, backbone: str, frames: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    network = create_network(head, backbone=backbone, num_classes=5, frames=frames)
    return settled(network, (frames, 64, 64)).eval()  # norms with statistics, branches awake


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_backbone_with_maps(head: str, backbone: str, tmp_path: Path) -> None:
    network = made(head, backbone)
    clips = torch.randn(2, 3, 4, 64, 64)
    with torch.inference_mode():
        logits, features = network(clips)
        merged = fuse(network)(clips)
    assert logits.shape == (2, 5)
    assert features.shape[:2] == (2, 4)
    torch.testing.assert_close(merged.logits, logits, atol=1e-4, rtol=1e-4)
    names = ("logits", "features")
    file = export_network(network, (4, 64, 64), 3, tmp_path / "net.onnx", names)
    found = ort.InferenceSession(str(file)).run(None, {"input": clips.numpy()})
    for ours, theirs in zip((logits, features), found, strict=True):
        scale = max(1.0, float(ours.abs().max()))
        np.testing.assert_allclose(theirs / scale, ours.numpy() / scale, atol=2e-4)


def test_attention_takes_tokens_and_maps_with_channels_last() -> None:
    network = create_network("video_attention", backbone="test_vit", num_classes=5, frames=2)
    assert network(torch.randn(1, 3, 2, 160, 160)).logits.shape == (1, 5)
    swin = {"img_size": 64, "depths": (1, 1, 1, 1)}
    network = create_network(
        "video_attention", backbone="swin_tiny_patch4_window7_224", frames=2, **swin
    )
    assert network(torch.randn(1, 3, 2, 64, 64)).logits.shape == (1, 10)


@pytest.mark.parametrize("head", HEADS)
def test_every_weight_learns(head: str) -> None:
    torch.manual_seed(0)
    network = create_network(head, backbone="sinet_test", num_classes=3, frames=4)
    for module in network.modules():
        if isinstance(module, TemporalConv):  # a branch that starts at zero wakes in one step
            torch.nn.init.ones_(module.mix.bn.weight)
    network(torch.randn(4, 3, 4, 64, 64)).logits.square().sum().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None]


def test_factorised_convolution_starts_as_the_frame_wise_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("sinet_test")
    path = tmp_path / "weights.safetensors"
    save_file(whole.state_dict(), path)
    spec = ModelSpec("video_conv21d", 64, {"backbone": "sinet_test", "frames": 4}, str(path))
    network = spec.create(3).eval()
    whole.reset_classifier(0)
    clips = torch.randn(2, 3, 4, 64, 64)
    with torch.inference_mode():
        each = torch.stack([whole.eval()(clips[:, :, t]) for t in range(4)], 1)
        torch.testing.assert_close(network(clips).features, each, atol=1e-5, rtol=1e-5)
    assert spec.label == "sinet_test+video_conv21d@64 frames=4 pretrained"


@pytest.mark.parametrize(("head", "reach"), [("video_attention", 0), ("video_conv21d", 1)])
def test_who_sees_whom(head: str, reach: int) -> None:
    """Frames are alone under attention; under convolution each stage reaches one frame more."""
    network = made(head, "sinet_test", 8)
    clips = torch.randn(1, 3, 8, 64, 64)
    other = clips.clone()
    other[:, :, 0] += 1
    with torch.inference_mode():
        changed = (network(clips).features - network(other).features).abs().amax((0, 2)) > 1e-6
    stages = sum(isinstance(module, TemporalConv) for module in network.modules())
    assert changed.tolist() == [t <= reach * stages for t in range(8)]


@pytest.mark.parametrize("head", HEADS)
def test_the_order_of_the_frames_matters(head: str) -> None:
    network = made(head, "sinet_test")
    clips = torch.randn(2, 3, 4, 64, 64)
    with torch.inference_mode():
        gap = network(clips).logits - network(clips.flip(2)).logits
    assert gap.abs().max() > 1e-4


def test_a_convolution_over_time_is_one() -> None:
    torch.manual_seed(0)
    layer = TemporalConv(32, 5)
    torch.nn.init.normal_(layer.mix.bn.weight)
    layer.eval()
    frames = torch.randn(10, 32, 6, 7)
    narrow = layer.reduce(frames)
    kernel = layer.mix.conv.weight.unflatten(1, (3, -1)).transpose(1, 2)
    volume = narrow.unflatten(0, (2, 5)).transpose(1, 2)
    mixed = F.conv3d(volume, kernel, padding=(1, 0, 0)).transpose(1, 2).flatten(0, 1)
    with torch.inference_mode():
        torch.testing.assert_close(layer(frames), frames + layer.mix.bn(mixed))


@pytest.mark.parametrize("sides", [(4, 4), (8, 12), (6, 7), (3, 2), (1, 1)])
def test_cells_are_those_of_adaptive_pooling(sides: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *sides)
    expected = F.adaptive_avg_pool2d(x, GRID).flatten(2)
    torch.testing.assert_close(x.flatten(2) @ grid(*sides), expected)


def test_cost_grows_with_the_frames() -> None:
    costs = [
        cost(ModelSpec("video_conv21d", 64, {"backbone": "sinet_test", "frames": t}).create(5),
             (t, 64, 64)).macs
        for t in (2, 4)
    ]  # fmt: skip
    assert costs[1] == pytest.approx(2 * costs[0], rel=0.01)


def test_clear_errors() -> None:
    assert set(HEADS) <= set(list_networks())
    for head in HEADS:
        with pytest.raises(UsageError, match="unknown backbone 'resnet8'"):
            create_network(head, backbone="resnet8")
    network = create_network("video_conv21d", backbone="test_vit", frames=2)
    with pytest.raises(UsageError, match=r"gives \(2, 101, 64\); choose another"):
        network(torch.randn(1, 3, 2, 160, 160))
