from __future__ import annotations

import pytest
import timm
import torch

from sinet.compression.fuse import fuse


@pytest.mark.parametrize("name", ["repvgg_a0", "levit_128s", "test_resnet"])
def test_outputs_are_unchanged_and_so_is_the_model(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fuse(model)
    assert model.training
    assert not fused.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    images = torch.randn(2, 3, 224, 224) if "levit" in name else torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model.eval()(images)
        scale = float(expected.abs().max())
        torch.testing.assert_close(fused(images) / scale, expected / scale, atol=1e-5, rtol=0)


def test_branches_are_gone() -> None:
    model = timm.create_model("repvgg_a0", num_classes=7)
    assert len(list(fuse(model).parameters())) < len(list(model.parameters()))
