"""Timing: in turn, honest conditions, physical limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_files import classifier, gemm

from sinet.errors import UsageError
from sinet.measurement.latency import (
    Latency,
    compare,
    compare_files,
    default_threads,
    feed,
    peak_memory_mb,
    session,
)


def test_functions_are_called_in_turn() -> None:
    calls: list[str] = []
    compare({n: lambda n=n: calls.append(n) for n in "AB"}, runs=3, warmup=1)
    assert "".join(calls) == "ABABABAB"


def test_median_and_quartiles_are_those_of_the_calls() -> None:
    now = [0.0]
    durations = iter([0.001, 0.002, 0.003, 0.004, 0.005])

    def step() -> None:
        now[0] += next(durations)

    found = compare({"a": step}, runs=5, warmup=0, threads=3, batch=2, clock=lambda: now[0])["a"]
    assert (found.q1_ms, found.median_ms, found.q3_ms) == pytest.approx((2, 3, 4))
    assert (found.runs, found.threads, found.batch, found.spinning) == (5, 3, 2, False)
    assert Latency.from_dict(found.to_dict()) == found


def test_seconds_bound_the_rounds_but_five_are_made_in_any_case() -> None:
    now = [0.0]

    def slow() -> None:
        now[0] += 10

    assert compare({"a": slow}, seconds=1, warmup=0, clock=lambda: now[0])["a"].runs == 5
    assert compare({"a": slow}, seconds=65, warmup=0, clock=lambda: now[0])["a"].runs == 7


def test_nothing_to_time() -> None:
    with pytest.raises(UsageError, match="nothing to time"):
        compare({})


def test_a_session_that_cannot_be_opened_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such ONNX file: .*none\.onnx"):
        session(tmp_path / "none.onnx")
    whole = gemm(tmp_path / "gemm.onnx", 32).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cut\.onnx is not an ONNX model"):
        session(tmp_path / "cut.onnx")


@pytest.mark.parametrize("spinning", [True, False])
def test_sessions_have_the_threads_they_state(tmp_path: Path, spinning: bool) -> None:
    options = session(gemm(tmp_path / "g.onnx", 16), 2, spinning).get_session_options()
    assert options.intra_op_num_threads == 2
    entry = options.get_session_config_entry("session.intra_op.allow_spinning")
    assert entry == ("1" if spinning else "0")


def test_inputs_fit_images_of_any_size(tmp_path: Path) -> None:
    opened = session(classifier(tmp_path / "c.onnx", np.eye(3)))
    (image,) = feed(opened, batch=2, hw=(20, 30)).values()
    assert image.shape == (2, 20, 30, 3)
    assert image.dtype == np.uint8


def test_files_are_timed_as_their_user_runs_them(tmp_path: Path) -> None:
    image = np.zeros((1, 8, 8, 3), np.uint8)
    files = {n: classifier(tmp_path / f"{n}.onnx", np.eye(3)) for n in "ab"}
    found = compare_files(files, image, threads=1, seconds=0.05, rounds=2)
    assert set(found) == {"a", "b"}
    for latency in found.values():
        assert latency.runs >= 6
        assert latency.spinning
        assert 0 < latency.q1_ms <= latency.median_ms <= latency.q3_ms


def test_memory_is_that_of_a_process_of_its_own(tmp_path: Path) -> None:
    ballast = bytearray(300 * 2**20)  # ours, which must not be counted
    small = peak_memory_mb(classifier(tmp_path / "c.onnx", np.eye(3)), (1, 8, 8, 3), 1)
    assert 20 < small < 250
    assert len(ballast) > small * 2**20
    with pytest.raises(UsageError, match="cannot be run on an image of shape"):
        peak_memory_mb(tmp_path / "c.onnx", (1, 8, 8, 4), 1)


def test_default_threads_are_few() -> None:
    assert 1 <= default_threads() <= 4
