from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.layers import FDConv2d
from sinet.layers import fd_conv as file
from sinet.layers.fd_conv import FrequencyBands, frequency_distance, frequency_groups, hermitian


def lively(layer: nn.Module) -> nn.Module:
    """Heads, spectrum and norms that all matter."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in layer.named_parameters():
        spread = 0.05 if name == "dft_weight" else 0.5
        parameter.data.normal_(0, spread, generator=generator)
    return layer.double().eval()


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, {"stride": 2, "padding": 1}),
        (1, {"bias": False}),
        (3, {"padding": "same", "dilation": 2}),
        (5, {"padding": (2, 1)}),
    ],
)
def test_starts_as_the_convolution_it_replaces(kernel: int, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(18, 21, kernel, **options).double()
    layer = FDConv2d.from_conv(conv, kernel_num=7).eval()
    x = maps(2, 18, 9, 11)
    expected = conv(x)
    assert layer(x).shape == expected.shape
    assert (layer(x) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert layer.dft_weight.dtype == torch.float64


def test_groups_are_disjoint_and_ascending() -> None:
    distance = frequency_distance(12, 10)
    for count in (1, 6, 7, 72):
        groups = frequency_groups(torch.sort(distance).indices, count)
        sizes = groups.bincount(minlength=count)
        assert sizes.max() - sizes.min() <= (72 % count > 0)
        for low in range(count - 1):
            assert distance[groups == low].max() <= distance[groups == low + 1].min()


def test_weights_of_the_groups_share_no_frequency() -> None:
    layer = lively(FDConv2d(8, 6, 3, kernel_num=5))
    each = layer.synthesize(torch.eye(5).double())
    spectra = torch.fft.rfft2(each.permute(0, 1, 3, 2, 4).reshape(5, 18, 24)).abs().flatten(1)
    similarity = F.normalize(spectra) @ F.normalize(spectra).T
    # a bin and its mirror image in the first and last column can be in two neighbouring groups
    assert (similarity - torch.eye(5)).abs().max() < 0.2
    apart = (torch.arange(5)[:, None] - torch.arange(5)).abs() > 1
    assert similarity[apart].abs().max() < 1e-9
    torch.testing.assert_close(each.sum(0), layer.synthesize(torch.ones(1, 5).double())[0])


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 8), (6, 7), (5, 1), (1, 6)])
def test_hermitian_part_is_all_that_the_processor_used(height: int, width: int) -> None:
    half = width // 2 + 1
    spectrum = torch.complex(maps(2, height, half), maps(2, height, half).flip(0))
    symmetric = hermitian(spectrum.clone(), width)
    size = {"s": (height, width)}
    torch.testing.assert_close(torch.fft.irfft2(symmetric, **size),
                               torch.fft.irfft2(spectrum, **size))  # fmt: skip
    torch.testing.assert_close(hermitian(symmetric.clone(), width), symmetric)
    torch.testing.assert_close(torch.fft.rfft2(torch.fft.irfft2(symmetric, **size)), symmetric)


@pytest.mark.parametrize("size", [(4, 6), (9, 7), (64, 64), (1, 5), (82, 21)])
def test_bands_are_the_identity_at_the_start_and_weigh_by_frequency(size: tuple[int, int]) -> None:
    bands, x = FrequencyBands(4).double(), maps(1, 4, *size)
    torch.testing.assert_close(bands(x), x, atol=1e-4, rtol=1e-4)
    for conv in bands.convs:
        conv.weight.data.zero_()
        conv.bias.data.fill_(-50)
    torch.testing.assert_close(bands(x), bands.low_passes(x)[-1])  # only the lowest band is left


def test_masks_are_exact_for_64_and_nearest_elsewhere() -> None:
    bands = FrequencyBands(4)
    rows, cols = bands.masks(64, 64)
    for mask, frequency in ((rows, torch.fft.fftfreq(64).abs()), (cols, torch.fft.rfftfreq(64))):
        for level, passed in zip((2, 4, 8), mask, strict=True):
            limit = 0.5 / level
            assert passed.equal(frequency < limit if level == 2 else frequency <= limit)
    for height, width in ((7, 12), (33, 82), (128, 200)):
        rows, cols = bands.masks(height, width)
        whole = (bands.rows[:, :, None] & bands.cols[:, None]).float()[:, None]
        nearest = F.interpolate(whole, size=(height, width // 2 + 1), mode="nearest")[:, 0]
        assert (rows[:, :, None] & cols[:, None]).equal(nearest.bool())


@pytest.mark.parametrize("kernel", [1, 3])
def test_each_image_has_its_own_weight(kernel: int) -> None:
    layer, x = (
        lively(FDConv2d(18, 20, kernel, padding=kernel // 2, kernel_num=4)),
        maps(3, 18, 8, 6),
    )
    alone = torch.cat([layer(image[None]) for image in x])
    torch.testing.assert_close(layer(x), alone)
    halves = layer(torch.cat([x, 2 * x]))
    assert not torch.allclose(2 * halves[:3], halves[3:])


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "level_groups": 2, "low_level": True}, {"local": False}]
)
def test_export_form_is_the_same_function(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix products and patches instead of transforms and grouped convolution."""
    layer = lively(FDConv2d(18, 21, 3, padding=1, kernel_num=4, act="tanh", **options))
    for size in ((6, 9), (5, 4)):
        x = maps(2, 18, *size)
        expected = layer(x)
        with monkeypatch.context() as patch:
            patch.setattr(file.torch.onnx, "is_in_onnx_export", lambda: True)
            torch.testing.assert_close(layer(x), expected, atol=1e-10, rtol=1e-10)


def test_file_carries_its_groups() -> None:
    layer, other = (FDConv2d(18, 18, 3, kernel_num=4) for _ in range(2))
    assert layer.group.dtype == torch.uint8
    layer.group.copy_(layer.group.flip(0))
    other.load_state_dict(layer.state_dict())
    assert other.group.equal(layer.group)


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (nn.Conv2d(32, 32, 3, groups=4), "4 groups"),
        (nn.Conv2d(32, 32, (1, 3)), "1x3 kernel"),
        (nn.Conv2d(32, 32, 3, padding_mode="reflect"), "reflect"),
        (nn.Conv2d(1, 32, 3), "1 input"),
        (nn.Conv2d(32, 32, 2, padding="same"), "even kernel"),
    ],
)
def test_unsuitable_convolutions_are_explained(conv: nn.Conv2d, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FDConv2d.from_conv(conv)


def test_too_many_groups_are_explained() -> None:
    with pytest.raises(UsageError, match="kernel_num=64"):
        FDConv2d(4, 4, 1)
