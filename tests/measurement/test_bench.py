"""Networks and files side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from onnx_files import classifier

from sinet.data.dataset import ImageDataset, Split
from sinet.errors import UsageError
from sinet.measurement.bench import bench, bench_networks, default_size, settled
from sinet.measurement.cost import cost
from sinet.measurement.proxy import paired_gain, shortened
from sinet.models.spec import ModelSpec


def test_names_and_files_are_timed_in_one_run(tmp_path: Path) -> None:
    file = classifier(tmp_path / "c.onnx", np.eye(3))
    network, shipped = bench(["sinet_test", str(file)], size=32, threads=1, batch=2, seconds=0.1)
    assert network.name == "sinet_test@32"
    assert network.cost == cost(ModelSpec("sinet_test", 32).create(1000), 32)
    seconds = network.latency.median_ms * 1e-3
    assert network.gflops == pytest.approx(2 * 2 * network.cost.macs / seconds / 1e9)
    assert network.latency.runs == shipped.latency.runs, "interleaved"
    assert (network.latency.batch, network.latency.threads) == (2, 1)
    assert (shipped.cost, shipped.gflops) == (None, 0.0)


def test_both_precisions_of_a_network() -> None:
    network = ModelSpec("sinet_test", 32).create(10)
    rows = bench_networks({"a": (network, 32)}, precisions=("fp32", "int8"), seconds=0.1, threads=1)
    assert [r.name for r in rows] == ["a", "a int8"]
    assert rows[1].file_mb < rows[0].file_mb


@pytest.mark.parametrize(
    ("names", "precision", "message"),
    [
        (["sinet_tset"], "fp32", "did you mean 'sinet_test'"),
        (["none.onnx"], "fp32", "no such ONNX file"),
        (["sinet_test"], "int4", "unknown precision 'int4'"),
        ([], "fp32", "nothing to time"),
    ],
)
def test_mistakes(names: list[str], precision: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench(names, size=32, precision=precision)


def test_models_know_the_size_they_were_made_for() -> None:
    assert default_size("sinet_tiny") == 224


def test_fewer_training_images_but_always_the_same(tmp_path: Path) -> None:
    pixels = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    split = Split(pixels, np.arange(50) % 2, [str(i) for i in range(50)], 1)
    data = ImageDataset(
        tmp_path, "test", ["a", "b"], ["a", "b"], False, {"train": split, "val": split}
    )
    short = shortened(data, 20)
    assert len(short.train) == 20
    assert short.train.names == shortened(data, 20).train.names
    assert len(data.train) == len(short.val) == 50
    assert shortened(data, 100) is data


def test_a_gain_is_paired_by_seed() -> None:
    mean, low, high = paired_gain([80, 82, 84], [79, 80, 81])
    assert mean == pytest.approx(2)
    assert (mean - low, high - mean) == pytest.approx((2 / 3**0.5, 2 / 3**0.5))
    assert paired_gain([80], [79]) == (1, 1, 1)


def test_what_is_timed_computes_with_numbers_of_a_usual_size() -> None:
    network = timm.create_model("test_resnet", num_classes=7).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.zeros_(module.weight)  # as many networks start their last norms
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ready = settled(network, 64)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        maps = ready.forward_features(images)
        assert not network.forward_features(images).any()
    assert 0.1 < maps.std() < 10


def test_statistics_of_small_images_are_not_of_two_values() -> None:
    # at 32 pixels the last stage of LSNet has one value an image: two images gave NaN
    network = settled(timm.create_model("lsnet_t", num_classes=10, img_size=32), 32)
    with torch.no_grad():
        assert network(torch.randn(1, 3, 32, 32)).abs().max() < 100
