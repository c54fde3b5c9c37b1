"""Super-resolution: its training, what its file gives, and how that is counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tester import TaskTester
from torch import nn
from torch.nn import functional as F
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from sinet.data.bicubic import enlarge, shrink
from sinet.data.dataset import ImageDataset
from sinet.data.image import Pixels
from sinet.data.photos import Photo
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.data.views import Smaller, ViewedSplit
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.deployment.predictor import Predictor
from sinet.errors import UsageError
from sinet.tasks.signatures import Described, signature
from sinet.tasks.signatures._tiles import tiled
from sinet.tasks.signatures.superres import BEST_PSNR, Pair, luma, psnr, ssim
from sinet.tasks.superres import SuperRes, _mirrored, _transposed, _upside_down

AXES = {"image": (2, 3), "pixels": (1, 2)}
PREPROCESS = Preprocess(20, 3, (0.0,) * 3, (1.0,) * 3, width=30, fit="none")


class Given(Photo):
    """A picture that is there already."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__("given", b"", 2)
        object.__setattr__(self, "pixels", pixels)

    def read(self, channels: int = 3) -> Pixels:
        return self.pixels  # type: ignore[attr-defined]


def scenes(count: int, seed: int = 0) -> ViewedSplit:
    """Smooth blotches with a little grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 5, 6, 3)).astype(np.uint8)
    large = np.stack([enlarge(enlarge(c, 4), 3) for c in coarse])  # 60 x 72
    large = (large + rng.integers(-6, 7, large.shape)).clip(0, 255).astype(np.uint8)
    return ViewedSplit(
        large,
        np.ones((count, 1), np.float32),
        [f"{seed}/{i}.png" for i in range(count)],
        targets=[Given(picture) for picture in large],
        views=[Smaller(2)] * count,
    )


def dataset() -> ImageDataset:
    splits = {"train": scenes(10), "val": scenes(7, seed=1)}
    root = Path("scenes")
    return ImageDataset(root, "made here", ["x2"], [2], True, splits, task="superres")


class TestSuperRes(TaskTester):
    task = SuperRes
    metric_names = frozenset({"val/loss", "val/psnr", "val/ssim", "val/gain"})
    preprocess = PREPROCESS

    def data(self) -> ImageDataset:
        return dataset()

    def network(self) -> nn.Module:
        layers = nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 12, 3, 1, 1)
        return nn.Sequential(*layers, nn.PixelShuffle(2))


class Bilinear(nn.Module):
    """Needs no training; `scale` as our networks have it."""

    scale = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear")


def test_both_sizes_are_turned_alike() -> None:
    x = torch.rand(1, 3, 6, 6)
    large = F.interpolate(x, scale_factor=2, mode="nearest")
    for turn in (_mirrored, _upside_down, _transposed):
        assert torch.equal(turn(large), F.interpolate(turn(x), scale_factor=2, mode="nearest"))


def test_networks_of_another_enlargement_are_refused() -> None:
    network = Bilinear()
    network.scale = 4
    task = TestSuperRes()
    with pytest.raises(UsageError, match=r"4 times larger, but .* 2 times; write 4 into .*scale"):
        SuperRes(network, task.data(), task.make().recipe, PREPROCESS)


def test_what_is_tried_fits_the_enlargement() -> None:
    data = dataset()
    specs = SuperRes.specs([], data)
    assert {spec.name for spec in specs} == {"cfsr_x2", "ffnet_sr_light_x2"}
    fitted = SuperRes.preprocessing(specs[0], data)
    assert (fitted.shape, fitted.fit) == ((30, 36), "none")


def facts(multiple: int = 1, channels: int = 3) -> Described:
    nothing, one = (0.0,) * channels, (1.0,) * channels
    fitted = Preprocess(20, channels, nothing, one, width=30, fit="none", multiple=multiple)
    return Described("superres", ["x2"], [2], True, fitted)


def make_file(folder: Path, known: Described, network: nn.Module) -> Path:
    fitted = known.preprocess
    body = folder / "body.onnx"
    export_network(network, fitted.shape, fitted.channels, body, ("image",))
    about = Metadata(["x2"], [2], fitted, "net@20", True, task="superres")
    return assemble(body, fitted, about, folder / "model.onnx")


@pytest.mark.parametrize(("multiple", "channels"), [(1, 3), (8, 1)])
def test_the_file_takes_any_size(tmp_path: Path, multiple: int, channels: int) -> None:
    known = facts(multiple, channels)
    torch.manual_seed(0)
    layers = nn.Conv2d(channels, 4 * channels, 3, 1, 1), nn.PixelShuffle(2)
    network = nn.Sequential(*layers).eval()
    opened = ort.InferenceSession(str(make_file(tmp_path, known, network)))
    run = signature(known).eager(network, PreprocessModule(known.preprocess))
    for shape in ((20, 30), (1, 1), (7, 250), (33, 16)):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (1, *shape, channels), dtype=np.uint8)
        (found,) = opened.run(["pixels"], {"images": images})
        assert found.dtype == np.uint8
        assert found.shape == (1, 2 * shape[0], 2 * shape[1], channels)
        with torch.inference_mode():
            expected = run(torch.from_numpy(images))["pixels"].numpy()
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert (found == expected).mean() > 0.999  # halves at the last digit aside


@pytest.mark.parametrize("multiple", [1, 8])
def test_other_engines_take_any_size(tmp_path: Path, multiple: int) -> None:
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1), nn.PixelShuffle(2)).eval()
    file = make_file(tmp_path, facts(multiple), network)
    first, second = (Predictor(file, engine, threads=1) for engine in ("onnxruntime", "openvino"))
    for shape in ((20, 30), (7, 51), (33, 16)):
        images = np.random.default_rng(0).integers(0, 256, (1, *shape, 3), dtype=np.uint8)
        ours, theirs = (p.run(images, raw=True) for p in (first, second))
        np.testing.assert_allclose(theirs["image"], ours["image"], atol=1e-4)
        assert np.abs(theirs["pixels"].astype(int) - ours["pixels"]).max() <= 1


def test_our_network_takes_any_size_and_pieces_fit_together(tmp_path: Path) -> None:
    from sinet.models import create_network

    torch.manual_seed(0)
    network = create_network("cfsr_test").eval()
    file = make_file(tmp_path, facts(), network)
    opened = ort.InferenceSession(str(file))

    def run(part: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        return dict(zip(names, opened.run(names, {"images": part}), strict=True))

    image = np.random.default_rng(0).integers(0, 256, (1, 50, 71, 3), dtype=np.uint8)
    with torch.inference_mode():
        planes = torch.from_numpy(image).permute(0, 3, 1, 2) / 255
        expected = (network(planes).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    names = ("image", "pixels")
    whole = signature(facts()).through(run, image, names)  # smaller than a piece
    assert np.abs(whole["pixels"][0].astype(int) - expected).max() <= 1
    pieces = tiled(run, image, names, AXES, (44, 44), 36)
    assert pieces["image"].shape == whole["image"].shape
    np.testing.assert_allclose(pieces["image"], whole["image"], atol=1e-5)
    assert np.abs(pieces["pixels"].astype(int) - whole["pixels"]).max() <= 1


@settings(max_examples=30, deadline=None)
@given(h=st.integers(1, 90), w=st.integers(1, 90), tile=st.integers(13, 40))
def test_pieces_are_the_whole(h: int, w: int, tile: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, h, w, 1), dtype=np.uint8)

    def piece(part: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        assert max(part.shape[1:3]) <= tile
        return {"pixels": smooth(part)}

    assert (
        tiled(piece, image, ("pixels",), AXES, (tile, tile), 6)["pixels"] == smooth(image)
    ).all()


def smooth(part: np.ndarray) -> np.ndarray:
    """Looks two pixels far."""
    planes = torch.from_numpy(part).permute(0, 3, 1, 2).double()
    out = F.avg_pool2d(planes, 5, 1, 2, count_include_pad=False)
    out = F.interpolate(out, scale_factor=2, mode="nearest")
    return out.round().byte().permute(0, 2, 3, 1).numpy()


def two(seed: int, shape: tuple[int, int] = (40, 37)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = (truth + rng.integers(-20, 21, truth.shape)).clip(0, 255).astype(np.uint8)
    return found, truth


@pytest.mark.parametrize("border", [0, 2, 4])
def test_psnr_and_ssim_are_torchmetrics(border: int) -> None:
    x, y = (luma(part) for part in two(0))
    inside = slice(border, -border or None)
    tensors = [torch.from_numpy(p[inside, inside].copy())[None, None] for p in (x, y)]
    torch.set_default_dtype(torch.float64)  # torchmetrics takes the logarithm of 255 in it
    theirs = peak_signal_noise_ratio(*tensors, data_range=255.0).item()
    torch.set_default_dtype(torch.float32)
    assert psnr(x, y, border) == pytest.approx(theirs, abs=1e-6)
    options = {"data_range": 255.0, "return_full_image": True}
    _, each = structural_similarity_index_measure(*tensors, **options)
    theirs = each[..., 5:-5, 5:-5].mean().item()  # they pad; the literature takes whole windows
    assert ssim(x, y, border) == pytest.approx(theirs, abs=1e-6)


def test_luma_is_matlabs() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    expected = [16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966]
    np.testing.assert_allclose(luma(colours)[0], expected, atol=1e-9)
    assert (luma(colours[..., :1]) == colours[..., 0]).all()


def test_scores_of_a_perfect_and_of_a_plain_answer() -> None:
    split, task = scenes(4), signature(facts())
    truths = [task.truth(split, i) for i in range(4)]
    perfect, plain = task.scorer(), task.scorer()
    perfect.update({"pixels": np.stack([t.large for t in truths])}, truths)
    plain.update({"pixels": np.stack([enlarge(t.small, 2) for t in truths])}, truths)
    assert perfect.value() == BEST_PSNR
    assert (plain.gains() == 0).all()
    assert 20 < plain.value() < 60
    low, high = plain.interval()
    assert low <= plain.value() <= high
    assert [row["name"] for row in plain.per_class()] == ["this model", "bicubic", "gain"]
    assert plain.per_class()[2] == {"name": "gain", "PSNR": "+0.00 dB", "SSIM": "+0.0000"}
    assert (plain.per_input() < perfect.per_input()).all()
    assert task.shown(plain.value()).endswith(" dB")


def test_a_tiny_picture_can_be_scored() -> None:
    large = two(1, (4, 6))[1]
    assert 0 < Pair(shrink(large, 2), large).bicubic[0] <= BEST_PSNR


def test_results_as_rows_json_and_picture() -> None:
    split, task = scenes(1), signature(facts())
    result = task.truth_result("a.png", task.truth(split, 0))
    assert result.rows() == [{"width": 72, "height": 60}]
    assert result.to_json()["size"] == [60, 72]
    assert result.draw(split.image(0)).size == (72, 60)
    (failed,) = task.failed("b.png", "zero bytes").rows()
    assert set(failed.values()) == {""}
