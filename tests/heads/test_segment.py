"""Decoders on any backbone, and backbones that start from a classifier's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from safetensors.torch import save_file

from sinet.deployment.export import export_network
from sinet.errors import UsageError
from sinet.models import create_network, list_networks
from sinet.models._backbone import create_backbone
from sinet.models.spec import ModelSpec

BACKBONES = ["sinet_test", "test_resnet", "test_efficientnet", "test_convnext", "minspnet_test"]


def saved(name: str, folder: Path) -> tuple[torch.nn.Module, Path]:
    """A classifier with weights of its own, and the file of them."""
    torch.manual_seed(3)
    network = timm.create_model(name).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    return network, path


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_the_maps_of_its_classifier(name: str, tmp_path: Path) -> None:
    whole, path = saved(name, tmp_path)
    body = create_backbone(name, weights=str(path)).eval()
    images = torch.randn(1, 3, 64, 96)
    maps = body(images)
    assert [64 // m.shape[-2] for m in maps] == body.feature_info.reduction()
    known = whole.forward_features(images)
    if known.shape == maps[-1].shape:  # others have one more convolution before the classifier
        torch.testing.assert_close(maps[-1], known, atol=1e-5, rtol=1e-5)
    torch.manual_seed(9)
    other = create_backbone(name).eval()(images)
    assert not torch.allclose(other[-1], maps[-1])


@pytest.mark.parametrize("name", BACKBONES)
def test_our_decoder_takes_any_backbone(name: str, tmp_path: Path) -> None:
    network = create_network("pyramid_seg", backbone=name, num_classes=5, width=16).eval()
    images = torch.randn(2, 3, 64, 96)
    finest = network.backbone.feature_info.reduction()[0]
    with torch.inference_mode():
        logits = network(images)
    assert logits.shape == (2, 5, 64 // finest, 96 // finest)
    file = export_network(network, (64, 96), 3, tmp_path / "net.onnx")
    (found,) = ort.InferenceSession(str(file)).run(None, {"input": images.numpy()})
    scale = max(1.0, float(logits.abs().max()))
    np.testing.assert_allclose(found / scale, logits.numpy() / scale, atol=2e-4)


def test_every_weight_learns() -> None:
    network = create_network("pyramid_seg", backbone="sinet_test", num_classes=3, width=16)
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert not without


SMP = list_networks("smp_*")


@pytest.mark.parametrize("name", SMP)
def test_smps_decoders_become_files_that_agree(name: str, tmp_path: Path) -> None:
    network = create_network(name, backbone="test_resnet", num_classes=4).eval()
    images = torch.randn(2, 3, 128, 160)
    with torch.inference_mode():
        logits = network(images)
    assert logits.shape == (2, 4, 128, 160)
    file = export_network(network, (128, 160), 3, tmp_path / "net.onnx")
    (found,) = ort.InferenceSession(str(file)).run(None, {"input": images.numpy()})
    scale = max(1.0, float(logits.abs().max()))
    np.testing.assert_allclose(found / scale, logits.numpy() / scale, atol=2e-5)


@pytest.mark.parametrize("name", SMP)
def test_smps_decoders_start_from_our_weights(name: str, tmp_path: Path) -> None:
    whole, path = saved("resnet10t", tmp_path)
    spec = ModelSpec(name, 64, {"backbone": "resnet10t"}, str(path))
    network = spec.create(4).eval()
    assert spec.label == f"resnet10t+{name}@64 pretrained"
    assert network(torch.randn(1, 3, 128, 160)).shape == (1, 4, 128, 160)
    ours = network.encoder.model.state_dict()
    theirs = whole.state_dict()
    assert ours
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key.removeprefix("model.")])


def test_all_are_registered() -> None:
    assert len(SMP) == 10
    assert {"pyramid_seg", *SMP} <= set(list_networks(task="segment"))
    assert not {"pyramid_seg", *SMP} & set(list_networks(task="detect"))


def test_clear_errors() -> None:
    with pytest.raises(UsageError, match="unknown backbone 'resnet8'"):
        create_network("pyramid_seg", backbone="resnet8")
    with pytest.raises(UsageError, match="snn_mlp is fully connected and has no maps"):
        create_network("pyramid_seg", backbone="snn_mlp")
    with pytest.raises(UsageError, match="smp's unet cannot be built"):
        create_network("smp_unet", backbone="no_such_network")
    with pytest.raises(UsageError, match=r"smp's pan cannot be built on sinet_test.*pyramid_seg"):
        create_network("smp_pan", backbone="sinet_test")
    with pytest.raises(UsageError, match="unexpected keyword argument 'depth'"):
        ModelSpec("pyramid_seg", 64, {"backbone": "sinet_test", "depth": 3}).create(2)
