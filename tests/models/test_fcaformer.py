from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from timm.models.convnext import ConvNeXtBlock
from timm.utils import reparameterize_model
from torch import nn

from sinet.errors import UsageError
from sinet.models.fcaformer import CrossAttention, FcaBlock, FcaFormer, convert

from .tester import ModelTester, create, images, lively


class TestFcaformer(ModelTester):
    module = "fcaformer"
    fixed_size = True
    oblong = ()
    figures: ClassVar = {
        "fcaformer_test": (235_076, None),
        "fcaformer_l1": (6_187_560, 1.374e9),
        "fcaformer_l2": (16_275_870, 3.602e9),
        "fcaformer_l3": (27_894_484, 6.651e9),
        "fcaformer_l4": (65_638_204, 14.49e9),
    }


def small(**kwargs: object) -> FcaFormer:
    """The small variant as a table of numbers, its branches switched on."""
    options = {"dims": (16, 24, 32, 64), "depths": (1, 1, 4, 2), "img_size": 128, **kwargs}
    torch.manual_seed(0)
    model = lively(FcaFormer(num_classes=10, **options))  # type: ignore[arg-type]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, FcaBlock):
                module.gamma_1.uniform_(0.5, 1)
                module.gamma_2.uniform_(0.5, 1)
            elif isinstance(module, ConvNeXtBlock):
                module.gamma.uniform_(0.5, 1)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(std=module.weight[0].numel() ** -0.5)
    return model.eval()  # type: ignore[return-value]


def test_fused_form_is_the_same_function() -> None:
    model = small().double()
    x = images(2, 3, 128, 128).double()
    fused = reparameterize_model(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(fused(x), model(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("memory", "tokens"), [(12, [0, 4, 8, 12]), (2, [0, 4, 8, 8]), (0, [0] * 4)]
)
def test_blocks_read_from_the_last_blocks_before_them(memory: int, tokens: list[int]) -> None:
    stage = small(memory=memory).stages[2]  # maps of 8 x 8: 2 x 2 tokens a block
    seen: list[int] = []
    for block in stage.blocks:
        block.register_forward_pre_hook(
            lambda _, args: seen.append(0 if args[1] is None else args[1].shape[1])
        )
    stage(torch.randn(1, 24, 16, 16))
    assert seen == tokens
    left = [block.dw_conv is not None for block in stage.blocks]
    assert left == [memory > 0] * 3 + [False]


def test_oldest_tokens_come_first_and_the_last_ones_are_kept() -> None:
    stage = small(memory=2).stages[2]
    left: list[torch.Tensor] = []
    read: list[torch.Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], out: tuple[Any, ...]) -> None:
        read.append(args[1])
        left.append(out[1])

    for block in stage.blocks:
        block.register_forward_hook(note)
    stage(torch.randn(1, 24, 16, 16))
    assert read[3].equal(torch.cat([left[1], left[2]], dim=1))


def test_attention_is_its_equation() -> None:
    torch.manual_seed(0)
    attn = CrossAttention(64, 2, (2, 3), 4).double()
    for parameter in attn.parameters():
        parameter.data.normal_(std=0.3)
    x, s = torch.randn(1, 6, 64).double(), torch.randn(1, 4, 64).double()
    t = attn.s_norm(s * attn.s_scale_factors)
    (qx, kx, vx), (_, ks, vs) = (attn.qkv(y)[0].reshape(-1, 3, 2, 32).unbind(1) for y in (x, t))
    heads = []
    for h in range(2):
        logits = torch.cat([qx[:, h] @ kx[:, h].T, qx[:, h] @ ks[:, h].T], 1) * 32**-0.5
        for i in range(6):
            for j in range(6):
                dy, dx = abs(i // 3 - j // 3), abs(i % 3 - j % 3)
                logits[i, j] += attn.attention_biases[h, dy * 3 + dx]
        logits[:, 6:] += attn.s_token_bias[0, h]
        heads.append(logits.softmax(1) @ torch.cat([vx[:, h], vs[:, h]]))
    expected = attn.proj(torch.cat(heads, 1))[None]
    torch.testing.assert_close(attn(x, s), expected, atol=1e-12, rtol=1e-12)


def test_scale_factors_are_undone_by_the_norm() -> None:
    """As published: the factors act only through the norm's epsilon, and through their sign."""
    torch.manual_seed(0)
    attn, s = CrossAttention(64, 2, (2, 2), 4), torch.randn(1, 4, 64)
    before = attn.calibrate(s)
    with torch.no_grad():
        attn.s_scale_factors.fill_(3.0)
    torch.testing.assert_close(attn.calibrate(s), before, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        attn.s_scale_factors.fill_(-3.0)
    torch.testing.assert_close(attn.calibrate(s), -before, atol=1e-4, rtol=1e-4)


def test_local_convolution_has_no_shortcut() -> None:
    block = small().stages[2].blocks[0]
    with torch.no_grad():
        block.local_conv.bn.weight.zero_()
        block.local_conv.bn.bias.zero_()
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()
    assert not block(torch.randn(1, 32, 8, 8))[0].any()


def test_oblong_images() -> None:
    model = small(img_size=(64, 160))
    assert model(images(1, 3, 64, 160)).shape == (1, 10)
    assert model.stages[2].blocks[1].attn.s_token_bias.shape == (1, 1, 1, 1 * 3)  # 4 x 10
    with pytest.raises(UsageError, match=r"10 x 4 .* 64 x 160 \(here a map of 4 x 10\)"):
        model(images(1, 3, 160, 64))


def test_names_of_the_authors() -> None:
    given = {
        "patch_embed.seq.2.c.weight": "stem.2.conv.weight",
        "layer_0.blocks.0.gamma": "stages.0.blocks.0.gamma",
        "layer_0.blocks.0.pwconv2.bias": "stages.0.blocks.0.mlp.fc2.bias",
        "layer_0.downsample.conv2.bn.running_var": "stages.1.downsample.conv2.bn.running_var",
        "layer_2.blocks.1.s_scale_factors": "stages.2.blocks.1.attn.s_scale_factors",
        "layer_2.blocks.1.s_norm.weight": "stages.2.blocks.1.attn.s_norm.weight",
        "layer_2.blocks.1.proj.bias": "stages.2.blocks.1.attn.proj.bias",
        "layer_3.blocks.1.local_conv.c.weight": "stages.3.blocks.1.local_conv.conv.weight",
        "norm_head.weight": "head.norm.weight",
        "head.bias": "head.fc.bias",
    }
    for theirs, ours in given.items():
        assert list(convert({theirs: torch.zeros(1)})) == [ours]
    own = create("fcaformer_test").state_dict()
    assert convert(own) is own
