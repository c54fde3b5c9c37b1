"""Every mistake gets one clear line and its exit code; nothing is executed, nothing is lost."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import draw
from typer.testing import Result

Run = Callable[..., Result]


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


def said(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    for word in words:
        assert word in " ".join(result.output.split())


def test_missing_folder(sinet: Run, tmp_path: Path) -> None:
    said(sinet("inspect", tmp_path / "nowhere"), 3, "does not exist")


def test_empty_folder(sinet: Run, tmp_path: Path) -> None:
    said(sinet("inspect", tmp_path), 3, "is empty")


def test_one_class_only(sinet: Run, tmp_path: Path) -> None:
    said(sinet("inspect", draw(tmp_path, 4, ("cat",))), 3, "only one class")


def test_class_in_val_absent_from_train(sinet: Run, tmp_path: Path) -> None:
    draw(tmp_path / "train", 3)
    draw(tmp_path / "val", 3, ("dark", "light", "odd"))
    said(sinet("inspect", tmp_path), 3, "without a training image", "'odd'")


def test_too_many_broken_images(sinet: Run, tmp_path: Path) -> None:
    draw(tmp_path, 4)
    for path in (tmp_path / "dark").iterdir():
        path.write_bytes(b"")
    said(sinet("train", tmp_path, "--out", tmp_path / "run"), 3, "cannot be read")


def test_archive_that_points_outside(sinet: Run, tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../evil/a.png", b"x")
    said(sinet("inspect", archive), 3, "outside")
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--budget", "fast"), "not understood"),
        (("--budget", "0ms"), "not above zero"),
        (("--model", "sinet_smal"), "'sinet_small'"),
        (("--model", "sinet_test", "--recipe", "defalt"), "'default'"),
        (("--model", "sinet_test", "learning_rate=1"), "unknown recipe key"),
        (("--model", "sinet_test", "nonsense"), "key=value"),
        (("--profile", "absent.json"), "absent.json"),
    ],
)
def test_wrong_options(
    sinet: Run, photos: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    result = sinet("fit", photos, *words, "--out", tmp_path / "run", "--minutes", "0.02")
    assert result.exit_code in (2, 3), result.output
    assert expected in " ".join(result.output.split())


def test_no_time(sinet: Run, photos: Path, tmp_path: Path) -> None:
    said(sinet("fit", photos, "--minutes", "-1", "--out", tmp_path / "run"), 2, "above 0")


def test_malformed_recipe(sinet: Run, photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("lr: [0.1\n")
    result = sinet("train", photos, "--model", "sinet_test", "--recipe", recipe, "--out", tmp_path)
    said(result, 2, "not valid YAML", "line")


def test_impossible_budget_still_gets_a_report(sinet: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = sinet("fit", photos, "--model", "sinet_test", "--budget", "0.0001ms", "--out", out)
    said(result, 4, "nearest: sinet_test")
    assert "sinet_test" in (out / "report.html").read_text()


@pytest.mark.parametrize("content", [b"", b"\x08\x07garbage", b"PK\x03\x04"])
def test_damaged_model(sinet: Run, photos: Path, tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(content)
    said(sinet("val", model, photos), 2, "model.onnx")


def test_pickles_are_refused_unread(sinet: Run, photos: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for name in ("model.onnx", "weights.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Malicious(mark)))
    said(sinet("predict", tmp_path / "model.onnx", photos / "dark"), 2, "model.onnx")
    result = sinet("train", photos, "--model", "sinet_test", "--size", 16,
                   "--weights", tmp_path / "weights.pth", "--out", tmp_path / "run")  # fmt: skip
    said(result, 2, "weights.pth")
    assert not mark.exists()
