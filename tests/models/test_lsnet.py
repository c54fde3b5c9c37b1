from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from sinet.errors import UsageError
from sinet.layers import ConvNorm
from sinet.models.lsnet import BatchNormHead, LSNet, RepDepthwise, convert

from .tester import ModelTester, create, images, lively


class TestLsnet(ModelTester):
    module = "lsnet"
    size = 128  # a last map of 2 x 2: with one position only, attention has nothing to choose
    fixed_size = True
    oblong = ()
    # Multiply-adds are the fused network's of the card, which counts the gathering as a 3x3
    # depthwise convolution; ours are of the training form, where no counter sees the gathering.
    figures: ClassVar = {
        "lsnet_test": (165_274, None),
        "lsnet_t": (11_409_832, 0.316e9),
        "lsnet_s": (16_146_304, 0.538e9),
        "lsnet_b": (23_313_608, 1.246e9),
        "lsnet_t_distill": (11_409_832 + 2 * 384 + 384_000 + 1000, 0.316e9),
        "lsnet_s_distill": (16_146_304 + 2 * 448 + 448_000 + 1000, 0.538e9),
        "lsnet_b_distill": (23_313_608 + 2 * 512 + 512_000 + 1000, 1.246e9),
    }

    def test_dropout_only_while_training(self, name: str) -> None:
        """As in the battery, with two images: the head's BatchNorm cannot train on one value."""
        model, x = self.create(name, drop_rate=0.5), self.images(2)
        assert model(x).equal(model(x))
        hidden = model.forward_features(x)
        model.train()
        assert not model.forward_head(hidden).equal(model.forward_head(hidden))


def small(**kwargs: object) -> LSNet:
    """The small variant as a table of numbers, with whatever a test changes."""
    options = {"dims": (16, 32, 48, 64), "depths": (0, 2, 2, 2), "img_size": 128, **kwargs}
    torch.manual_seed(0)
    model = LSNet(num_classes=10, **options)  # type: ignore[arg-type]
    return lively(model).eval()  # type: ignore[return-value]


def test_fused_form_is_the_same_function() -> None:
    model = small(distilled=True, depths=(1, 2, 2, 4)).double()
    fused = reparameterize_model(model)
    left = [type(m) for m in fused.modules() if isinstance(m, (RepDepthwise, ConvNorm))]
    assert not left
    assert isinstance(fused.head.norm, nn.Identity)
    x = images(2, 3, 128, 128).double()
    torch.testing.assert_close(fused(x), model(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("pool", ["avg", ""])
def test_head_folds_with_and_without_pooling(pool: str) -> None:
    torch.manual_seed(0)
    head = lively(BatchNormHead(8, 5, pool, 0.0)).double().eval()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    before = head(x)
    torch.testing.assert_close(head.fuse()(x), before, atol=1e-12, rtol=1e-12)
    assert isinstance(head.norm, nn.Identity)


@pytest.mark.parametrize(("name", "params"), [("t", 11.37e6), ("s", 16.10e6), ("b", 23.25e6)])
def test_fused_parameters_are_the_published_ones(name: str, params: float) -> None:
    fused = reparameterize_model(timm.create_model(f"lsnet_{name}"))
    assert sum(p.numel() for p in fused.parameters()) == pytest.approx(params, rel=0.001)


def test_biases_loaded_after_eval_are_heard() -> None:
    """A cache of the bias matrix, refreshed only by `eval()`, would ignore them."""
    model, x = small(), images(1, 3, 128, 128)
    before = model(x)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("attention_biases"):
                parameter.copy_(torch.randn_like(parameter) * 3)
    assert not torch.allclose(model(x), before)


def test_bias_depends_on_distance_only() -> None:
    model = small(img_size=(128, 192))
    index = model.stages[3][3].mixer.index
    assert index.shape == (6, 6)  # a map of 2 x 3
    assert index.tolist()[0] == [0, 1, 2, 3, 4, 5]
    assert index.tolist()[4] == [4, 3, 4, 1, 0, 1]
    assert model(images(1, 3, 128, 192)).shape == (1, 10)


def test_images_that_give_the_same_map_fit() -> None:
    model = timm.create_model("lsnet_test", num_classes=10).eval()
    assert model(images(1, 3, 193, 256)).shape == (1, 10)
    with pytest.raises(UsageError, match=r"3 x 3 .*224 x 224 \(a map of 4 x 4\)"):
        model(images(1, 3, 192, 192))


def test_two_heads() -> None:
    model, x = small(distilled=True), images(2, 3, 128, 128)
    features = model.forward_features(x)
    mean = (model.head(features) + model.head_dist(features)) / 2
    torch.testing.assert_close(model(x), mean)
    model.train()
    assert isinstance(model(x), torch.Tensor)
    model.set_distilled_training()
    assert [logits.shape for logits in model(x)] == [(2, 10), (2, 10)]
    assert len(model.eval().get_classifier()) == 2
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert timm.create_model("lsnet_t_distill").head_dist is not None


def test_names_of_the_authors() -> None:
    given = {
        "patch_embed.0.c.weight": "stem.0.conv.weight",
        "patch_embed.0.weight": "stem.0.weight",
        "blocks2.1.bn.bias": "stages.1.1.bn.bias",
        "blocks2.3.mixer.lkp.cv1.c.weight": "stages.1.3.mixer.lkp.cv1.conv.weight",
        "blocks4.3.mixer.m.proj.1.c.weight": "stages.3.3.mixer.proj.conv.weight",
        "blocks4.3.mixer.m.proj.1.weight": "stages.3.3.mixer.proj.weight",
        "blocks4.3.ffn.m.pw1.c.weight": "stages.3.3.ffn.pw1.conv.weight",
        "head.bn.weight": "head.norm.weight",
        "head_dist.l.bias": "head_dist.fc.bias",
        "head.weight": "head.fc.weight",
        "blocks4.3.mixer.m.attention_bias_idxs": None,
    }
    for theirs, ours in given.items():
        assert list(convert({theirs: torch.zeros(1)})) == ([ours] if ours else [])
    own = create("lsnet_test").state_dict()
    assert convert(own).keys() == own.keys()
