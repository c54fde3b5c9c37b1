from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.models import _convert_inceptionv4
from sinet.models.inceptionv4 import InceptionBlock, convert

from .tester import ModelTester, create, images, lively


class TestInceptionResnetV1(ModelTester):
    module = "inceptionv4"
    figures: ClassVar = {
        "inception_resnet_v1_test": (75_320, None),
        "inception_resnet_v1": (23_995_624, 1.42e9),
    }
    no_drop_path: ClassVar = dict.fromkeys(figures, "the origin scales its residuals instead")
    size = 96
    oblong = ((75, 96), (96, 128), (97, 75))  # nothing is padded: the smallest side is 75

    def side(self, size: int, reduction: int) -> int:
        half = (size - 3) // 2 - 1  # a strided and a plain convolution without padding
        quarter = (half - 3) // 2 - 1
        sides = {2: half, 4: quarter, 8: (quarter - 3) // 2 + 1}
        for level in (16, 32):
            sides[level] = (sides[level // 2] - 3) // 2 + 1
        return sides[reduction]

    def test_dropout_only_while_training(self, name: str) -> None:
        """With two images: the embedding's norm needs more than one."""
        model, x = self.create(name, drop_rate=0.5), self.images(2)
        assert model(x).equal(model(x))
        hidden = model.forward_features(x)
        model.train()
        assert not model.forward_head(hidden).equal(model.forward_head(hidden))


def test_block_adds_the_scaled_sum() -> None:
    torch.manual_seed(0)
    block = lively(InceptionBlock(16, [((4, 1),), ((4, 1), (4, 3))], 0.17, 1.0)).eval()
    x = torch.randn(1, 16, 6, 6)
    found = torch.cat([branch(x) for branch in block.branches], 1)
    torch.testing.assert_close(block(x), (x + 0.17 * block.up(found)).relu())


def test_last_block_may_be_negative() -> None:
    model = create("inception_resnet_v1_test")
    assert [b.scale for b in model.stages[2] if isinstance(b, InceptionBlock)] == [0.20, 1.0]
    assert model.forward_features(model_input()).min() < 0
    with torch.device("meta"):
        article = timm.create_model("inception_resnet_v1", final_block=False, embedding=0)
    assert [len(stage) for stage in article.stages] == [5, 11, 6]
    assert article.get_classifier().in_features == article.num_features == 1792


def model_input() -> torch.Tensor:
    return images(1, 3, 96, 96)


def test_norms_have_tensorflows_epsilon() -> None:
    norms = [m for m in create("inception_resnet_v1_test").modules() if hasattr(m, "running_var")]
    assert {norm.eps for norm in norms} == {1e-3}


def test_fused_network_is_exact() -> None:
    model, x = create("inception_resnet_v1_test").double(), model_input().double()
    fused = reparameterize_model(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(fused(x), model(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["inception_resnet_v1_test"])
def test_own_names_pass_unchanged(name: str) -> None:
    state = create(name).state_dict()
    assert list(convert(state)) == list(state)


def test_ports_name_the_classifier_of_inception_resnet_v2_otherwise() -> None:
    with torch.device("meta"):
        ours = timm.create_model("inception_resnet_v2").state_dict()
    theirs = {name.replace("classif.", "last_linear."): value for name, value in ours.items()}
    assert theirs.keys() != ours.keys()
    assert list(_convert_inceptionv4.convert(theirs)) == list(ours)
    assert list(_convert_inceptionv4.convert(ours)) == list(ours)
