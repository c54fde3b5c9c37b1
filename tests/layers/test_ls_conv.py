from __future__ import annotations

import pytest
import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.layers.ls_conv import LargePerception, LSConv, aggregate


def by_definition(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The sum as it is written down: unfold, multiply, add, channel c with kernel c mod G."""
    b, c, h, w = x.shape
    kernels = weight.reshape(b, -1, 9, h, w)
    patches = F.unfold(x, 3, padding=1).reshape(b, c, 9, h, w)
    which = torch.arange(c) % kernels.shape[1]
    return (patches * kernels[:, which]).sum(2)


@pytest.mark.parametrize("kernels", [1, 3, 12])
def test_aggregation_is_its_definition(kernels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, 5, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 9 * kernels, 5, 7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(aggregate(x, weight), by_definition(x, weight))


def test_one_kernel_everywhere_is_a_depthwise_convolution() -> None:
    """Kernel c mod G is interleaved: channels 0 and 4 share one here, not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 6, 6, generator=generator, dtype=torch.float64)
    taps = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    weight = taps.reshape(1, 36, 1, 1).expand(2, 36, 6, 6)
    static = taps.reshape(4, 1, 3, 3).repeat(2, 1, 1, 1)
    expected = F.conv2d(x, static, padding=1, groups=8)
    torch.testing.assert_close(aggregate(x, weight), expected)
    contiguous = taps.reshape(4, 1, 3, 3).repeat_interleave(2, 0)
    assert not torch.allclose(F.conv2d(x, contiguous, padding=1, groups=8), expected)


def test_aggregation_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 18, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(aggregate, (x, weight))


def test_operator_is_its_equation() -> None:
    torch.manual_seed(0)
    operator, x = LSConv(16).eval(), torch.randn(2, 16, 9, 13)
    y = by_definition(x, operator.lkp(x))
    torch.testing.assert_close(operator(x), x + operator.bn(y), atol=1e-5, rtol=1e-5)


def test_each_kernel_is_normalised_over_its_taps_and_the_map() -> None:
    torch.manual_seed(0)
    weight = LargePerception(16, 2)(torch.randn(3, 16, 9, 13))
    assert weight.shape == (3, 18, 9, 13)
    kernels = weight.reshape(3, 2, -1)
    torch.testing.assert_close(kernels.mean(2), torch.zeros(3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(kernels.std(2), torch.ones(3, 2), atol=0.01, rtol=0)


def test_perception_is_wide_and_aggregation_narrow() -> None:
    torch.manual_seed(0)
    operator, x = LSConv(8).eval(), torch.randn(1, 8, 15, 15, requires_grad=True)
    weight = operator.lkp.cv4(operator.lkp.cv2(operator.lkp.cv1(x)))
    (seen,) = torch.autograd.grad(weight[..., 7, 7].sum(), x)
    assert seen[0].any(0).nonzero().aminmax(dim=0).min.tolist() == [4, 4]  # 7 x 7 around (7, 7)
    fixed = torch.ones(1, 9, 15, 15)
    (gathered,) = torch.autograd.grad(aggregate(x, fixed)[..., 7, 7].sum(), x)
    assert gathered[0].any(0).sum() == 9


def test_fused_operator_is_the_same_function() -> None:
    torch.manual_seed(0)
    operator = LSConv(24, kernel_size=5, share=4).double().eval()
    for module in operator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_()
    x = torch.randn(2, 24, 6, 5, dtype=torch.float64)
    fused = reparameterize_model(operator)
    assert isinstance(fused.lkp.cv2, nn.Conv2d)
    torch.testing.assert_close(fused(x), operator(x), atol=1e-12, rtol=1e-12)


def test_width_that_cannot_be_shared_is_explained() -> None:
    with pytest.raises(UsageError, match="12 is no multiple of; give 16 channels"):
        LSConv(12)
