"""Tables: their training, and what their file says of rows that it has never seen."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tester import TaskTester
from torch import nn

from sinet.data import open_dataset
from sinet.data.columns import Columns
from sinet.data.dataset import ImageDataset
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.deployment.predictor import Predictor
from sinet.measurement.verify import verify
from sinet.models.tabular import TableNet
from sinet.tasks.signatures.tabular import Answers
from sinet.tasks.tabular import Tabular
from sinet.training.evaluate import evaluate
from sinet.training.loader import eval_batches
from sinet.training.recipe import Recipe

COLOURS = ("red", "green", "blue")


def write(folder: Path, count: int = 90) -> Path:
    """Rows whose class is told by a number and a colour; some cells are empty."""
    rng = np.random.default_rng(0)
    path = folder / "cars.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["speed", "weight", "colour", "label"])
        for i in range(count):
            label = i % 3
            speed = "" if i % 11 == 5 else f"{100 + 40 * label + rng.normal(0, 10):.2f}"
            colour = "" if i % 13 == 7 else COLOURS[label if i % 4 else (label + 1) % 3]
            writer.writerow([speed, f"{rng.normal(1500, 200):.1f}", colour, "abc"[label]])
    return path


@pytest.fixture(scope="module", autouse=True)
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    TestTabular.file = write(tmp_path_factory.mktemp("tables"))
    return TestTabular.file


class TestTabular(TaskTester):
    task = Tabular
    metric_names = frozenset({"val/loss", "val/top1", "val/f1", "val/auc"})
    file = Path()

    @property
    def preprocess(self) -> Columns:  # type: ignore[override]
        found = Tabular.stats(self.data())
        assert isinstance(found, Columns)
        return found

    def data(self) -> ImageDataset:
        return open_dataset(self.file, task="tabular")

    def network(self) -> nn.Module:
        return TableNet("snn", 3, self.preprocess.channels, depth=2, width=16, drop_rate=0.1)


@pytest.fixture(scope="module")
def made(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, Metadata]:
    folder, tester = tmp_path_factory.mktemp("files"), TestTabular()
    data, columns = tester.data(), tester.preprocess
    torch.manual_seed(0)
    network = tester.network().eval()
    body = export_network(network, columns.shape, columns.channels, folder / "body.onnx")
    facts = Metadata(data.classes, data.class_ids, columns, "net@3", task="tabular")
    return assemble(body, columns, facts, folder / "model.onnx"), network, facts


def test_a_file_says_what_the_network_says(made: tuple[Path, nn.Module, Metadata]) -> None:
    file, network, facts = made
    data = TestTabular().data()
    files = {"fp32": file, "int8": None}
    verdict = verify(network, facts, files, data.val, threads=1, seconds=0.1)
    assert verdict.rows[1].max_difference < 1e-5
    assert verdict.images == len(data.val)
    assert verdict.rows[0].metric == verdict.rows[1].metric


def test_a_table_is_answered_row_by_row(
    made: tuple[Path, nn.Module, Metadata], table: Path, tmp_path: Path
) -> None:
    predictor = Predictor(made[0])
    new = tmp_path / "new.csv"
    # other columns besides, another order, an empty cell, a colour that nobody has seen
    new.write_text("colour,owner,weight,speed\nred,x,1500,100\n,y,1400,\nlilac,z,1300,120\n")
    (found,) = predictor.predict([new])
    assert isinstance(found, Answers)
    rows = found.rows()
    assert [row["row"] for row in rows] == [1, 2, 3]
    assert [row["strange"] for row in rows] == [0, 0, 1]
    assert list(rows[0]) == ["row", "label", "id", "score", "strange"]
    one_by_one = [predictor.run(predictor.read(new)[i : i + 1]) for i in range(3)]
    for row, alone in zip(found.answers, one_by_one, strict=True):
        np.testing.assert_allclose(row.probabilities, alone["probabilities"][0], atol=1e-6)
    (whole,) = predictor.predict([table])
    assert len(whole.rows()) == 90
    assert whole.to_json()["rows"][3]["probabilities"].keys() == {"a", "b", "c"}


def test_a_table_that_cannot_be_read_says_where(
    made: tuple[Path, nn.Module, Metadata], tmp_path: Path
) -> None:
    new = tmp_path / "new.csv"
    new.write_text("colour,weight,speed\nred,1500,fast\n")
    (found,) = Predictor(made[0]).predict([new])
    assert "new.csv, line 2: 'fast' in column 'speed' is no number" in str(found.error)
    assert found.rows() == [{"row": "", "label": "", "id": "", "score": "", "strange": ""}]


def test_the_file_needs_nothing_but_numbers(made: tuple[Path, nn.Module, Metadata]) -> None:
    opened = ort.InferenceSession(str(made[0]))
    (entry,) = opened.get_inputs()
    assert (entry.name, entry.type, entry.shape[1]) == ("images", "tensor(float)", 3)
    rows = np.array([[120, 1500, 2], [np.nan, np.nan, np.nan], [120, 1500, -1]], np.float32)
    probabilities, strange = opened.run(["probabilities", "strange"], {"images": rows})
    assert np.isfinite(probabilities).all()
    assert strange.tolist() == [0, 0, 1]


def test_a_class_without_validation_rows_spoils_no_metric(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + "500,1500,red,d\n")
    data = open_dataset(path, task="tabular")
    columns = Tabular.stats(data)
    network = TableNet("snn", 4, columns.channels, depth=2, width=16)
    task = Tabular(network, data, Recipe(), columns)
    found = evaluate(task, network, eval_batches(task.val_source(), 8))
    rows, labels = task.val_source().__getitems__(list(range(len(data.val))))
    with torch.inference_mode():
        scores = network.eval()(rows).softmax(1)
    assert data.val.per_class(4) == [6, 6, 6, 0]
    pairs = [(scores[labels == k, k], scores[labels != k, k]) for k in range(3)]
    by_hand = [(own[:, None] > other).double().mean().item() for own, other in pairs]
    assert found["val/auc"] == pytest.approx(sum(by_hand) / 3, abs=1e-5)


def test_what_is_tried() -> None:
    specs = Tabular.specs([], TestTabular().data())
    assert {(s.kwargs["depth"], s.kwargs.get("form", "rect")) for s in specs} == {
        (depth, form) for depth in (4, 8, 16) for form in ("rect", "conic")
    }
    assert [s.name for s in specs].count("table_batchnorm") == 1
    for spec in specs:
        assert spec.create(3, 9)(torch.zeros(2, 9)).shape == (2, 3)
