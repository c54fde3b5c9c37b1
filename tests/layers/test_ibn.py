from __future__ import annotations

import pytest
import torch
from torch import nn

from sinet.layers import IBN


def layer(channels: int = 10, share: float = 0.5, instance_first: bool = True) -> IBN:
    torch.manual_seed(0)
    made = IBN(channels, share, instance_first).double().eval()
    for norm in (made.instance, made.batch):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_()
    made.batch.running_mean.normal_()
    made.batch.running_var.uniform_(0.5, 2)
    return made


@pytest.mark.parametrize(("channels", "share", "first"), [(10, 0.5, 5), (10, 0.3, 3), (7, 0.6, 4)])
@pytest.mark.parametrize("instance_first", [True, False])
def test_every_channel_is_normalized_once(
    channels: int, share: float, first: int, instance_first: bool
) -> None:
    """A share that does not halve the channels loses none of them."""
    norm, x = layer(channels, share, instance_first), torch.randn(2, channels, 4, 5).double()
    y = norm(x)
    assert y.shape == x.shape
    instances, batches = (x[:, :first], x[:, first:])[:: 1 if instance_first else -1]
    expected = nn.functional.instance_norm(instances, weight=norm.instance.weight,
                                           bias=norm.instance.bias)  # fmt: skip
    part = y[:, :first] if instance_first else y[:, first:]
    torch.testing.assert_close(part, expected)
    part = y[:, first:] if instance_first else y[:, :first]
    torch.testing.assert_close(part, norm.batch(batches))


def test_instance_part_ignores_contrast_and_brightness() -> None:
    norm, x = layer(), torch.randn(3, 10, 6, 6).double()
    gain, shift = torch.rand(3, 10, 1, 1).double() + 0.5, torch.randn(3, 10, 1, 1).double()
    before, after = norm(x), norm(x * gain + shift)
    torch.testing.assert_close(after[:, :5], before[:, :5], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(after[:, 5:], before[:, 5:], atol=1e-1)


def test_as_many_parameters_as_one_norm() -> None:
    assert sum(p.numel() for p in IBN(64).parameters()) == 128
