from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sinet.deployment.predictor import Predictor
from sinet.deployment.ship import Card, ship
from sinet.errors import UsageError

from .making import CLASSES, IDS, make_file, make_trained, pictures

CARD = Card(
    name="pets",
    data="pets/: 4 classes, 1,000 images",
    metric_name="val/top1",
    metric=0.912,
    low=0.9,
    high=0.924,
    images=500,
    latency="3.10 ms (3.00-3.30), batch 1, 2 threads, onnxruntime",
    hardware="test machine",
    command="sinet fit pets/ --budget 10ms",
)
# Stands for an environment in which nothing but onnxruntime, numpy and pillow is installed.
BLOCK = """
import runpy, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "sinet", "timm", "torchvision", "onnx", "lightning"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Block())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(folder: Path, files: list[Path]) -> list[list[str]]:
    command = [sys.executable, "-c", BLOCK, str(folder / "run.py"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    return [line.split("\t") for line in done.stdout.splitlines()]


def many_formats(folder: Path) -> list[Path]:
    """Colour, grey, transparent, 16-bit, palette, rotated, inverted print colours, two frames."""
    files = []

    def save(name: str, image: Image.Image, **options: object) -> None:
        files.append(folder / name)
        image.save(files[-1], **options)  # type: ignore[arg-type]

    for seed, hw in enumerate([(48, 48), (70, 41), (33, 120), (300, 200), (5, 9)]):
        save(f"colour{seed}.png", Image.fromarray(pictures(1, *hw, seed=seed)[0]))
        save(f"photo{seed}.jpg", Image.fromarray(pictures(1, *hw, seed=seed + 9)[0]))
    rgb = Image.fromarray(pictures(1, 60, 40, seed=3)[0])
    save("alpha.png", Image.fromarray(pictures(1, 60, 40, channels=4)[0], "RGBA"))
    save("grey.png", rgb.convert("L"))
    save("palette.gif", rgb.convert("P"), transparency=3)
    save("print.jpg", rgb.convert("CMYK"))
    deep = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
    save("deep.png", Image.fromarray(deep))
    save("frames.gif", rgb.convert("P"), save_all=True, append_images=[rgb.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    save("turned.jpg", rgb, exif=exif)
    return files


@pytest.fixture(scope="module")
def folder(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ship(tmp_path_factory.mktemp("ship"), model_file, CARD)


def test_folder_is_complete(folder: Path, model_file: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.onnx", "labels.txt", "card.json", "README.md", "run.py"}
    assert (folder / "model.onnx").read_bytes() == model_file.read_bytes()
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == CLASSES


def test_card_holds_what_was_measured_and_what_the_file_says(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["metric"] == CARD.metric
    assert card["class_ids"] == IDS
    assert card["licence"] == "MIT"
    assert card["preprocess"]["size"] == 48


@pytest.mark.parametrize(
    "text",
    ["license: mit", "91.20%", "90.00% to 92.40%", CARD.latency, CARD.hardware, "dög", "bird\\|x",
     "Short side to 53 pixels", "## Limitations", "sinet fit pets/", "python run.py", "500 images"],
)  # fmt: skip
def test_readme_says(folder: Path, text: str) -> None:
    assert text in (folder / "README.md").read_text(encoding="utf-8")


def test_runs_alone_and_agrees_on_every_image(folder: Path, tmp_path: Path) -> None:
    files = many_formats(tmp_path)
    expected = list(Predictor(folder / "model.onnx").predict(files))
    found = run_alone(folder, files)
    assert len(found) == len(files) == 17
    for line, result in zip(found, expected, strict=True):
        assert result.error is None
        assert line == [result.source, result.label, str(result.id), f"{result.score:.4f}"]
    assert len({result.label for result in expected}) > 1


def test_alone_reports_what_it_cannot_read(folder: Path, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    bad.write_bytes(b"no picture")
    Image.fromarray(pictures(1, 20, 20)[0]).save(good)
    first, second = run_alone(folder, [bad, good])
    assert first[:2] == [str(bad), "error"]
    assert second[1] in CLASSES


def test_grey_models_with_several_labels_run_alone(tmp_path: Path) -> None:
    trained = make_trained(tmp_path / "training", channels=1, multilabel=True)
    folder = ship(tmp_path / "ship", make_file(trained, tmp_path / "model.onnx"), CARD)
    files = many_formats(tmp_path)
    expected = {
        (result.source, label)
        for result in Predictor(folder).predict(files)
        for label in result.labels
    }
    assert {(line[0], line[1]) for line in run_alone(folder, files)} == expected


def test_run_py_is_about_thirty_lines() -> None:
    from sinet.deployment.ship import _template

    lines = [line for line in _template("run_classify.py").splitlines() if line.strip()]
    assert len(lines) <= 35


def test_damaged_models_do_not_ship(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(io.BytesIO(b"junk").getvalue())
    with pytest.raises(UsageError, match="not a whole ONNX file"):
        ship(tmp_path / "ship", tmp_path / "model.onnx", CARD)
    assert not (tmp_path / "ship").exists()
