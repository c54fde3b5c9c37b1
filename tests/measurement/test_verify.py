"""The gate, on files small enough to know what they answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import classifier
from torch import nn

from sinet.data.dataset import Split
from sinet.data.preprocess import Preprocess
from sinet.errors import DataError, GateError
from sinet.measurement.latency import Latency
from sinet.measurement.verify import Row, decide, verify
from sinet.tasks.signatures import Described, signature
from sinet.tasks.signatures.base import wilson
from sinet.tasks.signatures.classify import mean_average_precision

WEIGHTS = np.eye(3, dtype=np.float32)


class Colours(Split):
    """Images of one colour each, of several sizes; the label is the strongest channel."""

    def __init__(self, count: int = 30) -> None:
        self.colours = np.random.default_rng(0).integers(0, 256, (count, 3), dtype=np.uint8)
        labels = self.colours.argmax(1).astype(np.int64)
        super().__init__([b""] * count, labels, [f"image {i}" for i in range(count)])

    def image(self, i: int, channels: int | None = None, at_least: int | None = None) -> np.ndarray:
        side = 4 if i % 7 else 6
        return np.broadcast_to(self.colours[i], (side, side, 3))


class MeanColour(nn.Module):
    """The network: mean colour of what `PreprocessModule` made of the image, then a linear map."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = torch.from_numpy(weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) @ self.weights


def facts(multilabel: bool = False) -> Described:
    names = ["r", "g", "b"]
    return Described(
        "classify", names, list(names), multilabel, Preprocess(4, 3, (0.0,) * 3, (1.0,) * 3)
    )


TASK = signature(facts())


def row(name: str, metric: float, ms: float | None = None) -> Row:
    latency = None if ms is None else Latency(ms, ms, ms, 9, 2)
    return Row(name, metric, metric, metric, 0.0, latency)


@pytest.mark.parametrize(
    ("int8_metric", "int8_ms", "ships", "reason"),
    [
        (0.900, 5.0, "int8", "loses 0.00 points"),
        (0.895, 5.0, "int8", "2.00 times as fast"),
        (0.894, 5.0, "fp32", "loses 0.60 points"),
        (0.900, 10.0, "fp32", "no faster"),
        (0.910, 11.0, "fp32", "gains 1.00 points"),
    ],
)
def test_int8_ships_only_if_it_loses_little_and_is_faster(
    int8_metric: float, int8_ms: float, ships: str, reason: str
) -> None:
    rows = [row("eager", 0.9), row("fp32", 0.9, 10.0), row("int8", int8_metric, int8_ms)]
    shipped, why = decide({r.name: r for r in rows}, max_drop=0.5, task=TASK)
    assert shipped == ships
    assert reason in why


def test_without_int8_fp32_ships() -> None:
    rows = {r.name: r for r in (row("eager", 0.9), row("fp32", 0.9, 10.0))}
    assert decide(rows, 0.5, TASK) == ("fp32", "FP32 ships: no INT8 file was made")


def test_the_whole_table(tmp_path: Path) -> None:
    files = {"fp32": classifier(tmp_path / "fp32.onnx", WEIGHTS), "int8": None}
    done: list[tuple[int, int]] = []
    verdict = verify(MeanColour(WEIGHTS), facts(), files, Colours(), threads=1, seconds=0.1,
                     budget_ms=1e-6, progress=lambda a, b: done.append((a, b)))  # fmt: skip
    eager, fp32 = verdict.rows
    assert verdict.shipped == "fp32"
    assert verdict.row is fp32
    assert eager.metric == fp32.metric == 1.0
    assert fp32.low == pytest.approx(wilson(1.0, 30)[0])
    assert fp32.max_difference < 1e-5
    assert fp32.latency is not None
    assert fp32.latency.threads == 1
    assert fp32.file_mb == pytest.approx((tmp_path / "fp32.onnx").stat().st_size / 1e6)
    assert fp32.memory_mb is not None
    assert fp32.memory_mb > 10
    assert not verdict.within_budget
    assert done[-1] == (30, 30)
    assert verdict.scorer.probability.shape == (30, 3)
    assert (verdict.scorer.probability.argmax(1) == Colours().labels).all()
    written = json.loads(json.dumps(verdict.to_dict()))
    assert written["shipped"] == "fp32"
    assert {"name", "metric", "max_difference", "latency", "file_mb"} <= set(written["rows"][1])


def test_a_worse_int8_file_stays_at_home(tmp_path: Path) -> None:
    files = {
        "fp32": classifier(tmp_path / "fp32.onnx", WEIGHTS),
        "int8": classifier(tmp_path / "int8.onnx", np.roll(WEIGHTS, 1, axis=0)),
    }
    verdict = verify(MeanColour(WEIGHTS), facts(), files, Colours(), threads=1, seconds=0.1)
    assert verdict.shipped == "fp32"
    assert "INT8 loses 100.00 points" in verdict.why
    assert verdict.rows[2].max_difference > 0.1


def test_images_damaged_in_the_middle_are_left_out_and_counted(tmp_path: Path) -> None:
    class Damaged(Colours):
        def image(self, i: int, *args: int) -> np.ndarray:
            if i in (0, 5):
                raise DataError(f"{self.names[i]} is cut short")
            return super().image(i, *args)

    files = {"fp32": classifier(tmp_path / "fp32.onnx", WEIGHTS), "int8": None}
    verdict = verify(MeanColour(WEIGHTS), facts(), files, Damaged(), threads=1, seconds=0.1)
    assert (verdict.images, verdict.unreadable) == (28, 2)
    assert verdict.row.metric == 1.0
    assert 5 not in verdict.used


@pytest.mark.parametrize("shift", [0.01, float("nan")])
def test_an_fp32_file_that_disagrees_stops_everything(tmp_path: Path, shift: float) -> None:
    files = {"fp32": classifier(tmp_path / "fp32.onnx", WEIGHTS, shift), "int8": None}
    with pytest.raises(GateError, match=r"fp32.onnx differs from the trained model by"):
        verify(MeanColour(WEIGHTS), facts(), files, Colours(), threads=1, seconds=0.1)


def test_multilabel_has_average_precision_and_a_bootstrap(tmp_path: Path) -> None:
    split = Colours()
    split.labels = (split.colours > 127).astype(np.float32)
    files = {"fp32": classifier(tmp_path / "fp32.onnx", WEIGHTS, multilabel=True), "int8": None}
    verdict = verify(MeanColour(WEIGHTS), facts(True), files, split, threads=1, seconds=0.1)
    assert verdict.metric_name == "val/map"
    assert verdict.row.metric == pytest.approx(1.0)
    assert verdict.row.low == pytest.approx(1.0)


def test_average_precision_by_hand() -> None:
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    labels = np.array([[1], [0], [1], [0]])
    assert mean_average_precision(scores, labels) == pytest.approx((1 / 1 + 2 / 3) / 2)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_wilson_is_an_interval_that_narrows(share: float) -> None:
    low, high = wilson(share, 100)
    wide_low, wide_high = wilson(share, 10)
    assert 0 <= wide_low <= low <= share <= high <= wide_high <= 1
    assert wilson(0.5, 0) == (0.0, 1.0)


def test_rows_without_times_cannot_be_judged() -> None:
    rows = {"eager": row("eager", 1), "fp32": row("fp32", 1), "int8": row("int8", 1)}
    with pytest.raises(ValueError, match="timed"):
        decide(rows, 0.5, TASK)
