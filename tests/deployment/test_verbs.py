from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from sinet.cli import guarded
from sinet.cli.export import export
from sinet.cli.predict import predict
from sinet.deployment.artifact import make_artifact
from sinet.deployment.predictor import Predictor
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

from .making import CLASSES, IDS, make_file, make_trained, pictures


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(guarded(predict))
    app.command()(guarded(export))
    return app


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(pictures(1, 50, 60, seed=i)[0]).save(folder / f"{i}.png")
    Image.fromarray(pictures(1, 50, 60, seed=9)[0]).save(folder / "more" / "9.jpg")
    (folder / "1.png").write_bytes(b"broken")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_csv_has_a_row_for_each_image(
    app: typer.Typer, model_file: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.csv"
    done = CliRunner().invoke(
        app, ["predict", str(model_file), str(photos), "--out", str(out), "--top", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "4 images, 1 unreadable" in done.output
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label", "id", "score", "label2", "id2", "score2", "error"]
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png", "9.jpg"]
    good = next(Predictor(model_file).predict([photos / "0.png"]))
    assert (rows[0]["label"], rows[0]["id"]) == (good.label, str(good.id))
    assert float(rows[0]["score"]) >= float(rows[0]["score2"])
    assert rows[1]["label"] == ""
    assert "not an image" in rows[1]["error"]


def test_json_holds_all_of_the_answers(
    app: typer.Typer, model_file: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.json"
    pattern = str(photos / "*.png")
    done = CliRunner().invoke(app, ["predict", str(model_file), pattern, "--out", str(out)])
    assert done.exit_code == 0, done.output
    answers = json.loads(out.read_text(encoding="utf-8"))
    expected = Predictor(model_file).predict(sorted(photos.glob("*.png")))
    assert answers == [result.to_json() for result in expected]
    assert [bool(answer["error"]) for answer in answers] == [False, True, False]
    assert set(answers[0]["probabilities"]) == set(CLASSES)
    assert answers[0]["id"] == IDS[CLASSES.index(answers[0]["label"])]  # of its own type


def test_few_images_are_shown_as_a_table(app: typer.Typer, model_file: Path, photos: Path) -> None:
    done = CliRunner().invoke(app, ["predict", str(model_file), str(photos / "0.png"), "gone.jpg"])
    assert done.exit_code == 0
    assert "2 images, 1 unreadable" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing/*.png"], "nothing matches"),
        (["."], "no images in"),
        (["a.png", "--out", "results.txt"], "neither .csv nor .json"),
        (["a.png", "--engine", "tensort"], "unknown engine"),
    ],
)
def test_wrong_usage_ends_with_2(
    app: typer.Typer,
    model_file: Path,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["predict", str(model_file), *arguments])
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_export_of_a_training(app: typer.Typer, trained: Trained, tmp_path: Path, to: str) -> None:
    if to == "openvino":
        pytest.importorskip("openvino")
    out = tmp_path / ("m.onnx" if to == "onnx" else "m.xml")
    done = CliRunner().invoke(app, ["export", str(trained.folder), "--to", to, "--out", str(out)])
    assert done.exit_code == 0, done.output
    images = pictures(2, 70, 50)
    engine = "onnxruntime" if to == "onnx" else "openvino"
    found = Predictor(out, engine).run(images)["probabilities"]
    expected = Predictor(trained.folder, "torch").run(images)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_second_look_is_in_the_file(tmp_path: Path) -> None:
    plain, images = make_trained(tmp_path), pictures(2, 60, 60)
    once = Predictor(tmp_path, "torch").run(images, raw=True)["logits"]
    replace(plain, recipe=Recipe(tta=True)).save()
    file = make_artifact(tmp_path, tmp_path / "m.onnx")
    twice = Predictor(tmp_path, "torch").run(images, raw=True)["logits"]
    found = Predictor(file).run(images, raw=True)["logits"]
    np.testing.assert_allclose(found, twice, atol=1e-3)
    assert np.abs(found - once).max() > 0.1


def test_export_of_int8_calibrates_on_data(
    app: typer.Typer, trained: Trained, tmp_path: Path
) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(pictures(1, 50, 50, seed=i)[0]).save(
                tmp_path / "data" / label / f"{i}{label}.png"
            )
    out = tmp_path / "m.onnx"
    given = ["export", str(trained.folder), "--precision", "int8", "--out", str(out)]
    refused = CliRunner().invoke(app, given)
    assert refused.exit_code == 2
    assert "--data" in refused.output
    done = CliRunner().invoke(app, [*given, "--data", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    assert Predictor(out).metadata.precision == "int8"


def test_export_takes_what_a_fit_made(app: typer.Typer, trained: Trained, tmp_path: Path) -> None:
    ready = make_file(trained, tmp_path / "work" / "int8.onnx")
    done = CliRunner().invoke(app, ["export", str(tmp_path), "--precision", "int8"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "model_int8.onnx").read_bytes() == ready.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onx"], "did you mean 'onnx'"),
        (["--precision", "int4"], "unknown precision"),
        (["--out", "m.xml"], "end in .onnx"),
        ([], "no such model"),
    ],
)
def test_wrong_export_ends_with_2(
    app: typer.Typer, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path), *arguments])
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")
