"""Peaks are physical; known work gives the right rate; the copy on disk is used and repaired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import conv, gemm

from sinet.errors import DataError
from sinet.measurement import machine as module
from sinet.measurement.latency import compare, session
from sinet.measurement.layers import by_operator, layer_times
from sinet.measurement.machine import (
    Machine,
    Peak,
    cache_dir,
    copy_bandwidth,
    describe,
    efficiency,
    gemm_onnx,
    gemm_torch,
    machine,
)


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    module._machine.cache_clear()


@pytest.fixture
def described() -> Machine:
    peaks = (Peak(1, 100, 50, 400, 10), Peak(4, 300, 150, 1200, 30))
    return Machine(**describe(), peaks=peaks)


def test_a_known_product_gives_the_right_rate(tmp_path: Path) -> None:
    n = 384
    opened = session(gemm(tmp_path / "g.onnx", n), 1)
    inputs = {"a": np.ones((n, n), np.float32)}
    latency = compare({"g": lambda: opened.run(None, inputs)}, seconds=0.3, threads=1)["g"]
    achieved, share = efficiency(n**3, latency.median_ms, peak=1e9)
    assert achieved == pytest.approx(2 * n**3 / (latency.median_ms * 1e-3) / 1e9)
    assert 0.1 < achieved < 2000, "one core of anything: between a toy's and the fastest there is"
    assert share == pytest.approx(achieved / 1e9)


def test_rates_are_physical() -> None:
    f32, onnx = gemm_torch(torch.float32, 0.1, 256), gemm_onnx("f32", 1, 0.1, 256)
    int8, copy = gemm_onnx("int8", 1, 0.1, 256), copy_bandwidth(0.05)
    for rate in (f32, onnx, int8, copy):
        assert 0 < rate.median <= rate.best * (1 + 1e-9)
    assert max(f32.best, onnx.best) < 5000
    assert int8.best < 40000
    assert 0.5 < copy.best < 2000


def test_the_peak_for_a_thread_count_is_the_next_lower_measured(described: Machine) -> None:
    assert [described.peak(t).threads for t in (1, 2, 3, 4, 64)] == [1, 1, 1, 4, 4]


def test_peaks_are_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def fake(threads: int) -> Peak:
        measured.append(threads)
        return Peak(threads, 100.0 + len(measured), 1, 1, 1, steady=len(measured) > 2)

    monkeypatch.setattr(module, "measure_peak", fake)
    monkeypatch.setattr(module, "default_threads", lambda: 2)
    monkeypatch.setattr(module, "describe", lambda: {**describe(), "cores": 2})
    first = machine()
    assert measured == [1, 2]
    assert machine() is first
    module._machine.cache_clear()  # another process: what was unsteady is measured again
    second = machine()
    assert measured == [1, 2, 1, 2]
    assert [p.f32 for p in second.peaks] == [103, 104]
    module._machine.cache_clear()
    assert machine() == second
    assert len(measured) == 4
    (path,) = cache_dir().glob("machine-*.json")
    path.write_text("{")  # cut short
    module._machine.cache_clear()
    machine()
    assert len(measured) == 6
    machine(refresh=True)
    assert len(measured) == 8


def test_the_better_of_two_measurements_is_kept() -> None:
    best = Peak(2, 10, 1, 5, 3, steady=False).best_of(Peak(2, 8, 2, 6, 1))
    assert best == Peak(2, 10, 2, 6, 3, steady=True)


def test_round_trip_and_damage(described: Machine) -> None:
    assert Machine.from_dict(described.to_dict()) == described
    with pytest.raises(DataError, match="malformed machine description"):
        Machine.from_dict({"cpu": "x"})


def test_the_hardware_line_names_what_decides_speed(described: Machine) -> None:
    line = replace(described, cpu="Chip", cores=4, memory_gb=8.2, flags=("avx2", "avx512_vnni"),
                   gpu="Card").hardware  # fmt: skip
    assert line == "Chip, 4 cores, 8 GB, avx512_vnni, Card"


@pytest.mark.parametrize(("groups", "macs"), [(1, 16**2 * 32 * 32 * 9), (32, 16**2 * 32 * 9)])
def test_layers_know_their_work(tmp_path: Path, described: Machine, groups: int, macs: int) -> None:
    file = conv(tmp_path / "c.onnx", 32, 16, groups)
    layers = layer_times(file, np.ones((1, 32, 16, 16), np.float32), described, 1, runs=5)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    (found,) = [layer for layer in layers if layer.op.endswith("Conv")]
    assert found.macs == macs
    assert found.dtype == "f32"
    assert found.gflops == pytest.approx(2 * macs / (max(found.ms, 1e-3) * 1e6))
    assert found.efficiency == pytest.approx(found.gflops / 100)


def test_products_with_packed_weights_know_their_work(tmp_path: Path, described: Machine) -> None:
    file = gemm(tmp_path / "g.onnx", 64)
    (layer,) = layer_times(file, np.ones((64, 64), np.float32), described, 1, runs=5)
    assert layer.macs == 64**3
    (row,) = by_operator([layer])
    assert (row.macs, row.share, row.name) == (layer.macs, layer.share, "1 x MatMul")
    assert row.efficiency == pytest.approx(layer.efficiency)
